"""Sample data (`rowdrop sample`): drop the files of invented users into the source bucket.

Every key begins with `sample-`. To remove them, run `rowdrop sample --remove`, or delete all keys
with that prefix with any S3 client. The bucket's events then remove the rows.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

from minio import Minio
from minio.deleteobjects import DeleteObject

from shared.formats.source_keys import SAMPLE_PREFIX

SAMPLE_USERS = 20
"""Default number of rows of the sample. One more file, `sample-broken.csv`, makes a reject."""

_FIRST_NAMES = (
    "Alva",
    "Bruno",
    "Chiara",
    "Dario",
    "Elin",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
)
_LAST_NAMES = ("Abel", "Brandt", "Castro", "Duval", "Eriksen", "Fontana", "Gruber")
_DAY_MS = 86_400_000
_BIRTH_DAYS = 20_000
"""Days from the first to the last possible birth date."""


def ignore_progress(_done: int) -> None:
    """Do nothing: the default callback."""


def generate_files(user_count: int = SAMPLE_USERS) -> Iterator[tuple[str, bytes]]:
    """Yield key and content of every file of the sample, the same in each call.

    Half of the users have an image.
    """
    for number in range(1, user_count + 1):
        stem = f"{SAMPLE_PREFIX}{number:04}"
        first = _FIRST_NAMES[number % len(_FIRST_NAMES)]
        last = _LAST_NAMES[number * 3 % len(_LAST_NAMES)]
        birthts = (number * 997 % _BIRTH_DAYS - 5_000) * _DAY_MS
        yield f"{stem}.csv", f"first_name,last_name,birthts\n{first},{last},{birthts}\n".encode()
        if number % 2:
            yield f"{stem}.png", _encode_png(40 * number % 256, 90 * number % 256, 160)
    yield f"{SAMPLE_PREFIX}broken.csv", b"first_name,last_name,birthts\nKlara,Lang,yesterday\n"


def drop_sample(
    minio: Minio,
    bucket: str,
    user_count: int = SAMPLE_USERS,
    on_progress: Callable[[int], None] = ignore_progress,
) -> int:
    """Write all files of the sample into `bucket`, and return their number.

    `on_progress` is called with the number of written files. Raises what minio raises.
    """
    done = 0
    for done, (key, content) in enumerate(generate_files(user_count), 1):
        minio.put_object(bucket, key, io.BytesIO(content), len(content))
        on_progress(done)
    return done


def remove_sample(minio: Minio, bucket: str) -> int:
    """Delete every key of `bucket` that begins with `sample-`, and return their number.

    Raises what minio raises, and `OSError` if the server refuses to delete a key.
    """
    deletions = [
        DeleteObject(str(entry.object_name))
        for entry in minio.list_objects(bucket, prefix=SAMPLE_PREFIX)
    ]
    for error in minio.remove_objects(bucket, deletions):
        raise OSError(f"{error.name} could not be deleted: {error.message}")
    return len(deletions)


def _encode_png(red: int, green: int, blue: int) -> bytes:
    """Return an image of 8 by 8 pixels in one colour (PNG, ISO/IEC 15948)."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes((red, green, blue)) * 8) * 8)
    chunks = (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _encode_png_chunk(kind, content) for kind, content in chunks
    )


def _encode_png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
