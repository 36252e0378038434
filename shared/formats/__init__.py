"""The formats of keys, files and events; pure functions without I/O."""
