"""What runs engines on this machine or a board, one runtime a file. Python 3.8 and the runtime."""
