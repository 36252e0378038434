"""Request a sweep: `python -m worker.commands.sweep`."""

import sys

from shared.progress.sweep_record import SweepRecord
from shared.settings import InvalidSettings
from worker.services import ServerClients


def main() -> None:
    """Enqueue a sweep for the workers of the servers that the environment configures."""
    try:
        clients = ServerClients.from_environment()
    except InvalidSettings as error:
        sys.exit(f"{error}\n(if ./run.sh runs the servers, first run: set -a; . var/credentials/worker.env; set +a)")
    SweepRecord(clients.redis).request(clients.tasks, "by hand")
    clients.close()


if __name__ == "__main__":
    main()
