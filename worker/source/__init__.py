"""What MinIO reports about the source bucket, and how objects of it are read."""
