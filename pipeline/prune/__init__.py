"""Which channels go: criteria, allocators, and the choice between them."""
