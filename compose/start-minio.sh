#!/bin/sh
# Becomes MinIO, or its fork Silo, on the volume /srv/minio.
set -eu
# A torn (empty) event file blocks MinIO's queue on disk for ever.
for folder in /srv/minio/queue /srv/minio/queue/*; do
    for file in "$folder"/*.event; do
        if [ -f "$file" ] && [ ! -s "$file" ]; then rm -f "$file"; fi
    done
done
server=$(command -v minio || command -v silo)
exec "$server" server --address :9000 --console-address :9001 --certs-dir /srv/minio/certs /srv/minio/data
