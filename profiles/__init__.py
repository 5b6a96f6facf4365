"""What a device is and allows, and what was measured on it. Imports no torch."""
