"""Management commands of the legal record."""
