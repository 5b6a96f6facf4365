"""Repair of a pruned network without training."""
