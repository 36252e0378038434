"""What is in archives: reading them, their indexes, and the catalog of visible versions."""
