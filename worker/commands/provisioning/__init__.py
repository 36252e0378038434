"""Users, rights and credentials in MinIO and Redis."""
