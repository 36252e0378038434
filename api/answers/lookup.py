"""What several resources need: a row, and the problem if it does not exist."""

from typing import NamedTuple

from api.snapshot.view import View
from api.web.problems import Problem, build_not_ready_problem


class FoundRow(NamedTuple):
    """A user's row as JSON, and its offset among all rows in the order of the table."""

    json: bytes
    offset: int


def require_row(view: View, user_id: str) -> FoundRow:
    """Return a user's row.

    Raises a 503 before the first publish, and a 404 without a row, with the reason if it is known.
    """
    if view.table is None:
        raise build_not_ready_problem()
    row_number = view.table.find_row(user_id)
    if row_number is None:
        raise build_no_user_problem(view, user_id)
    return FoundRow(view.table.get_row_json(row_number), row_number)


def build_no_user_problem(view: View, user_id: str) -> Problem:
    """Return a 404 for a user without a row; it contains the reason of a reject."""
    reject = view.rejects.get(user_id)
    if reject is None:
        return Problem("not-found", f"User {user_id[:80]!r} has no row.")
    position = reject.key if reject.line is None else f"{reject.key}, line {reject.line}"
    detail = f"User {user_id[:80]!r} has no row: {position}: {reject.reason}"
    return Problem("not-found", detail)
