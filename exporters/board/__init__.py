"""What runs on a board: Python 3.8, numpy and one runtime."""
