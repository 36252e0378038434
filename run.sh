#!/usr/bin/env bash
# Rowdrop with one command: a virtual environment, a real MinIO and Redis, and every process, until Ctrl-C.
set -euo pipefail
started_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

usage='usage: ./run.sh [--empty] [--load FOLDER]

Starts Rowdrop on this machine and says where it is.  Ctrl-C stops it; the data stays for the next run.
The first run builds MinIO, which takes about three minutes.

  --empty         put no sample files into the bucket when it is new
  --load FOLDER   drop the files of a folder; into the Rowdrop that runs, if one does

From the environment or from .env (see .env.example): API_PORT, MINIO_PORT, MINIO_CONSOLE_PORT, REDIS_PORT,
FLOWER_PORT; ROWDROP_DIR, the folder of all data (var/); MINIO_ENDPOINT and REDIS_URL to use servers you have;
MINIO_BINARY, a MinIO to use; PYTHON, the Python to use.'

arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --empty) arguments+=("$1") ;;
        --load)
            folder=${2:-}
            [ "${folder#/}" != "$folder" ] || folder=$started_in/$folder
            [ $# -gt 1 ] && [ -d "$folder" ] || { echo "rowdrop: --load needs a folder; '${2:-}' is none" >&2 && exit 2; }
            arguments+=("$1" "$folder")
            shift
            ;;
        -h | --help) echo "$usage" && exit 0 ;;
        *) echo "$usage" >&2 && exit 2 ;;
    esac
    shift
done

. local/python.sh
exec "$python" -m local.install local.run ${arguments[@]+"${arguments[@]}"}
