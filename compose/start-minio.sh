#!/bin/sh
# Become MinIO, with root's access only until its users are made.
#
#   start-minio.sh FOLDER USERS_ID COMMAND [ARGUMENT …]
#
# FOLDER holds MinIO's queue of events (queue/) and the id of the users that were made last (users-made).  USERS_ID is
# the id of the users that are wanted: `worker.init` makes them as root and then stops the server, which starts again
# here without root's access.  An empty USERS_ID, or MINIO_API_ROOT_ACCESS=on, leaves root's access as it is.
set -eu
folder=$1 users_id=$2
shift 2
# An empty event file, as a crash may leave it, blocks MinIO's queue on disk for ever.
for queue in "$folder"/queue "$folder"/queue/*; do
    for file in "$queue"/*.event; do
        if [ -f "$file" ] && [ ! -s "$file" ]; then rm -f "$file"; fi
    done
done
# MinIO would take these two for an old spelling of its root user.
unset MINIO_ACCESS_KEY MINIO_SECRET_KEY

made=
if [ -f "$folder/users-made" ]; then made=$(cat "$folder/users-made"); fi
if [ -n "$users_id" ] && [ "${MINIO_API_ROOT_ACCESS:-off}" != on ]; then
    if [ "$made" != "$users_id" ]; then
        MINIO_API_ROOT_ACCESS=on "$@" &
        server=$!
        trap 'kill -TERM "$server"; wait "$server"; exit 143' TERM INT
        wait "$server" # a failure ends this script, and whatever watches it starts it again
        trap - TERM INT
        printf '%s\n' "$users_id" >"$folder/users-made.new"
        mv "$folder/users-made.new" "$folder/users-made"
    fi
    export MINIO_API_ROOT_ACCESS=off
fi
exec "$@"
