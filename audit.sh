#!/usr/bin/env bash
# Look up known vulnerabilities of all pinned packages, or write a software bill of materials (SBOM).
#
#   ./audit.sh               exit status 0: none is known; 1: some are; 3: not everything was checked
#   ./audit.sh --sbom FILE   needs no network
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

. local/python.sh
[ $# -eq 0 ] || exec "$python" -m local.audit "$@"
if ! cmp -s requirements/audit.txt .venv-audit/installed; then
    "$python" -m venv --clear .venv-audit
    if ! .venv-audit/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --only-binary :all: -r requirements/audit.txt; then
        echo "audit: pip-audit cannot be installed: nothing was checked" >&2
        exit 3
    fi
    cp requirements/audit.txt .venv-audit/installed
fi
exec .venv-audit/bin/python -m local.audit
