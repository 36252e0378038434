"""Commands that report and change nothing: status, watch, check, errors."""

import sys
import time
from typing import Any
from urllib.parse import urlsplit

import click

from shared.csv_reader.decoding import excerpt
from shared.formats.source_keys import MAX_KEY_BYTES
from shared.text import format_count
from worker.commands.cli.exit_codes import (
    exit_with_attention,
    json_option,
    print_json,
)
from worker.commands.cli.progress_bar import ProgressBar
from worker.commands.cli.settings_discovery import (
    explain_server_error,
    find_api,
    is_container,
    open_clients,
)
from worker.commands.status import StatusReader
from worker.services.server_errors import SERVER_ERRORS

WATCH_INTERVAL_S = 1.0
_NEVER = "never"


def _open_reader(api_url: str | None) -> StatusReader:
    # In a checkout the user of the API has all rights that are needed, and the API's tokens.
    process = "worker" if is_container() else "api"
    clients = open_clients(process, "minio", "redis")
    api = find_api(clients.settings, api_url)
    return StatusReader(clients.source, clients.output, clients.redis, api)


def _check_url(_ctx: click.Context, _parameter: click.Parameter, url: str | None) -> str | None:
    """Return the URL. Raises `click.BadParameter` if it is not one of HTTP."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number below 65,536
        is_valid = False
    if not is_valid:
        raise click.BadParameter(
            f"{url!r} is not an address such as http://127.0.0.1:8080; "
            "it must begin with http:// or https://."
        )
    return url


api_option = click.option(
    "--api",
    metavar="URL",
    callback=_check_url,
    help="The address of the API, if it is another, such as http://127.0.0.1:8080.",
)


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
@click.pass_context
def watch(ctx: click.Context, api: str | None) -> None:
    """Show the status every second, until Ctrl-C."""
    reader = _open_reader(api)
    previous: dict[str, Any] | None = None
    while True:
        started_at = time.monotonic()
        try:
            status = reader.read_status()
            lines = [*format_status(status), *_format_changes(previous, status)]
            previous = status
        except SERVER_ERRORS as error:
            lines = [explain_server_error(error, ctx), "The next attempt is in a second."]
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
    from worker.commands.check import check_buckets  # noqa: PLC0415  pandas: slow

    clients = open_clients("worker", "minio")
    progress = ProgressBar(0, sys.stderr, noun="CSV file")
    settings = clients.settings
    differences, compared = check_buckets(
        clients.source, clients.output, settings.copy_images, progress, settings.zip_names
    )
    count = len(differences)
    if as_json:
        fields = {"count": count, "differences": differences, "compared": compared._asdict()}
        print_json(fields)
    else:
        summary = (
            f"{format_count(compared.users, 'user')} with a CSV, in "
            f"{format_count(compared.files, 'file')} and {format_count(compared.bundles, 'bundle')}"
            f", compared with {format_count(compared.rows, 'row')} and "
            f"{format_count(compared.rejects, 'reject')}"
        )
        click.echo("\n".join([*differences, summary, format_count(count, "difference")]))
    exit_with_attention(ctx, is_needed=bool(differences))


@click.command(epilog="Example: rowdrop errors", name="errors")
@json_option
@click.pass_context
def list_errors(ctx: click.Context, as_json: bool) -> None:
    """List rejects, suspicious rows, ignored keys and dead letters.

    Each has its reason and what to do, and the first ones the beginning of the line that is
    rejected. The exit code is 1 if there are some, except suspicious
    rows: they are valid, and only probably wrong.
    """
    errors, ignored_count = _open_reader(None).list_errors()
    listed_ignored = sum(error["kind"] == "ignored" for error in errors)
    if as_json:
        print_json({"count": len(errors), "ignored": ignored_count, "errors": errors})
    else:
        for error in errors:
            click.echo("\n".join(_format_error(error)))
        if ignored_count > listed_ignored:
            words = ("more ignored key is not listed", "more ignored keys are not listed")
            click.echo(format_count(ignored_count - listed_ignored, *words))
        click.echo(format_count(len(errors), "error"))
    exit_with_attention(ctx, is_needed=any(error["kind"] != "suspicious" for error in errors))


def format_status(status: dict[str, Any]) -> list[str]:
    """Return the lines of a status for people. What is usually zero is shown only if it is not."""
    sweep = status["last_sweep"]
    rows = status["rows"]
    fields = {
        "ready": "yes" if status["ready"] else "no",
        "rows": "nothing is published yet" if rows is None else f"{rows:,}",
        "rejects": _format_rejects(status["rejected"], status["held"]),
        "suspicious": _format_if_any(
            status["suspicious"],
            "valid value that is probably wrong",
            "valid values that are probably wrong",
        ),
        "ignored": _format_if_any(status["ignored"], "other file"),
        "members": _format_ignored_members(status["ignored_members"]),
        "dead letters": _format_if_any(status["dead_letters"], "unreadable event"),
        "pending": _format_counts(status["dirty_users"]) or "nothing",
        "events": _format_if_any(status["events_waiting"], "unprocessed event"),
        "queues": _format_counts(status["queues"]),
        "last publish": status["last_publish_at"] or _NEVER,
        "last sweep": _NEVER if sweep is None else _format_sweep(sweep),
        "complete": _format_trust_state(status["trust_state"], sweep),
    }
    lines = [f"{name:<14}{value}" for name, value in fields.items() if value]
    lines[1:1] = [f"  {reason}" for reason in status["reasons"]]
    return [*lines, *(f"warning       {warning}" for warning in status["warnings"])]


def _format_sweep(sweep: dict[str, Any]) -> str:
    objects = format_count(sweep["objects"], "object")
    repaired = format_count(sweep["marked"], "user")
    return f"{sweep['at']} ({sweep['cause']}): {objects} compared, {repaired} out of sync"


def _format_rejects(rejected_count: int, held_count: int) -> str:
    if not rejected_count + held_count:
        return ""
    files = format_count(rejected_count + held_count, "invalid file")
    return (
        f"{files}: {rejected_count:,} without a row, {held_count:,} with its last valid row (held)"
    )


def _format_trust_state(state: str, sweep: dict[str, Any] | None) -> str:
    match state:
        case "verified":
            return "yes, verified by a sweep" + (f" at {sweep['at']}" if sweep else "")
        case "verifying":
            return "not known yet: a sweep is running"
    return "not known: drops may have been missed, and the next sweep repairs that"


def _format_ignored_members(count: int) -> str:
    words = ("member of a bundle is not read", "members of bundles are not read")
    return f"{format_count(count, *words)}: GET /tasks says why" if count else ""


def _format_if_any(count: int, singular: str, plural: str = "") -> str:
    return format_count(count, singular, plural) if count else ""


def _format_counts(counts: dict[str, int]) -> str:
    parts = [f"{name} {count:,}" for name, count in counts.items() if count]
    return ", ".join(parts)


def _format_changes(previous: dict[str, Any] | None, status: dict[str, Any]) -> list[str]:
    if previous is None:
        return []
    names = ("rows", "rejected", "held", "suspicious", "ignored")
    changes = {name: (status[name] or 0) - (previous[name] or 0) for name in names}
    parts = [f"{name} {change:+,}" for name, change in changes.items() if change]
    return [f"last second   {', '.join(parts) or 'no change'}"]


def _format_error(error: dict[str, Any]) -> list[str]:
    line = f", line {error['line']}" if error["line"] else ""
    since = f" since {error['since']}" if error["since"] else ""
    # A key may contain control characters, which must not reach the terminal.
    key = excerpt(error["key"], MAX_KEY_BYTES) if error["key"] else "(unknown key)"
    lines = [f"{key}{line}: {error['kind']}{since}", f"  {error['reason']}"]
    if quote := error.get("quote"):
        lines.append(f"  the line is: {quote}")
    lines.append(f"  {error['remedy']}")
    if error["file"]:
        lines.append(f"  the file in the API: {error['file']}")
    return lines
