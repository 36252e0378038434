"""What one API process holds in memory: the table that it serves, and the state of the pipeline."""
