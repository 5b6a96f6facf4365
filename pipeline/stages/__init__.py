"""The stages that make results worth keeping, one a file."""
