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
# Arrow's own allocator keeps 10 to 20 MB in each process that has read a table, and OpenBLAS has
# buffers and threads that nothing here uses.
export ARROW_DEFAULT_MEMORY_POOL=system OPENBLAS_NUM_THREADS=1
exec "$@"
