"""Bulk work on the bulk queue: sweeps, rebuilds and unpacking."""
