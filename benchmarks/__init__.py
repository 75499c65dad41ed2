"""Benchmarks: `python -m benchmarks.<name> [--json]`, one file each, one JSON object at the end."""
