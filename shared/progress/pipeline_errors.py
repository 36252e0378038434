"""The list of what needs attention: for the API's /errors and the command line.

- `rejected`: a CSV or bundle that is not valid.
- `held`: the same, while its last valid version stays in use: the row of the user (the held row),
  or the rows from the bundle.
- `suspicious`: a row that is valid, so it is published, and probably wrong.
- `ignored`: a key that is neither a user file nor a bundle.
- `dead_letter`: an event that could not be decoded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.formats.records import Reject
from shared.formats.source_keys import make_csv_key, make_file_path, parse_bundle_id
from shared.progress.pipeline_status import PipelineIssue, PipelineStatus
from shared.text import format_time

if TYPE_CHECKING:
    from shared.suspicious import SuspiciousRow, SuspiciousRows

REMEDIES = {
    "rejected": "correct the file and drop it again, or delete it",
    "held": "correct the file and drop it again; until then its last valid version stays in use",
    "suspicious": "check the row: replace or rename its file as the reason says, or keep it",
    "ignored": "give the file the name of a user file or a bundle, or delete it",
    "dead_letter": "none: the next sweep finds the change, and `rowdrop sweep` starts one",
}
"""What to do about an error, by kind."""
MAX_QUOTES = 20
"""Entries of a list that are quoted, the first ones."""
MAX_QUOTED_BYTES = 64 << 10
"""Bytes of a file that are read for a quote; a line behind them is not quoted."""


def list_errors(
    rejects: Sequence[Reject],
    has_row: Callable[[str], bool],
    suspicious_rows: "SuspiciousRows | None",
    status: PipelineStatus | None,
    page: slice = slice(None),
) -> Iterator[dict[str, Any]]:
    """Yield the JSON fields of each error, with its remedy.

    Rejects by user are followed by suspicious rows by user, ignored keys and dead letters; without
    a status only the first two are listed. `has_row` returns whether a user has a row in the table.
    Only the errors on the page are read; its start must not be negative.
    """
    suspicious_count = 0 if suspicious_rows is None else suspicious_rows.entry_count
    page = slice(*page.indices(count_errors(len(rejects), suspicious_count, status)))
    for reject in rejects[page]:
        is_held = reject.keeps_bundle_version or has_row(reject.user_id)
        yield _describe_reject(reject, is_held=is_held)
    page = _skip_entries(page, len(rejects))
    if suspicious_rows is not None:
        yield from map(_describe_row, suspicious_rows.list_entries(page))
    page = _skip_entries(page, suspicious_count)
    if status:
        issues = [("ignored", issue) for issue in status.ignored_keys]
        issues += [("dead_letter", issue) for issue in status.dead_letters]
        for kind, issue in issues[page]:
            yield _describe_issue(kind, issue)


def count_errors(reject_count: int, suspicious_count: int, status: PipelineStatus | None) -> int:
    """Return the number of errors that `list_errors` yields."""
    count = reject_count + suspicious_count
    return count + len(status.ignored_keys) + len(status.dead_letters) if status else count


def select_quotable(
    entries: Sequence[dict[str, Any]], rejects: Mapping[str, Reject]
) -> Iterator[tuple[dict[str, Any], Reject]]:
    """Yield the entries that may have a quote, each with its reject; `rejects` are by user ID.

    A reason contains nothing of the file. A quote is the beginning of the rejected line, and is
    read from the file, which must still be the rejected version. Members of bundles have none.
    """
    for entry in entries[:MAX_QUOTES]:
        # An entry without a line is not about a line of the file.
        reject = rejects.get(entry["user_id"] or "") if entry["line"] else None
        if reject and reject.line and reject.key == make_csv_key(reject.user_id):
            yield entry, reject


def _skip_entries(page: slice, count: int) -> slice:
    """Return the page of a list that lacks the first `count` entries."""
    return slice(max(0, page.start - count), max(0, page.stop - count))


def _describe_reject(reject: Reject, *, is_held: bool) -> dict[str, Any]:
    kind = "held" if is_held else "rejected"
    is_object = reject.key in {make_csv_key(reject.user_id), parse_bundle_id(reject.user_id)}
    return {
        "key": reject.key,
        # A bundle has an ID among the users, which is no user ID.
        "user_id": None if parse_bundle_id(reject.user_id) else reject.user_id,
        "kind": kind,
        "reason": reject.reason,
        "line": reject.line,
        "since": format_time(reject.since),
        "remedy": REMEDIES[kind],
        # A member of a bundle is no object of the source bucket.
        "file": make_file_path(reject.key) if is_object else None,
    }


def _describe_row(row: "SuspiciousRow") -> dict[str, Any]:
    # The user's own file replaces the row, also if the row is from a bundle.
    key = make_csv_key(row.key)
    return {
        "key": key,
        "user_id": row.key,
        "kind": "suspicious",
        "reason": row.reason,
        "line": None,
        "since": None,
        "remedy": REMEDIES["suspicious"],
        "file": make_file_path(key),
    }


def _describe_issue(kind: str, issue: PipelineIssue) -> dict[str, Any]:
    return {
        "key": issue.key,
        "user_id": None,
        "kind": kind,
        "reason": issue.reason,
        "line": None,
        "since": format_time(issue.since),
        "remedy": REMEDIES[kind],
        "file": make_file_path(issue.key) if issue.key and kind == "ignored" else None,
    }
