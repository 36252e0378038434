"""A real MinIO and Redis, and Rowdrop's processes, on this machine: used by run.sh, the tests and bench."""
