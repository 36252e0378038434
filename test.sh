#!/usr/bin/env bash
# Every check and test, against a real MinIO and a real Redis that the tests start themselves.
#   ./test.sh                 everything            ./test.sh -k listing        what pytest is told
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. local/python.sh
"$python" -m local.install --dev
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy
.venv/bin/lint-imports
exec .venv/bin/python -m pytest "$@"
