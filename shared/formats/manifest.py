"""The manifest: cached facts about the CSVs behind the published rows, by ETag. Pure.

The manifest is only a cache. It may be older or newer than output.csv, or missing, because a fact
never becomes wrong. A fact is used only if its ETag equals the current CSV's ETag and its fields
equal the published row's. It is held as Arrow columns and stored as Parquet.

    csv_etag       ETag of the CSV, without quotes
    csv_since      LastModified of the CSV, in whole seconds since 1970 UTC
    csv_source     source of the CSV; empty for the user's own key, which halves the text to store
    image          key of the image, or empty
    image_source   empty if the image is the user's own; otherwise `image` is a copy of this source
                   in the output bucket
    rules          version of the cleaning rules that produced the fields
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shared.formats.records import RULES_VERSION, Buckets, CsvVersion, Person, Row
from shared.formats.source_keys import make_csv_key

if TYPE_CHECKING:
    import pandas as pd

_COLUMN_TYPES = {
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
}
_SCHEMA = pa.schema(pa.field(name, kind, nullable=False) for name, kind in _COLUMN_TYPES.items())
# Each merge appends a chunk, and every scan visits each chunk: beyond this many they are combined.
_MAX_CHUNKS = 32


class InvalidManifest(ValueError):
    """The bytes are not a valid manifest."""


@dataclass(frozen=True, slots=True)
class Fact:
    """The source of a user's published fields.

    `image` and `image_source` are as in `ReadResult`. `is_held`: the current CSV is a reject, and
    these are the fields of the last valid one.
    """

    user_id: str
    csv_version: CsvVersion
    person: Person
    image: str | None
    is_held: bool
    image_source: str = ""


class Manifest:
    """An immutable, unordered set of facts, at most one per user."""

    __slots__ = ("_table",)

    def __init__(self, table: pa.Table) -> None:
        """Wrap a `pyarrow.Table` with the manifest's columns.

        Other modules use `empty`, `decode` or `with_changes`.
        """
        self._table = table

    @classmethod
    def empty(cls) -> "Manifest":
        """Return a manifest without facts."""
        return cls(_SCHEMA.empty_table())

    @classmethod
    def decode(cls, body: bytes) -> "Manifest":
        """Parse the output of `encode`. Facts of other rules versions are kept.

        Raises `InvalidManifest` for any other bytes.
        """
        try:
            table = pq.ParquetFile(pa.BufferReader(body)).read()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name is not UTF-8
            raise InvalidManifest(f"not a Parquet file: {error}") from None
        if not table.schema.equals(_SCHEMA):
            raise InvalidManifest("the columns are not those of a manifest")
        # `get` and `with_changes` require at most one fact per user.
        if pc.count_distinct(table["user_id"]).as_py() != len(table):
            raise InvalidManifest("two facts for the same user")
        return cls(table)

    def encode(self) -> bytes:
        """Return the manifest as the bytes of a Parquet file."""
        buffer = pa.BufferOutputStream()
        pq.write_table(
            self._table, buffer, compression="lz4", use_dictionary=["rules"], write_statistics=False
        )
        return bytes(buffer.getvalue().to_pybytes())

    def with_changes(self, changes: Mapping[str, Fact | None]) -> "Manifest":
        """Return a manifest with these users' facts replaced, or removed if None.

        New facts get the current `RULES_VERSION`.
        """
        unchanged_facts = self._table
        if changes:
            changed_ids = pa.array(changes, pa.string())
            is_changed = pc.is_in(unchanged_facts["user_id"], value_set=changed_ids)
            unchanged_facts = unchanged_facts.filter(pc.invert(is_changed))
        new_facts = _build_table(fact for fact in changes.values() if fact)
        table = pa.concat_tables([unchanged_facts, new_facts])
        if table["user_id"].num_chunks > _MAX_CHUNKS:
            table = table.combine_chunks()
        return Manifest(table)

    def get(self, user_id: str) -> Fact | None:
        """Return a user's fact, or None. Scans all facts: a few milliseconds per million."""
        index = pc.index(self._table["user_id"], pa.scalar(user_id, pa.string())).as_py()
        return None if index < 0 else next(_iterate_facts(self._table.slice(index, 1)))

    def iterate_facts(self) -> Iterator[Fact]:
        """Iterate over all facts, in no order."""
        return _iterate_facts(self._table)

    def to_frame(self) -> "pd.DataFrame":
        """Return all columns as a DataFrame: text as `str`, `csv_since` and `birthts` as int64.

        The module docstring describes the columns.
        """
        table_frame: pd.DataFrame = self._table.to_pandas()
        return table_frame

    def to_output_rows(self, buckets: Buckets) -> Iterator[Row]:
        """Return the rows of these facts, unordered, to restore a lost output.csv."""
        for fact in self.iterate_facts():
            person = fact.person
            img_path = buckets.img_path(fact.image, fact.image_source)
            yield Row(fact.user_id, person.first_name, person.last_name, person.birthts, img_path)


def _build_table(facts: Iterable[Fact]) -> pa.Table:
    rows = [_list_fields(fact) for fact in facts]
    columns = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _list_fields(fact: Fact) -> tuple[object, ...]:
    """Return the values of a fact in the order of `_SCHEMA`."""
    version = fact.csv_version
    person = fact.person
    source = "" if version.source == make_csv_key(fact.user_id) else version.source
    return (
        fact.user_id,
        source,
        version.etag,
        version.last_modified,
        person.first_name,
        person.last_name,
        person.birthts,
        fact.image or "",
        fact.image_source,
        fact.is_held,
        RULES_VERSION,
    )


def _iterate_facts(table: pa.Table) -> Iterator[Fact]:
    # In batches, so that only few rows exist as Python objects at a time.
    for batch in table.to_batches(max_chunksize=10_000):
        columns = (column.to_pylist() for column in batch.columns)
        for user_id, source, etag, last_modified, *other_fields in zip(*columns, strict=True):
            first_name, last_name, birthts, image, image_source, is_held, _ = other_fields
            version = CsvVersion(source or make_csv_key(user_id), etag, last_modified)
            person = Person(first_name, last_name, birthts)
            yield Fact(user_id, version, person, image or None, is_held, image_source)
