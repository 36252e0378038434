#!/usr/bin/env bash
# Run all checks and tests.  The tests start a real MinIO and a real Redis themselves.
# Arguments are passed to pytest:
#   ./test.sh                 all tests
#   ./test.sh -k listing      only some tests
# The tests of the page need a Chromium or Chrome; without one they are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. local/python.sh
"$python" -m local.install --dev
.venv/bin/python -m tests.browser.chromium
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/codespell
.venv/bin/mypy
.venv/bin/lint-imports
exec .venv/bin/python -m pytest "$@"
