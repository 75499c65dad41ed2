"""Management commands that start the whole installation."""
