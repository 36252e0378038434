#!/bin/sh
# The command `rowdrop` in the containers of docker-compose.yml.
PYTHONPATH=/app exec python -P -m worker.commands.cli "$@"
