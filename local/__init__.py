"""Start MinIO, Redis and Rowdrop's processes on this machine, for run.sh, the tests and bench."""
