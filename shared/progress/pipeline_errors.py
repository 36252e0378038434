"""The list of what is not published, or only in part: for the API's /errors and the command line.

- `rejected`: a CSV or bundle that is not valid.
- `held`: a CSV that is not valid, while the user's last valid row stays published (the held row).
- `ignored`: a key that is neither a user file nor a bundle.
- `dead_letter`: an event that could not be decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shared.formats.records import Reject
from shared.formats.source_keys import parse_bundle_id
from shared.progress.pipeline_status import PipelineIssue, PipelineStatus
from shared.times import format_time


def list_errors(
    rejects: Sequence[Reject],
    has_row: Callable[[str], bool],
    status: PipelineStatus | None,
    page: slice = slice(None),
) -> Iterator[dict[str, Any]]:
    """Yield the JSON fields of each error: rejects by user, then ignored keys, then dead letters.

    `has_row` returns whether a user has a row in the table. Without a status only the rejects are
    listed. Only the errors on the page are read; its start must not be negative.
    """
    start, stop, _ = page.indices(count_errors(len(rejects), status))
    for reject in rejects[start:stop]:
        yield _describe_reject(reject, is_held=has_row(reject.user_id))
    if status:
        issues = [("ignored", issue) for issue in status.ignored_keys]
        issues += [("dead_letter", issue) for issue in status.dead_letters]
        for kind, issue in issues[max(0, start - len(rejects)) : max(0, stop - len(rejects))]:
            yield _describe_issue(kind, issue)


def count_errors(reject_count: int, status: PipelineStatus | None) -> int:
    """Return the number of errors that `list_errors` yields."""
    if status is None:
        return reject_count
    return reject_count + len(status.ignored_keys) + len(status.dead_letters)


def _describe_reject(reject: Reject, *, is_held: bool) -> dict[str, Any]:
    return {
        "key": reject.key,
        # A bundle has an ID among the users, which is no user ID.
        "user_id": None if parse_bundle_id(reject.user_id) else reject.user_id,
        "kind": "held" if is_held else "rejected",
        "reason": reject.reason,
        "line": reject.line,
        "since": format_time(reject.since),
    }


def _describe_issue(kind: str, issue: PipelineIssue) -> dict[str, Any]:
    return {
        "key": issue.key,
        "user_id": None,
        "kind": kind,
        "reason": issue.reason,
        "line": None,
        "since": format_time(issue.since),
    }
