#!/bin/sh
# Health check: succeeds if /minio/health/cluster returns 200: objects can be read and written.
# /minio/health/live and /minio/health/ready return 200 too early.
if command -v curl >/dev/null; then
    exec curl -fsS -m 5 -o /dev/null http://127.0.0.1:9000/minio/health/cluster
fi
# An image without curl: bash can open a TCP connection itself.
exec bash -c '
    exec 3<>/dev/tcp/127.0.0.1/9000
    printf "GET /minio/health/cluster HTTP/1.0\r\nHost: minio\r\n\r\n" >&3
    read -r -t 5 answer <&3
    [[ $answer == *" 200 "* ]]'
