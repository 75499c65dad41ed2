"""The model side: engine, gate, releases, probes. See docs/architecture."""
