"""Loading a folder into a real MinIO."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from tests.archives import zip_of
from tests.integration.stepping import Stepping, csv_of
from worker.load import BATCH_FILES, Bar, Loader, is_empty, load, plan


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write these files below the folder, and return it."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def loaded(rowdrop: Stepping) -> dict[str, bytes]:
    """Return key and content of all objects in the source bucket."""
    return {info.key: rowdrop.source.get(info.key).body for page in rowdrop.source.objects() for info in page}


def loader(rowdrop: Stepping, told: list[int] | None = None, *, by_tar: bool = True) -> Loader:
    done: list[int] = [] if told is None else told
    return Loader(rowdrop.source, rowdrop.wiring.init_client(), done.append, by_tar=by_tar)


def test_files_in_any_folder_are_dropped_by_their_names_and_nobodys_are_told(rowdrop: Stepping, tmp_path: Path) -> None:
    bundle = zip_of({"3.csv": csv_of()})
    files = {"1.csv": csv_of(), "photos/1.png": b"x", "old/2.csv": csv_of("Two"), "more/u.zip": bundle}
    others = {"notes.txt": b"x", "1.CSV": b"x", ".DS_Store": b"x", "z/2.csv": csv_of("Another")}
    out = io.StringIO()
    load(write(tmp_path, {**files, **others}), rowdrop.wiring, out)
    assert loaded(rowdrop) == {Path(name).name: body for name, body in files.items()}
    said = out.getvalue()
    assert "4 files loaded" in said
    assert "3 files were not loaded" in said
    assert "1.CSV: extensions are written in lower case; rename it to 1.csv" in said
    assert "z/2.csv: old/2.csv has the same name, and is loaded" in said
    assert ".DS_Store" not in said


@pytest.mark.parametrize("by_tar", [True, False])
def test_many_files_small_and_large_arrive_as_they_are(rowdrop: Stepping, tmp_path: Path, by_tar: bool) -> None:
    files = {f"{number}.csv": csv_of(f"N{number}") for number in range(2 * BATCH_FILES + 7)}
    files |= {"big.png": os.urandom(400_000), "é b+c%.csv": csv_of("Odd"), "empty.csv": b""}
    told: list[int] = []
    once = loader(rowdrop, told, by_tar=by_tar)
    once.load(plan(write(tmp_path, files)))
    assert loaded(rowdrop) == files
    assert (once.loaded, once.unchanged, told[-1]) == (len(files), 0, len(files))


def test_what_is_there_already_is_not_loaded_again(rowdrop: Stepping, tmp_path: Path) -> None:
    folder = write(tmp_path, {"1.csv": csv_of(), "2.csv": csv_of(), "big.png": os.urandom(400_000)})
    loader(rowdrop).load(plan(folder))
    (folder / "2.csv").write_bytes(csv_of("Changed"))
    again = loader(rowdrop)
    again.load(plan(folder))
    assert (again.loaded, again.unchanged) == (1, 2)
    assert rowdrop.source.get("2.csv").body == csv_of("Changed")


class KeepsTars:
    """A server without tar auto-extract: it stores the tar as an object, as S3 does."""

    def __init__(self, minio: Minio) -> None:
        self._minio = minio

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._minio, name)

    def upload_snowball_objects(self, bucket: str, members: Sequence[object]) -> object:
        return self._minio.put_object(bucket, "snowball.0.5.tar", io.BytesIO(b"tar"), 3)


def test_a_server_that_does_not_unpack_tars_gets_each_file_by_itself(rowdrop: Stepping, tmp_path: Path) -> None:
    files = {f"{number}.csv": csv_of(f"N{number}") for number in range(BATCH_FILES + 9)}
    minio = KeepsTars(rowdrop.wiring.init_client())
    Loader(rowdrop.source, minio, lambda _: None).load(plan(write(tmp_path, files)))  # type: ignore[arg-type]
    assert loaded(rowdrop) == files


def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        plan(tmp_path / "gone")


def test_a_bucket_with_nothing_but_the_sample_is_empty(rowdrop: Stepping) -> None:
    rowdrop.source.put("sample-0001.csv", csv_of())
    rowdrop.source.put("notes.txt", b"x")
    assert is_empty(rowdrop.source)
    rowdrop.source.put("u.zip", b"x")
    assert not is_empty(rowdrop.source)


def test_the_bar_ends_full(tmp_path: Path) -> None:
    now, out = [0.0], io.StringIO()
    bar = Bar(200, out, lambda: now[0])
    for done in (50, 100, 200):
        now[0] += 6
        bar(done)
    assert out.getvalue().splitlines() == [
        "[###############...............] 100 of 200 files, 8 a second",
        "[##############################] 200 of 200 files, 11 a second",
    ]
