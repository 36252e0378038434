"""Describe rebuilds, unpacks of bundles, and sweeps, as clients see them."""

from typing import Any

from shared.progress.rebuilds import RebuildStatus
from shared.progress.sweep_record import FinishedSweep
from shared.progress.unpacks import UnpackStatus
from shared.text import format_time

NO_USERS = "no file in this bundle is a user's: it makes no rows"


def describe_rebuild(status: RebuildStatus) -> dict[str, Any]:
    """Return the JSON fields of a rebuild's record; times are in ISO 8601 and UTC."""
    body = {
        "task_id": status.task_id,
        "state": status.state,
        "done": status.done,
        "total": status.total,
        "queued_at": format_time(status.queued_at),
        "started_at": format_time(status.started_at),
        "finished_at": format_time(status.finished_at),
    }
    return body | ({"error": status.error} if status.error else {})


def describe_unpack(
    status: UnpackStatus, rejected: int | None, *, may_see_contents: bool
) -> dict[str, Any]:
    """Return the JSON fields of a bundle's unpack record; times are in ISO 8601 and UTC.

    `rejected`: the number of its members that are rejects, None if it is not known.
    `may_see_contents`: with paths and reasons of ignored members.
    """
    body: dict[str, Any] = {
        "task_id": status.task_id,
        "bundle": status.bundle,
        "state": status.state,
        "done": status.done,
        "total": status.total,
        "users": status.users,
        "published": status.published,
        "rejected": rejected,
        "ignored": status.ignored,
        "started_at": format_time(status.started_at),
        "finished_at": format_time(status.finished_at),
    }
    if status.error:
        body["error"] = status.error
    if status.has_no_users:
        body["message"] = NO_USERS
    if may_see_contents:
        body["ignored_members"] = [
            {"member": number, "path": path, "reason": reason}
            for number, path, reason in status.ignored_members
        ]
    return body


def describe_sweep(sweep: FinishedSweep) -> dict[str, Any]:
    """Return the JSON fields of a finished sweep; times are in ISO 8601 and UTC."""
    return {
        "state": "done",
        "cause": sweep.cause,
        "objects": sweep.objects,
        "marked": sweep.marked,
        "started_at": format_time(sweep.started_at),
        "finished_at": format_time(sweep.finished_at),
    }
