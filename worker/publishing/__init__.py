"""Merge pending results into output.csv and rejects.csv; the only writer of both files."""
