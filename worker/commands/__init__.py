"""Programs that people, docker compose or run.sh start, and that end when they are done."""
