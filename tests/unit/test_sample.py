"""The files of the sample data."""

import struct
import zlib

from shared.formats.source_keys import SAMPLE_PREFIX
from worker.commands.sample import SAMPLE_USERS, generate_files


def test_sample_is_the_same_each_time() -> None:
    assert list(generate_files()) == list(generate_files())


def test_sample_keys_have_its_prefix() -> None:
    assert all(key.startswith(SAMPLE_PREFIX) for key, _ in generate_files())


def test_sample_has_images_and_one_invalid_file() -> None:
    keys = [key for key, _ in generate_files()]
    assert sum(key.endswith(".csv") for key in keys) == SAMPLE_USERS + 1
    assert sum(key.endswith(".png") for key in keys) == SAMPLE_USERS // 2
    assert "sample-broken.csv" in keys


def test_sample_images_are_valid_png() -> None:
    for key, content in generate_files():
        if key.endswith(".png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            (length,) = struct.unpack(">I", content[8:12])
            assert struct.unpack(">I", content[16 + length : 20 + length]) == (
                zlib.crc32(content[12 : 16 + length]),
            )
