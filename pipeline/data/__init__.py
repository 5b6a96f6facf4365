"""Data, the user's code, and digests."""
