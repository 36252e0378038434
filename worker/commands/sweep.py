"""Request a sweep: `python -m worker.commands.sweep`."""

import sys

from shared.progress.sweep_record import SweepRecord
from shared.settings import InvalidSettings
from worker.services import Wiring


def main() -> None:
    """Enqueue a sweep for the workers of the servers that the environment configures."""
    try:
        wiring = Wiring.from_environment()
    except InvalidSettings as error:
        sys.exit(f"{error}\n(if ./run.sh runs the servers, first run: set -a; . var/credentials/worker.env; set +a)")
    SweepRecord(wiring.redis).request(wiring.tasks, "by hand")
    wiring.close()


if __name__ == "__main__":
    main()
