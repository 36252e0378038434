module rowdrop.invalid/minio-source

go 1.24
