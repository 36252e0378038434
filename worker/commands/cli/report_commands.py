"""Commands that report and change nothing: status, watch, check, errors."""

import sys
import time
from typing import Any

import click
from redis.exceptions import RedisError

from shared.object_store import StoreUnavailable
from worker.commands.check import check_buckets
from worker.commands.cli.exit_codes import exit_with_attention, json_option, print_json
from worker.commands.cli.progress_bar import ProgressBar
from worker.commands.cli.settings_discovery import find_api, is_container, open_clients
from worker.commands.status import StatusReader

WATCH_INTERVAL_S = 1.0
_NEVER = "never"


def _open_reader(api_url: str | None) -> StatusReader:
    # In a checkout the user of the API has all rights that are needed, and the API's tokens.
    process = "worker" if is_container() else "api"
    clients = open_clients(process, "minio", "redis")
    api = find_api(clients.settings, api_url)
    return StatusReader(clients.output, clients.redis, api)


api_option = click.option("--api", metavar="URL", help="The address of the API, if it is another.")


@click.command(epilog="Example: rowdrop status --json", name="status")
@json_option
@api_option
@click.pass_context
def show_status(ctx: click.Context, as_json: bool, api: str | None) -> None:
    """Show rows, rejects, pending work and readiness.

    If Rowdrop is not ready, the reasons are listed, and the exit code is 1. The rest is read from
    MinIO and Redis, also while the API does not answer.
    """
    status = _open_reader(api).read_status()
    if as_json:
        print_json(status)
    else:
        click.echo("\n".join(format_status(status)))
    exit_with_attention(ctx, is_needed=not status["ready"])


@click.command(epilog="Example: rowdrop watch")
@api_option
def watch(api: str | None) -> None:
    """Show the status every second, until Ctrl-C."""
    reader = _open_reader(api)
    previous: dict[str, Any] | None = None
    while True:
        started_at = time.monotonic()
        try:
            status = reader.read_status()
            lines = [*format_status(status), *_format_changes(previous, status)]
            previous = status
        except (StoreUnavailable, RedisError) as error:
            lines = [f"MinIO or Redis is unavailable: {error}", "The next attempt is in a second."]
        click.clear()
        click.echo("\n".join([time.strftime("%H:%M:%S"), *lines, "", "Ctrl-C ends this view."]))
        time.sleep(max(0.0, WATCH_INTERVAL_S - (time.monotonic() - started_at)))


@click.command(epilog="Example: rowdrop check")
@json_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Compare the source bucket with the published files.

    Every file is read again, and nothing is changed. The exit code is 1 if there are differences.
    Held rows are no differences. While files are dropped, a difference may be a change that is not
    published yet: run the check again.
    """
    clients = open_clients("worker", "minio")
    progress = ProgressBar(0, sys.stderr, noun="CSV files")
    copies_images = clients.settings.copy_images
    differences = check_buckets(clients.source, clients.output, copies_images, progress)
    if as_json:
        print_json({"count": len(differences), "differences": differences})
    else:
        click.echo("\n".join([*differences, f"{len(differences)} differences"]))
    exit_with_attention(ctx, is_needed=bool(differences))


@click.command(epilog="Example: rowdrop errors", name="errors")
@json_option
@click.pass_context
def list_errors(ctx: click.Context, as_json: bool) -> None:
    """List rejects, held rows, ignored keys and dead letters.

    Each has its reason and what to do. The exit code is 1 if there are some.
    """
    errors, ignored_count = _open_reader(None).list_errors()
    listed_ignored = sum(error["kind"] == "ignored" for error in errors)
    if as_json:
        print_json({"count": len(errors), "ignored": ignored_count, "errors": errors})
    else:
        for error in errors:
            click.echo("\n".join(_format_error(error)))
        if ignored_count > listed_ignored:
            click.echo(f"{ignored_count - listed_ignored:,} more ignored keys are not listed")
        click.echo(f"{len(errors):,} errors")
    exit_with_attention(ctx, is_needed=bool(errors))


def format_status(status: dict[str, Any]) -> list[str]:
    """Return the lines of a status for people."""
    sweep = status["last_sweep"]
    rows = status["rows"]
    fields = {
        "ready": "yes" if status["ready"] else "no",
        "rows": "nothing is published yet" if rows is None else f"{rows:,}",
        "rejected": f"{status['rejected']:,}, and {status['held']:,} with a held row",
        "ignored": f"{status['ignored']:,} keys, {status['dead_letters']:,} dead letters",
        "pending": _format_counts(status["dirty_users"]),
        "events": f"{status['events_waiting']:,} waiting",
        "queues": _format_counts(status["queues"]),
        "last publish": status["last_publish_at"] or _NEVER,
        "last sweep": _NEVER if sweep is None else _format_sweep(sweep),
        "trust state": status["trust_state"],
    }
    lines = [f"{name:<14}{value}" for name, value in fields.items()]
    lines[1:1] = [f"  {reason}" for reason in status["reasons"]]
    return [*lines, *(f"warning       {warning}" for warning in status["warnings"])]


def _format_sweep(sweep: dict[str, Any]) -> str:
    counts = f"{sweep['objects']:,} objects, {sweep['marked']:,} users marked"
    return f"{sweep['at']} ({sweep['cause']}): {counts}"


def _format_counts(counts: dict[str, int]) -> str:
    parts = [f"{name} {count:,}" for name, count in counts.items() if count]
    return ", ".join(parts) or "nothing"


def _format_changes(previous: dict[str, Any] | None, status: dict[str, Any]) -> list[str]:
    if previous is None:
        return []
    names = ("rows", "rejected", "held", "ignored")
    changes = {name: (status[name] or 0) - (previous[name] or 0) for name in names}
    parts = [f"{name} {change:+,}" for name, change in changes.items() if change]
    return [f"last second   {', '.join(parts) or 'no change'}"]


def _format_error(error: dict[str, Any]) -> list[str]:
    line = f", line {error['line']}" if error["line"] else ""
    return [
        f"{error['key'] or '(unknown key)'}{line}: {error['kind']} since {error['since']}",
        f"  {error['reason']}",
        f"  {error['remedy']}",
    ]
