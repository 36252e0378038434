"""The HTTP API: serves the published table and accepts user files."""
