"""Evidence on engines, from this machine or a board."""
