"""What ships, with its evidence, and how it is judged again."""
