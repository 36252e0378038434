"""From a bucket event to output.csv: listener, refresh, publish, sweep, rebuild."""
