#!/bin/sh
# Run MinIO, with root access only until its users exist.
#
#   start-minio.sh FOLDER USERS_ID COMMAND [ARGUMENT …]
#
# FOLDER contains the digest of the users that were created last (users-made).  USERS_ID is the
# digest of the required users.  If the two differ, MinIO starts with root access.  `rowdrop init`
# then creates the users as root and stops the server, which this script starts again without root
# access.  With an empty USERS_ID, or MINIO_API_ROOT_ACCESS=on, the script does not change root
# access.
set -eu
folder=$1 users_id=$2
shift 2
# MinIO would read these two as the deprecated names of the root credentials.
unset MINIO_ACCESS_KEY MINIO_SECRET_KEY

created_id=
if [ -f "$folder/users-made" ]; then created_id=$(cat "$folder/users-made"); fi
if [ -n "$users_id" ] && [ "${MINIO_API_ROOT_ACCESS:-off}" != on ]; then
    if [ "$created_id" != "$users_id" ]; then
        MINIO_API_ROOT_ACCESS=on "$@" &
        server=$!
        # A SIGTERM from outside must not be taken for the stop by `rowdrop init`.
        trap 'kill -TERM "$server"; wait "$server"; exit 143' TERM INT
        # If the server fails, this script exits (set -e), and its supervisor restarts it.
        wait "$server"
        trap - TERM INT
        # An exit status of 0 means that `rowdrop init` stopped the server: the users exist.
        printf '%s\n' "$users_id" >"$folder/users-made.new"
        mv "$folder/users-made.new" "$folder/users-made"
    fi
    export MINIO_API_ROOT_ACCESS=off
fi
exec "$@"
