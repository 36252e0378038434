"""Loading a folder into a real MinIO."""

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from tests.archives import make_zip
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.cli.progress_bar import ProgressBar
from worker.commands.load import (
    MAX_BATCH_FILES,
    MAX_SINGLE_PUT_BYTES,
    Loader,
    is_empty,
    make_plan,
)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write these files below the folder, and return it."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def read_bucket(rowdrop: RowdropHarness) -> dict[str, bytes]:
    """Return key and content of all objects in the source bucket."""
    return {
        info.key: rowdrop.source.get(info.key).body
        for page in rowdrop.source.list_objects()
        for info in page
    }


def create_loader(
    rowdrop: RowdropHarness, progress: list[int] | None = None, *, by_tar: bool = True
) -> Loader:
    done: list[int] = [] if progress is None else progress
    return Loader(
        rowdrop.source, rowdrop.services.clients.create_minio_client(), done.append, by_tar=by_tar
    )


def test_loader_puts_user_files_and_plan_has_others(
    rowdrop: RowdropHarness, tmp_path: Path
) -> None:
    bundle = make_zip({"3.csv": make_csv()})
    files = {
        "1.csv": make_csv(),
        "photos/1.png": b"x",
        "more/2.csv": make_csv("Two"),
        "more/u.zip": bundle,
    }
    others = {"notes.txt": b"x", "1.CSV": b"x", "z/2.csv": make_csv("Another")}
    junk = {".DS_Store": b"x", "a/._1.csv": b"x", "#recycle/9.csv": make_csv("Deleted")}
    plan = make_plan(write(tmp_path, {**files, **others, **junk}))
    create_loader(rowdrop).load(plan)
    assert read_bucket(rowdrop) == {Path(name).name: body for name, body in files.items()}
    skipped = {str(path): reason for path, reason in plan.skipped}
    assert skipped.keys() == others.keys()
    assert [str(path) for path, _ in plan.junk] == ["#recycle", ".DS_Store", "a/._1.csv"]
    assert skipped["1.CSV"] == "extensions are written in lower case; rename it to 1.csv"
    assert skipped["z/2.csv"] == (
        "it is a duplicate of more/2.csv, which is nearer to the top or the first by path"
    )


def test_make_plan_combines_files_and_folders(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a/1.csv": b"x", "b/1.csv": b"y", "b/2.csv": b"z", "notes.txt": b"x"})
    plan = make_plan(folder / "b" / "2.csv", folder / "a", folder / "b", folder / "notes.txt")
    assert [file.path for file in plan.files] == [folder / "a" / "1.csv", folder / "b" / "2.csv"]
    assert [str(path) for path, _ in plan.skipped] == ["1.csv", "2.csv", "notes.txt"]


@pytest.mark.parametrize("by_tar", [True, False])
def test_loader_puts_many_small_and_large_files_unchanged(
    rowdrop: RowdropHarness, tmp_path: Path, by_tar: bool
) -> None:
    files = {f"{number}.csv": make_csv(f"N{number}") for number in range(2 * MAX_BATCH_FILES + 7)}
    files |= {"big.png": os.urandom(400_000), "é b+c%.csv": make_csv("Odd"), "empty.csv": b""}
    progress: list[int] = []
    once = create_loader(rowdrop, progress, by_tar=by_tar)
    once.load(make_plan(write(tmp_path, files)))
    assert read_bucket(rowdrop) == files
    assert (once.loaded, once.unchanged, progress[-1]) == (len(files), 0, len(files))


def test_loader_skips_files_already_stored(rowdrop: RowdropHarness, tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"1.csv": make_csv(), "2.csv": make_csv(), "big.png": os.urandom(400_000)}
    )
    create_loader(rowdrop).load(make_plan(folder))
    (folder / "2.csv").write_bytes(make_csv("Changed"))
    again = create_loader(rowdrop)
    again.load(make_plan(folder))
    assert (again.loaded, again.unchanged) == (1, 2)
    assert rowdrop.source.get("2.csv").body == make_csv("Changed")


class KeepsTars:
    """A server without tar auto-extract: it stores the tar as an object, as S3 does."""

    def __init__(self, minio: Minio) -> None:
        self._minio = minio

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._minio, name)

    def upload_snowball_objects(self, bucket: str, members: Sequence[object]) -> object:
        return self._minio.put_object(bucket, "snowball.0.5.tar", io.BytesIO(b"tar"), 3)


def test_loader_puts_single_files_without_tar_support(
    rowdrop: RowdropHarness, tmp_path: Path
) -> None:
    files = {f"{number}.csv": make_csv(f"N{number}") for number in range(MAX_BATCH_FILES + 9)}
    minio = KeepsTars(rowdrop.services.clients.create_minio_client())
    Loader(rowdrop.source, minio, lambda _: None).load(make_plan(write(tmp_path, files)))  # type: ignore[arg-type]
    assert read_bucket(rowdrop) == files


def test_make_plan_prefers_top_then_first_by_path(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {"a/1.csv": b"x", "1.csv": b"y", "z/2.csv": b"x", "a/b/2.csv": b"y", "a-b/3.csv": b"x",
         "a/3.csv": b"y"},
    )  # fmt: skip
    plan = make_plan(folder)
    assert [str(file.path.relative_to(folder)) for file in plan.files] == [
        "1.csv", "z/2.csv", "a-b/3.csv",
    ]  # fmt: skip
    assert [str(path) for path, _ in plan.skipped] == ["a/1.csv", "a/3.csv", "a/b/2.csv"]


def test_make_plan_lists_links_and_special_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", {"1.csv": b"x"})
    outside = write(tmp_path / "out", {"3.csv": b"x"})
    (folder / "2.csv").symlink_to("1.csv")
    (folder / "more").symlink_to(outside)
    (folder / "gone.csv").symlink_to("missing.csv")
    os.mkfifo(folder / "4.csv")
    plan = make_plan(folder)
    assert [file.key for file in plan.files] == ["1.csv"]
    link = "it is a link and not a file; load the file that it names"
    assert [(str(path), reason) for path, reason in plan.skipped] == [
        ("2.csv", link),
        ("4.csv", "it is a device, a pipe or a socket and not a file"),
        ("gone.csv", link),
        ("more", link),
    ]


@contextmanager
def without_root_rights() -> Iterator[None]:
    """Run the block as a user that may not read everything, as root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_loader_continues_past_what_it_cannot_read(
    rowdrop: RowdropHarness, open_folder: Path
) -> None:
    files = {"1.csv": make_csv(), "2.csv": make_csv(), "3.png": os.urandom(400_000), "z.csv": b"z"}
    files |= {"closed/4.csv": make_csv(), "lost+found/5.csv": make_csv(), "blind/6.csv": make_csv()}
    write(open_folder, files)
    for name in ("2.csv", "3.png", "closed", "lost+found"):
        (open_folder / name).chmod(0)
    (open_folder / "blind").chmod(0o644)  # its names are visible, and nothing else
    loader = create_loader(rowdrop)
    with without_root_rights():
        plan = make_plan(open_folder)
        loader.load(plan)
    assert read_bucket(rowdrop) == {"1.csv": make_csv(), "z.csv": b"z"}
    assert (loader.loaded, loader.unchanged) == (2, 0)
    assert [(str(path), reason) for path, reason in plan.skipped] == [
        ("blind/6.csv", "it cannot be read: Permission denied"),
        ("closed", "it cannot be read: Permission denied"),
        ("lost+found", "it cannot be read"),
    ]
    assert sorted((path.name, reason) for path, reason in loader.unreadable) == [
        ("2.csv", "it cannot be read: Permission denied"),
        ("3.png", "it cannot be read: Permission denied"),
    ]


def test_loader_skips_files_replaced_by_links_and_pipes(
    rowdrop: RowdropHarness, tmp_path: Path
) -> None:
    """A file in a shared folder may be replaced while others are loaded."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = write(tmp_path / "in", {"1.csv": b"x", "2.csv": b"x", "3.png": bytes(400_000)})
    with (folder / "4.zip").open("wb") as large:
        large.truncate(MAX_SINGLE_PUT_BYTES + 1)
    write(folder, {"5.csv": make_csv()})
    loader = create_loader(rowdrop)
    plan = make_plan(folder)
    for name in ("1.csv", "3.png", "4.zip"):
        (folder / name).unlink()
        (folder / name).symlink_to(secret)
    (folder / "2.csv").unlink()
    os.mkfifo(folder / "2.csv")
    loader.load(plan)
    assert read_bucket(rowdrop) == {"5.csv": make_csv()}
    assert sorted(path.name for path, _ in loader.unreadable) == [
        "1.csv", "2.csv", "3.png", "4.zip",
    ]  # fmt: skip
    assert (loader.loaded, loader.unchanged) == (1, 0)


def test_loader_reads_links_and_no_pipes_as_arguments(
    rowdrop: RowdropHarness, tmp_path: Path
) -> None:
    folder = write(tmp_path, {"data": make_csv()})
    (folder / "1.csv").symlink_to(folder / "data")
    os.mkfifo(folder / "2.csv")
    plan = make_plan(folder / "1.csv", folder / "2.csv")
    assert [(file.path.name, file.key) for file in plan.files] == [("1.csv", "1.csv")]
    assert [str(path) for path, _ in plan.skipped] == ["2.csv"]
    create_loader(rowdrop).load(plan)
    assert read_bucket(rowdrop) == {"1.csv": make_csv()}


def test_make_plan_fails_for_missing_argument(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        make_plan(tmp_path / "gone")


def test_is_empty_accepts_bucket_with_only_the_sample(rowdrop: RowdropHarness) -> None:
    rowdrop.source.put("sample-0001.csv", make_csv())
    rowdrop.source.put("notes.txt", b"x")
    assert is_empty(rowdrop.source)
    rowdrop.source.put("u.zip", b"x")
    assert not is_empty(rowdrop.source)


def test_progress_bar_of_one_has_the_singular() -> None:
    out = io.StringIO()
    ProgressBar(1, out, lambda: 0.0, noun="user")(1)
    assert "1 of 1 user, " in out.getvalue()


def test_progress_bar_ends_full(tmp_path: Path) -> None:
    now = [0.0]
    out = io.StringIO()
    bar = ProgressBar(200, out, lambda: now[0])
    for done in (50, 100, 200):
        now[0] += 6
        bar(done)
    assert out.getvalue().splitlines() == [
        "[###############...............] 100 of 200 files, 8 a second",
        "[##############################] 200 of 200 files, 11 a second",
    ]
