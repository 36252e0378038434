"""The memo of facts: of which CSV, and of what in it, a user's published row was made.  Pure.

A fact stays true for ever, so the manifest may be older or newer than output.csv, or missing: a fact is believed only
if its ETag is the CSV's of now and its fields are the published row's.  Held as Arrow columns, kept as Parquet.

    csv_source     where the CSV came from; empty for the user's own key, which spares half the text of a million rows
    image          the image's key, empty without one
    image_source   empty if that is the user's own key; else the image is a copy of this, in the output bucket
    rules          the version of the cleaning rules by which the fields were made
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.keys import csv_key
from shared.records import RULES_VERSION, Buckets, CsvVersion, Person, Row

_SCHEMA = pa.schema(
    pa.field(name, kind, nullable=False)
    for name, kind in {
        "user_id": pa.string(),
        "csv_source": pa.string(),
        "csv_etag": pa.string(),
        "csv_since": pa.int64(),
        "first_name": pa.string(),
        "last_name": pa.string(),
        "birthts": pa.int64(),
        "image": pa.string(),
        "image_source": pa.string(),
        "held": pa.bool_(),
        "rules": pa.string(),
    }.items()
)
_MOST_CHUNKS = 32


class InvalidManifest(ValueError):
    """These bytes are no manifest."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What a user's published fields were made of.

    `image` and `image_source` are as in `Outcome`.  `held`: the CSV that is there now is a reject, and these are the
    fields of the last valid one.
    """

    user_id: str
    version: CsvVersion
    person: Person
    image: str | None
    held: bool
    image_source: str = ""


class Manifest:
    """Facts, at most one a user, in no order; immutable."""

    __slots__ = ("_table",)

    def __init__(self, table: pa.Table) -> None:
        """Take a `pyarrow.Table` of the manifest's columns; `decode` and `merged` are the ways to get one."""
        self._table = table

    @classmethod
    def empty(cls) -> "Manifest":
        """Without any fact."""
        return cls(_SCHEMA.empty_table())

    @classmethod
    def decode(cls, body: bytes) -> "Manifest":
        """The inverse of `encode`; facts of other rules included.  Raises `InvalidManifest` on anything not ours."""
        try:
            table = pq.ParquetFile(pa.BufferReader(body)).read()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name that is not UTF-8
            raise InvalidManifest(f"no Parquet file: {error}") from None
        if not table.schema.equals(_SCHEMA):
            raise InvalidManifest("other columns than a manifest has")
        if pc.count_distinct(table["user_id"]).as_py() != len(table):
            raise InvalidManifest("two facts of one user")
        return cls(table)

    def encode(self) -> bytes:
        """The manifest as Parquet."""
        sink = pa.BufferOutputStream()
        pq.write_table(self._table, sink, compression="lz4", use_dictionary=["rules"], write_statistics=False)
        return bytes(sink.getvalue().to_pybytes())

    def __len__(self) -> int:
        """The number of facts."""
        return int(self._table.num_rows)

    def merged(self, changes: Mapping[str, Fact | None]) -> "Manifest":
        """A manifest with these users' facts set, made by today's rules, or taken away (None)."""
        kept = self._table
        if changes:
            changed = pc.is_in(kept["user_id"], value_set=pa.array(changes, pa.string()))
            kept = kept.filter(pc.invert(changed))
        table = pa.concat_tables([kept, _table(fact for fact in changes.values() if fact)])
        return Manifest(table if table["user_id"].num_chunks <= _MOST_CHUNKS else table.combine_chunks())

    def get(self, user_id: str) -> Fact | None:
        """A user's fact.  Looks through all of them, a few milliseconds per million."""
        index = pc.index(self._table["user_id"], pa.scalar(user_id, pa.string())).as_py()
        return None if index < 0 else next(_facts(self._table.slice(index, 1)))

    def facts(self) -> Iterator[Fact]:
        """All facts."""
        return _facts(self._table)

    def frame(self) -> pd.DataFrame:
        """All columns, as the module's head tells; text as `str`, `csv_since` and `birthts` as int64."""
        frame: pd.DataFrame = self._table.to_pandas()
        return frame

    def to_output_rows(self, buckets: Buckets) -> Iterator[Row]:
        """The rows that these facts made, to begin a lost output.csv with; in no order."""
        for fact in self.facts():
            person, img_path = fact.person, buckets.img_path(fact.image, fact.image_source)
            yield Row(fact.user_id, person.first_name, person.last_name, person.birthts, img_path)


def _table(facts: Iterable[Fact]) -> pa.Table:
    rows = [
        (
            fact.user_id,
            "" if fact.version.source == csv_key(fact.user_id) else fact.version.source,
            fact.version.etag,
            fact.version.since,
            fact.person.first_name,
            fact.person.last_name,
            fact.person.birthts,
            fact.image or "",
            fact.image_source,
            fact.held,
            RULES_VERSION,
        )
        for fact in facts
    ]
    columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _facts(table: pa.Table) -> Iterator[Fact]:
    for batch in table.to_batches(max_chunksize=10_000):
        for user, source, etag, since, first, last, birthts, image, image_source, held, _ in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            version = CsvVersion(source or csv_key(user), etag, since)
            yield Fact(user, version, Person(first, last, birthts), image or None, held, image_source)
