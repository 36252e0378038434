#!/bin/sh
# Run a program of supervisord.conf with its own credentials.
#
#   start.sh NAME CREDENTIALS COMMAND [ARGUMENT …]
#
# CREDENTIALS is the name, without .env, of a file of settings in $ROWDROP_DIR/credentials.  With the
# name "none" the program gets no credentials.
set -eu
name=$1 credentials=$2
shift 2
# A start after a crash finds the process by its PID and the end of its command line.
previous='' last=''
for word in "$@"; do previous=$last last=$word; done
printf '%s\n' "$$" "$previous" "$last" >"$ROWDROP_DIR/pids/$name.pid"
if [ "$credentials" != none ]; then
    set -a
    . "$ROWDROP_DIR/credentials/$credentials.env"
    set +a
fi
exec "$@"
