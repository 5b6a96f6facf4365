"""Model files and the runtimes that execute them. Imports profiles only."""
