"""What a machine tells of itself, and what is timed in it."""
