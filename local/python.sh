# Sets `python` to a Python that can run Rowdrop: $PYTHON, or the first suitable one.  If there is
# none, exits with 1 and a message that says what to install.
# shellcheck shell=bash
python=
candidates=(python3 python3.14 python3.13 python3.12 python3.11)
[ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
# A Python without venv is used only if there is no other one: local.install then prints the remedy.
for fits in "import venv, ensurepip" "pass"; do
    for candidate in "${candidates[@]}"; do
        if [ -z "$python" ] && command -v "$candidate" >/dev/null && "$candidate" -c \
            "import sys; $fits; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))" 2>/dev/null; then
            python=$candidate
        fi
    done
done
if [ -z "$python" ]; then
    echo "rowdrop: needs Python 3.11, 3.12, 3.13 or 3.14.  Tried${PYTHON:+ PYTHON=$PYTHON}:" >&2
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" --version 2>&1) || true
        if ! command -v "$candidate" >/dev/null; then
            echo "  $candidate is not found" >&2
        elif [ "${version#Python }" != "$version" ]; then
            echo "  $candidate is $version" >&2
        else
            echo "  $candidate does not run: ${version%%$'\n'*}" >&2
        fi
    done
    remedy="or set PYTHON=/path/to/python3.12"
    [ -z "${PYTHON:-}" ] || remedy="or correct PYTHON, or unset it to use one that is installed"
    echo "Install one (apt install python3 python3-venv; brew install python@3.13), $remedy." >&2
    exit 1
fi
