"""What lies in the output bucket, by name."""

OUTPUT = "output.csv"
REJECTS = "rejects.csv"
MANIFEST = "manifest.parquet"
