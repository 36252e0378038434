"""Drift of a single field: each column of a row is compared."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from shared.formats.manifest import Fact, Manifest
from shared.formats.output_csv import OutputCsv
from shared.formats.records import COLUMNS, Column, CsvVersion, Person, Row, ValidCsv
from worker.commands.check import find_differences
from worker.jobs.desired_state import DesiredState
from worker.jobs.drift import find_out_of_sync_users
from worker.publishing.published_files import PublishedFiles

VERSION = CsvVersion("1.csv", "etag", 0)
PERSON = Person("Ann", "Lee", 0)
ROW = Row("1", "Ann", "Lee", 0, "src-data/1.png")
DESIRED = DesiredState(
    pd.DataFrame({"etag": ["etag"], "source": [""], "img_path": [ROW.img_path]}, index=["1"]), {}
)
each_column = pytest.mark.parametrize("column", COLUMNS[1:], ids=lambda column: column.name)


def change_field(column: Column) -> Row:
    """Return the row with another value in this column."""
    values: dict[str, Any] = {column.name: 1 if column.type == "integer" else "another"}
    return replace(ROW, **values)


def publish(row: Row) -> PublishedFiles:
    output = OutputCsv().with_changes({"1": row})
    manifest = Manifest.empty().with_changes({"1": Fact("1", VERSION, PERSON, "1.png", False)})
    return PublishedFiles(output.body, "etag", {}, "etag", manifest, True)


@each_column
def test_find_out_of_sync_users_compares_each_column(column: Column) -> None:
    assert find_out_of_sync_users(DESIRED, publish(ROW)) == set()
    assert find_out_of_sync_users(DESIRED, publish(change_field(column))) == {"1"}


@each_column
def test_find_differences_names_each_column(column: Column) -> None:
    expected = {"1": (ValidCsv(VERSION, PERSON), ROW.img_path)}
    assert list(find_differences(expected, {"1": ROW}, {})) == []
    differences = find_differences(expected, {"1": change_field(column)}, {})
    assert list(differences) == [f"1: differs in {column.name}"]
