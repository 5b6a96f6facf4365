"""Stages, their results, and where those are kept."""
