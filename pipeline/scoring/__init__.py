"""What one calibration pass tells of each layer."""
