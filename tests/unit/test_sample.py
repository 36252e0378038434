"""The files of the sample data."""

import struct
import zlib

from worker.sample import PREFIX, USERS, files


def test_the_sample_is_the_same_each_time() -> None:
    assert list(files()) == list(files())


def test_every_key_bears_the_prefix_by_which_it_is_removed() -> None:
    assert all(key.startswith(PREFIX) for key, _ in files())


def test_half_of_the_users_have_an_image_and_one_file_is_broken() -> None:
    keys = [key for key, _ in files()]
    assert sum(key.endswith(".csv") for key in keys) == USERS + 1
    assert sum(key.endswith(".png") for key in keys) == USERS // 2
    assert "sample-broken.csv" in keys


def test_images_are_png_files_whose_checksums_hold() -> None:
    for key, content in files():
        if key.endswith(".png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            (length,) = struct.unpack(">I", content[8:12])
            assert struct.unpack(">I", content[16 + length : 20 + length]) == (zlib.crc32(content[12 : 16 + length]),)
