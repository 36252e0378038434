"""What a request may ask, parsed and validated; no server and no response."""
