"""Commands that start work: sweep, rebuild, load, sample."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from shared.formats.source_keys import make_printable_path
from shared.progress.rebuilds import Rebuilds, RebuildStatus
from shared.progress.sweep_record import SweepRecord
from shared.text import format_count, format_time
from worker.commands.bulk_work import (
    RecordLost,
    read_rebuild,
    request_rebuild,
    request_sweep,
    run_sweep,
    wait_for_rebuild,
)
from worker.commands.cli.exit_codes import (
    EXIT_FAILED,
    CommandFailed,
    exit_with_attention,
    json_option,
    print_json,
)
from worker.commands.cli.progress_bar import ProgressBar
from worker.commands.cli.settings_discovery import open_clients
from worker.commands.load import Loader, LoadPlan, is_empty, make_plan
from worker.commands.sample import SAMPLE_USERS, drop_sample, remove_sample

MAX_REPORTED = 20
"""Maximum number of skipped files that are printed by name."""

wait_option = click.option("--wait", is_flag=True, help="Show the progress until it is done.")


@click.command(epilog="Example: rowdrop sweep --wait")
@wait_option
@json_option
def sweep(wait: bool, as_json: bool) -> None:
    """Request a sweep, which repairs what is out of sync.

    It compares the whole bucket with what is published, and only users that are out of sync are
    read. A sweep also runs every hour, and when events may have been lost. Ctrl-C ends the waiting,
    not the sweep.
    """
    clients = open_clients("worker", "minio", "redis")
    if not wait:
        request_sweep(SweepRecord(clients.redis), clients.tasks)
        if as_json:
            print_json({"state": "queued", "last_sweep": None})
        else:
            click.echo("The sweep is queued.  rowdrop status shows when it has run.")
        return
    click.echo("Waiting for a worker to compare the bucket …", err=True)
    last_sweep = run_sweep(clients, ProgressBar(0, sys.stderr, noun="user"))
    if as_json:
        print_json({"state": "done", "last_sweep": last_sweep.to_json()})
    else:
        objects = format_count(last_sweep.object_count, "object")
        users = format_count(last_sweep.marked_count, "user")
        click.echo(f"{objects} compared, {users} read and published")


@click.command(epilog="Example: rowdrop rebuild --wait")
@wait_option
@json_option
def rebuild(wait: bool, as_json: bool) -> None:
    """Read every user again.

    Needed after a change of IMAGES. Rows stay published during it. Ctrl-C ends the waiting, not the
    rebuild. The exit code is 6 if it fails.
    """
    clients = open_clients("worker", "minio", "redis")
    rebuilds = Rebuilds(clients.redis)
    try:
        task_id = request_rebuild(rebuilds, clients.tasks)
        if wait:
            click.echo("Waiting for a worker to start the rebuild …", err=True)
            progress = ProgressBar(0, sys.stderr, noun="user")
            status = wait_for_rebuild(rebuilds, task_id, progress)
        else:
            status = read_rebuild(rebuilds, task_id)
    except RecordLost as error:
        raise CommandFailed(str(error), EXIT_FAILED) from error
    if as_json:
        print_json(_describe_rebuild(status))
    if status.state == "failed":
        raise CommandFailed(f"the rebuild {task_id} failed: {status.error}", EXIT_FAILED)
    if not as_json:
        click.echo(_format_rebuild(status))


def _describe_rebuild(status: RebuildStatus) -> dict[str, Any]:
    times = ("queued_at", "started_at", "finished_at")
    return asdict(status) | {name: format_time(getattr(status, name)) for name in times}


def _format_rebuild(status: RebuildStatus) -> str:
    if status.state == "done":
        return f"{format_count(status.done, 'user')} read and published"
    return f"The rebuild {status.task_id} is {status.state}.  --wait shows its progress."


@click.command(epilog="Example: rowdrop load ~/users more/0001.csv")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="PATH...",
    # An unreadable path is not a wrong use: the `OSError` says more.
    type=click.Path(exists=True, readable=False, path_type=Path),
)
@click.option("--if-empty", is_flag=True, help="Load only if the bucket has no user file yet.")
@json_option
@click.pass_context
def load(ctx: click.Context, paths: tuple[Path, ...], if_empty: bool, as_json: bool) -> None:
    """Upload files and folders into the source bucket.

    Sub-folders are read, too. Each user file and bundle is uploaded by its file name, without the
    name of its folder. What is in the bucket with the same content is skipped, so an interrupted
    load can be run again. Other files are listed, and so are links, duplicates and what cannot be
    read. The exit code is then 1, as it is if there is nothing to load. What programs and the
    system write, such as a trash, is listed, too, but needs no attention.
    """
    clients = open_clients("loader", "minio")
    bucket = clients.source.bucket
    if if_empty and not is_empty(clients.source):
        click.echo(f"{bucket} has files already; nothing was loaded")
        return
    try:
        plan = make_plan(*paths)
        progress = ProgressBar(len(plan.files), sys.stderr)
        loader = Loader(clients.source, clients.create_minio_client(), progress)
        loader.load(plan)
        plan.skipped += loader.unreadable
    except OSError as error:
        message = f"loading failed: {error}\nRun the command again: loaded files are skipped."
        raise CommandFailed(message, EXIT_FAILED) from error
    if as_json:
        print_json(_describe_load(bucket, loader, plan))
    else:
        click.echo("\n".join(_format_load(bucket, loader, plan, paths)))
    # With --if-empty docker compose loads a folder at each start, which may be empty.
    is_unexpectedly_empty = not plan.files and not if_empty
    exit_with_attention(ctx, is_needed=bool(plan.skipped) or is_unexpectedly_empty)


def _describe_load(bucket: str, loader: Loader, plan: LoadPlan) -> dict[str, Any]:
    return {
        "bucket": bucket,
        "loaded": loader.loaded,
        "unchanged": loader.unchanged,
        "skipped": _describe_files(plan.skipped),
        "junk": _describe_files(plan.junk),
    }


def _describe_files(files: list[tuple[Path, str]]) -> list[dict[str, str]]:
    return [{"path": make_printable_path(str(path)), "reason": reason} for path, reason in files]


def _format_load(bucket: str, loader: Loader, plan: LoadPlan, paths: tuple[Path, ...]) -> list[str]:
    summary = f"{format_count(loader.loaded, 'file')} loaded into {bucket}"
    unchanged = format_count(loader.unchanged, "was there already", "were there already")
    lines = [f"{summary}, {unchanged}"]
    if not plan.files:
        lines = [f"{path} has no CSV, image or bundle" for path in paths if path.is_dir()]
    lines += _list_files(plan.skipped, ("file was not loaded", "files were not loaded"))
    return lines + _list_files(plan.junk, ("was skipped as junk", "were skipped as junk"))


def _list_files(files: list[tuple[Path, str]], words: tuple[str, str]) -> list[str]:
    lines = [f"{format_count(len(files), *words)}:"] if files else []
    for path, reason in files[:MAX_REPORTED]:
        lines.append(f"  {make_printable_path(str(path))}: {reason}")
    if len(files) > MAX_REPORTED:
        lines.append(f"  and {len(files) - MAX_REPORTED:,} more")
    return lines


@click.command(epilog="Examples: rowdrop sample --count 1000; rowdrop sample --remove")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=SAMPLE_USERS,
    show_default=True,
    help="The number of users.",
)
@click.option("--remove", is_flag=True, help="Delete all files that begin with sample-.")
def sample(count: int, remove: bool) -> None:
    """Upload invented users; their IDs begin with sample-."""
    clients = open_clients("init", "minio")
    minio = clients.create_minio_client()
    bucket = clients.settings.source_bucket
    if remove:
        try:
            deleted = format_count(remove_sample(minio, bucket), "file")
        except OSError as error:
            raise CommandFailed(str(error), EXIT_FAILED) from error
        click.echo(f"{deleted} deleted from {bucket}")
        return
    # Each second user has an image, and one file is invalid.
    progress = ProgressBar(count + (count + 1) // 2 + 1, sys.stderr)
    file_count = drop_sample(minio, bucket, count, progress)
    files = format_count(file_count, "file")
    click.echo(f"{files} of {format_count(count, 'user')} uploaded into {bucket}")
