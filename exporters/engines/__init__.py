"""One runtime a file; the file's name is the runtime's name in a device profile."""
