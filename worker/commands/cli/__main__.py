"""Run the command line: `python -m worker.commands.cli`, which `rowdrop` starts."""

import sys

try:
    from worker.commands.cli.main import rowdrop
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    rowdrop(prog_name="rowdrop")
