"""Builds the clients and parts of a process: which object gets which other ones is decided here."""
