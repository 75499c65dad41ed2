"""Pages: thin views over services (writes) and selectors (reads)."""
