"""The worker, from a bucket event to output.csv: listener, refresh, publish, sweep, rebuild."""
