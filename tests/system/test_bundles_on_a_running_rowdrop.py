"""Tests that drop archives into a running Rowdrop: valid, broken and hostile ones of every kind."""

import http.client
import io
import json
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from tests.archives import (
    RawZipMember,
    declare_member_size,
    make_overlapping_zip,
    make_raw_zip,
    make_special_tar,
    make_tar,
    make_tar_gz,
    make_zip,
    mark_zip_encrypted,
)
from tests.system.running import RunShProcess, wait_until

CSV = b"first_name,last_name,birthts\nAda,Lovelace,599616000000\n"
VALID_FILES = {"1.csv": CSV, "photos/1.png": b"image"}


def link_in_a_zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        info = zipfile.ZipInfo("9.csv")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return target.getvalue()


BROKEN: Mapping[str, tuple[bytes, str]] = {
    "no-zip.zip": (b"first_name\n", "no zip archive"),
    "empty.zip": (b"", "0 bytes and no users"),
    "cut-off.zip": (make_zip({"9.csv": CSV})[:-10], "cut off"),
    "cut-off.tar": (make_tar({"9.csv": CSV})[:600], "cut off"),
    "cut-off.tar.gz": (make_tar_gz({"9.csv": CSV})[:-9], "cut off"),
    "no-tar.tar": (b"x" * 2000, "no tar archive"),
    "damaged.zip": (
        make_zip({"9.csv": CSV}, zipfile.ZIP_STORED).replace(b"Lovelace", b"lovelace"),
        "damaged",
    ),
    "longer.zip": (declare_member_size(make_zip({"9.csv": CSV}), 10), "damaged"),
    "overlap.zip": (make_overlapping_zip(), "overlap"),
    "encrypted.zip": (mark_zip_encrypted(make_zip({"9.csv": CSV})), "encrypted"),
    "nested.zip": (make_zip({"9.csv": CSV, "more.zip": make_zip({})}), "another archive"),
    "nested.tgz": (make_tar_gz({"9.csv": CSV, "more.tar": make_tar({})}), "another archive"),
    "escaping.zip": (make_zip({"../9.csv": CSV}), "leads out"),
    "absolute.tar": (make_tar({"/../etc/9.csv": CSV}), "leads out"),
    "code-page.zip": (make_raw_zip([RawZipMember(b"\x9e.csv", CSV)]), "or set ZIP_NAMES"),
    "link.zip": (link_in_a_zip(), "is a link"),
    "link.tar": (make_special_tar(tarfile.SYMTYPE, "9.csv"), "is a link"),
    "device.tar": (make_special_tar(tarfile.CHRTYPE, "9.csv"), "is a device"),
    "lzma.zip": (make_zip({"9.csv": CSV}, zipfile.ZIP_LZMA), "method 14"),
    "bomb.zip": (
        make_zip({"9.png": bytes(60_000_000), "8.png": bytes(60_000_000)}),
        "100 times its size",
    ),
    "bomb.tar.gz": (
        make_tar_gz({"9.txt": bytes(60_000_000), "8.txt": bytes(60_000_000)}),
        "100 times its size",
    ),
    "zeros.zip": (make_zip({"9.png": bytes(90_000_000)}), "no image"),
}


def put(s3: Minio, key: str, body: bytes) -> None:
    s3.put_object("src-data", key, io.BytesIO(body), len(body))


def get(rowdrop: RunShProcess, path: str) -> Any:  # noqa: ANN401
    status, body = rowdrop.get(path)
    assert status == 200, body
    return json.loads(body)


def errors(rowdrop: RunShProcess) -> dict[str, str]:
    return {error["key"]: error["reason"] for error in get(rowdrop, "/errors")}


def keys(s3: Minio, prefix: str) -> list[str]:
    return [
        str(info.object_name) for info in s3.list_objects("processed-data", prefix, recursive=True)
    ]


def test_rowdrop_rejects_each_broken_archive_without_other_effect(
    rowdrop: RunShProcess, s3: Minio
) -> None:
    put(s3, "good.zip", make_zip(VALID_FILES))
    wait_until(lambda: rowdrop.list_users() == ["1"])
    before = s3.get_object("processed-data", "output.csv").read()
    for key, (body, _) in BROKEN.items():
        put(s3, key, body)
    wait_until(lambda: len(errors(rowdrop)) == len(BROKEN), timeout_s=120)
    reasons = errors(rowdrop)
    wrong_reasons = [
        f"{key}: {reasons.get(key)}"
        for key, (_, text) in BROKEN.items()
        if text not in reasons.get(key, "")
    ]
    assert wrong_reasons == []
    assert s3.get_object("processed-data", "output.csv").read() == before
    assert keys(s3, "images/") == ["images/1.png"]
    assert len({key.split("/")[1] for key in keys(s3, ".bundles/")}) == 1
    for key in BROKEN:
        s3.remove_object("src-data", key)
    wait_until(lambda: errors(rowdrop) == {}, timeout_s=120)
    s3.remove_object("src-data", "good.zip")
    wait_until(lambda: rowdrop.list_users() == [])


def test_rowdrop_answers_uploads_of_archives(rowdrop: RunShProcess, s3: Minio) -> None:
    """Of a new archive, of the same again, and of one that is not valid."""
    archive = make_zip(VALID_FILES)
    first = upload(rowdrop, "answered.zip", archive)
    assert (first["result"], first["users"], first["state"]) == ("unpacked", 1, "done")
    assert rowdrop.list_users() == ["1"]
    again = upload(rowdrop, "answered.zip", archive)
    assert (again["result"], again["task_id"]) == ("unpacked", first["task_id"])
    rejected = upload(rowdrop, "answered.zip", b"no archive")
    assert (rejected["status"], rejected["held"]) == (422, True)
    assert rejected["reason"] == errors(rowdrop)["answered.zip"]
    s3.remove_object("src-data", "answered.zip")
    wait_until(lambda: rowdrop.list_users() == [])


def upload(rowdrop: RunShProcess, name: str, body: bytes) -> Any:  # noqa: ANN401
    port = int(rowdrop.credentials["API_PORT"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=70)
    try:
        connection.request("PUT", f"/files/{name}?wait=60", body)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@pytest.mark.parametrize("program", ["zip", "tar"])
def test_rowdrop_publishes_archives_made_by_common_programs(
    rowdrop: RunShProcess, s3: Minio, tmp_path: Path, program: str
) -> None:
    (tmp_path / "users" / "photos").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "users" / f"{number:04}.csv").write_bytes(CSV)
        (tmp_path / "users" / "photos" / f"{number:04}.jpg").write_bytes(b"image")
    archive = tmp_path / {"zip": "made.zip", "tar": "made.tgz"}[program]
    command = {
        "zip": [sys.executable, "-m", "zipfile", "-c"],
        "tar": [shutil.which("tar") or "tar", "-czf"],
    }[program]
    subprocess.run([*command, str(archive), "users"], check=True, cwd=tmp_path)
    put(s3, archive.name, archive.read_bytes())
    wait_until(lambda: rowdrop.list_users() == [f"{number:04}" for number in range(20)])
    paths = {f"processed-data/images/{user_id}.jpg" for user_id in rowdrop.list_users()}
    wait_until(lambda: {row["img_path"] for row in get(rowdrop, "/data")} == paths)
    s3.remove_object("src-data", archive.name)
    wait_until(lambda: rowdrop.list_users() == [])
    wait_until(lambda: keys(s3, "images/") == keys(s3, ".bundles/") == [])
