"""Merge pending results into the published table. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from shared.formats.manifest import Fact
from shared.formats.output_csv import OutputCsv
from shared.formats.records import (
    Buckets,
    CsvVersion,
    InvalidCsv,
    Person,
    ReadResult,
    Reject,
    Row,
    ValidCsv,
)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """Both published files as last read or written, with their ETags (None: no such object).

    `repaired`: the stored output.csv was edited by hand; `output` is its normalised content, which
    is not written yet.
    """

    output: OutputCsv
    output_etag: str | None
    rejects: Mapping[str, Reject]
    rejects_etag: str | None
    repaired: bool = False

    @property
    def etags(self) -> tuple[str | None, str | None]:
        """The ETags of output.csv and rejects.csv."""
        return self.output_etag, self.rejects_etag


@dataclass(slots=True)
class TableChanges:
    """The changes that a batch makes to a table, by user; None removes the user's line."""

    rows: dict[str, Row | None] = field(default_factory=dict)
    rejects: dict[str, Reject | None] = field(default_factory=dict)
    facts: dict[str, Fact | None] = field(default_factory=dict)


def merge(
    table: PublishedTable,
    results: Mapping[str, ReadResult],
    find_fact: Callable[[str], Fact | None],
    buckets: Buckets,
) -> TableChanges:
    """Compute the changes that these results make to the table.

    Pure except for `find_fact`, which returns the content of a user's last valid CSV. A valid CSV
    makes the row and removes the reject. No CSV removes both. An invalid CSV is a reject: the
    published row is held, with the current image, until the CSV is fixed or deleted.
    """
    changes = TableChanges()
    for user_id, result in results.items():
        img_path = buckets.img_path(result.image, result.image_source)
        match result.csv:
            case ValidCsv(version, person):
                row = Row(user_id, person.first_name, person.last_name, person.birthts, img_path)
                changes.rows[user_id] = row
                changes.rejects[user_id] = None
                changes.facts[user_id] = Fact(
                    user_id, version, person, result.image, False, result.image_source
                )
            case InvalidCsv():
                changes.rejects[user_id] = _make_reject(
                    user_id, result.csv, table.rejects.get(user_id)
                )
                held_row = table.output.get(user_id)
                changes.rows[user_id] = replace(held_row, img_path=img_path) if held_row else None
                changes.facts[user_id] = (
                    _make_held_fact(held_row, result, find_fact(user_id)) if held_row else None
                )
            case None:
                changes.rows[user_id] = None
                changes.rejects[user_id] = None
                changes.facts[user_id] = None
    return changes


def find_changed_users(table: PublishedTable, changes: TableChanges) -> set[str]:
    """Return the users with a row or reject that changes."""
    rows = (user_id for user_id, row in changes.rows.items() if row != table.output.get(user_id))
    return {
        *rows,
        *(
            user_id
            for user_id, reject in changes.rejects.items()
            if reject != table.rejects.get(user_id)
        ),
    }


def apply_reject_changes(
    rejects: Mapping[str, Reject], changes: Mapping[str, Reject | None]
) -> Mapping[str, Reject]:
    """Return the rejects after these changes; the same object if nothing changes."""
    if all(rejects.get(user_id) == reject for user_id, reject in changes.items()):
        return rejects
    changed = {**rejects, **changes}
    return {user_id: reject for user_id, reject in changed.items() if reject is not None}


def _make_reject(user_id: str, csv: InvalidCsv, known_reject: Reject | None) -> Reject:
    # Writing the same bytes again is not a new reject, so the reject keeps its time.
    since = (
        known_reject.since
        if known_reject and known_reject.etag == csv.version.etag
        else csv.version.last_modified
    )
    version = csv.version
    return Reject(version.source, user_id, csv.reason, csv.line, since, version.etag, csv.rules)


def _make_held_fact(held_row: Row, result: ReadResult, known_fact: Fact | None) -> Fact:
    # Without a fact, for example after the manifest was lost, the version is unknown: empty.
    version = known_fact.csv_version if known_fact else CsvVersion("", "", 0)
    person = Person(held_row.first_name, held_row.last_name, held_row.birthts)
    return Fact(held_row.user_id, version, person, result.image, True, result.image_source)
