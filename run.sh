#!/usr/bin/env bash
# Run Rowdrop with one command until Ctrl-C: a virtual environment, MinIO, Redis and all processes.
set -euo pipefail
started_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

usage='usage: ./run.sh [--empty] [--load FOLDER]

Starts Rowdrop on this machine and prints its addresses.  Ctrl-C stops it; the data is kept.
The first run builds MinIO, which takes three to five minutes.

  --empty         do not write sample files into a new source bucket
  --load FOLDER   drop the files of a folder; if Rowdrop is already running, into that one,
                  with the exit status 1 if files were not loaded

Settings from the environment or from .env (all of them: see .env.example):

  API_PORT, MINIO_PORT, REDIS_PORT
  MINIO_CONSOLE_PORT, FLOWER_PORT
                  start MinIO'"'"'s console or Flower, on this port
  ROWDROP_DIR     the data folder (default: var/)
  MINIO_ENDPOINT  an external MinIO
  REDIS_URL       an external Redis
  MINIO_BINARY    the MinIO program to run
  PYTHON          the Python to use'

refuse_argument() {
    printf 'rowdrop: %s\n\n%s\n' "$1" "$usage" >&2
    exit 2
}

arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --empty) arguments+=("$1") ;;
        --load)
            folder=${2:-}
            [ "${folder#/}" != "$folder" ] || folder=$started_in/$folder
            [ $# -gt 1 ] && [ -d "$folder" ] || { echo "rowdrop: --load needs a folder; '${2:-}' is not a folder" >&2 && exit 2; }
            arguments+=("$1" "$folder")
            shift
            ;;
        -h | --help) echo "$usage" && exit 0 ;;
        -*) refuse_argument "unknown option $1" ;;
        *) refuse_argument "unknown argument $1" ;;
    esac
    shift
done

. local/python.sh
exec "$python" -m local.install local.run ${arguments[@]+"${arguments[@]}"}
