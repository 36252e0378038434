"""The object store on any S3-compatible server, by obstore and minio-py."""
