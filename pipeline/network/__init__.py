"""A network: its groups, its plan, its weights, its costs, and running it."""
