"""Stream reader for a tar, plain or compressed by gzip.

Formats: POSIX.1-2008 `pax`, and GNU tar for long names.

`tarfile.TarInfo` parses each header of 512 bytes. The rest is implemented here, because `tarfile`
trusts the sizes in headers: it would hold an extended header of several gigabytes in memory.
"""

import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker.bundles.members import (
    CpuBudget,
    InvalidArchive,
    Member,
    MemberName,
    check_count,
    check_image,
    check_member_path,
    check_size,
    max_kept_bytes,
    special_file_error,
    truncated_error,
)
from worker.source.ranged_file import RangedFile

GZIP_MAGIC = b"\x1f\x8b"
MAX_EXTENDED_HEADERS = 2
"""Maximum number of extended headers of one member: in pax format it has one, in GNU format one."""
MAX_EXTENDED_HEADER_BYTES = 1 << 20
"""Maximum size of one extended header, which holds names, in bytes."""
MAX_HEADER_RECORDS = 1_000
"""Maximum number of records in one extended header."""
MAX_RECORDS = 5_000_000
"""Maximum number of records in all extended headers of an archive, 20 for each of its members.

Records of a few bytes compress well, so no size limit bounds their number.
"""
MAX_PATH_LENGTH = 32 << 20
"""Maximum number of characters in the paths of all members: the index holds them in memory."""

_GZIP_WBITS = 16 + zlib.MAX_WBITS
_RECORD_LENGTH = re.compile(rb"(\d{1,9}) ")
_MAX_SIZE_DIGITS = 20
_TAR_BLOCK_BYTES = tarfile.BLOCKSIZE
_MAX_STEP_BYTES = 1 << 20
_SLICE_BYTES = 1 << 16
_EXTENDED_HEADER_TYPES = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}
_FILE_TYPES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_SPECIAL_FILE_TYPES = {
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
    tarfile.GNUTYPE_SPARSE: "file with holes",
}


@dataclass(slots=True)
class _ExtendedHeader:
    """What `count` extended headers declare for the next member; None if not declared."""

    count: int = 0
    path: str | None = None
    size: int | None = None


class TarArchive:
    """The tar in `file`. The number of members is unknown until its end.

    Its extended headers may have `max_records` records together.
    """

    member_count: int | None = None

    def __init__(
        self, file: RangedFile, max_records: int = MAX_RECORDS, cpu: CpuBudget | None = None
    ) -> None:
        self._packed_bytes = file.size
        self._cpu = cpu or CpuBudget(file.size)
        self._stream = _ByteStream(_open_content(file, self._cpu))
        self._unpacked_bytes = 0
        self._max_records = max_records
        self._record_count = 0
        self._path_length = 0

    def members(self) -> Iterator[Member]:
        """Yield the members, as `worker.bundles.members.Archive` describes.

        The rest of the stream is read after the last member, so that damage and size limits are
        detected there as well.
        """
        extended = _ExtendedHeader()
        count = 0
        while (header := self._read_header()) is not None:
            if header.type in _EXTENDED_HEADER_TYPES:
                self._read_extended_header(extended, header, count + 1)
                continue
            count += 1
            check_count(count)
            name = MemberName(count, extended.path or header.name)
            size = header.size if extended.size is None else extended.size
            # POSIX: the size in the header of a folder is a limit, and no data follows.
            size = 0 if header.type == tarfile.DIRTYPE else size
            extended = _ExtendedHeader()
            member = self._read_member(name, size, header.type)
            if member:
                yield member
        self._stream.drain()

    def _read_header(self) -> tarfile.TarInfo | None:
        """Return the next header; None at the end of the archive."""
        self._cpu.check()
        block = self._stream.read(_TAR_BLOCK_BYTES)
        if len(block) < _TAR_BLOCK_BYTES:
            # Without any valid header before, the file is not a tar at all.
            raise truncated_error() if self._unpacked_bytes else _not_a_tar_error()
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return None
        except (tarfile.HeaderError, ValueError):
            raise (
                InvalidArchive("it is damaged: a header is none")
                if self._unpacked_bytes
                else _not_a_tar_error()
            ) from None
        self._unpacked_bytes += _TAR_BLOCK_BYTES
        return header

    def _read_member(self, name: MemberName, size: int, kind: bytes) -> Member | None:
        path = name.path
        self._unpacked_bytes += size
        check_size(self._unpacked_bytes, self._packed_bytes)
        if kind in _SPECIAL_FILE_TYPES:
            raise special_file_error(name, _SPECIAL_FILE_TYPES[kind])
        self._path_length += len(path)
        if self._path_length > MAX_PATH_LENGTH:
            raise InvalidArchive(
                f"the paths of its members have more than {MAX_PATH_LENGTH:,} characters"
            )
        file = check_member_path(name) if kind in _FILE_TYPES else None
        body = self._read_body(size, max_kept_bytes(name, file, size) if file else 0)
        if file is None:
            return None
        check_image(name, file, body)
        # Undecodable bytes of the path are replaced, so that it can be stored as UTF-8.
        return Member(path.encode(errors="surrogateescape").decode(errors="replace"), file, body)

    def _read_body(self, size: int, max_bytes: int) -> bytes:
        if size < 0:
            raise InvalidArchive("it is damaged: a header is none")
        body = self._stream.read(min(size, max_bytes))
        # The data is padded to a multiple of the block size.
        rest = size - len(body) + -size % _TAR_BLOCK_BYTES
        if len(body) < min(size, max_bytes) or self._stream.skip(rest) < rest:
            raise truncated_error()
        return body

    def _read_extended_header(
        self, extended: _ExtendedHeader, header: tarfile.TarInfo, member_number: int
    ) -> None:
        extended.count += 1
        if extended.count > MAX_EXTENDED_HEADERS:
            raise InvalidArchive(f"a member has more than {MAX_EXTENDED_HEADERS} extended headers")
        if not 0 <= header.size <= MAX_EXTENDED_HEADER_BYTES:
            raise InvalidArchive(
                f"an extended header is larger than {MAX_EXTENDED_HEADER_BYTES:,} bytes"
            )
        body = self._read_body(header.size, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            extended.path = body.partition(b"\0")[0].decode(errors="surrogateescape")
            return
        for number, (key, value) in enumerate(parse_records(body), 1):
            self._count_record(number)
            if key == b"path":
                extended.path = value.decode(errors="surrogateescape")
            elif key == b"size":
                if not value.isdigit() or len(value) > _MAX_SIZE_DIGITS:
                    raise InvalidArchive(
                        "the size in an extended header is no number of at most "
                        f"{_MAX_SIZE_DIGITS} digits"
                    )
                extended.size = int(value)
            # In pax format a sparse file has the type of a regular file.
            elif key.startswith(b"GNU.sparse"):
                name = MemberName(member_number, extended.path or header.name)
                raise special_file_error(name, "file with holes")

    def _count_record(self, number: int) -> None:
        """Count a record, which is the record `number` of its header."""
        if number > MAX_HEADER_RECORDS:
            raise InvalidArchive(f"an extended header has more than {MAX_HEADER_RECORDS:,} records")
        self._record_count += 1
        if self._record_count > self._max_records:
            raise InvalidArchive(
                f"its extended headers have more than {self._max_records:,} records"
            )


def _not_a_tar_error() -> InvalidArchive:
    return InvalidArchive("it is no tar archive, be it plain or packed by gzip")


def _damaged_extended_header_error() -> InvalidArchive:
    return InvalidArchive("it is damaged: an extended header is none")


def parse_records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of an extended header as key and value, in linear time.

    Each record has the form `<length> <key>=<value>` and ends with a line feed. `<length>` is
    decimal and counts all bytes of the record.
    """
    start = 0
    end = len(body.rstrip(b"\0"))
    while start < end:
        length = _RECORD_LENGTH.match(body, start)
        next_start = start + int(length[1]) if length else start
        if length is None or next_start <= length.end():
            raise _damaged_extended_header_error()
        record = body[length.end() : next_start]
        key, _, value = record.removesuffix(b"\n").partition(b"=")
        yield key, value
        start = next_start


class _ByteStream:
    """A byte stream over chunks of any length."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; fewer only at the end."""
        return b"".join(self._iterate_parts(count))

    def skip(self, count: int) -> int:
        """Discard up to `count` bytes; return how many were available."""
        return sum(map(len, self._iterate_parts(count)))

    def drain(self) -> None:
        """Discard the rest."""
        for _ in self._pieces:
            pass

    def _iterate_parts(self, count: int) -> Iterator[memoryview]:
        while count > 0:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._piece = memoryview(piece)
            part = self._piece[:count]
            self._piece = self._piece[count:]
            count -= len(part)
            yield part


def _open_content(file: RangedFile, cpu: CpuBudget) -> Iterator[bytes | memoryview]:
    file.seek(0)
    content = file.read_chunks(0, file.size)
    return _gunzip(content, file.size, cpu) if file.read(2) == GZIP_MAGIC else content


def _gunzip(packed: Iterable[memoryview], size: int, cpu: CpuBudget) -> Iterator[bytes]:
    """Yield the content of consecutive gzip streams (RFC 1952); zeros at the end are padding.

    Raises `InvalidArchive` if the data is damaged or cut off, or if a limit is exceeded.
    """
    decoder = _GzipDecoder()
    unpacked_bytes = 0
    try:
        for chunk in packed:
            for start in range(0, len(chunk), _SLICE_BYTES):
                for piece in decoder.decode(chunk[start : start + _SLICE_BYTES]):
                    unpacked_bytes += len(piece)
                    check_size(unpacked_bytes, size)
                    cpu.check()
                    yield piece
    except zlib.error:
        raise InvalidArchive("it is damaged: gzip cannot unpack it") from None
    if decoder.is_in_stream:
        raise truncated_error()


class _GzipDecoder:
    """Decompresses consecutive gzip streams in steps of bounded memory."""

    def __init__(self) -> None:
        self._stream_count = 0
        self._inflater = zlib.decompressobj(_GZIP_WBITS)
        self.is_in_stream = False

    def decode(self, packed: bytes | memoryview) -> Iterator[bytes]:
        while packed:
            if not self.is_in_stream:
                if not bytes(packed).strip(b"\0"):
                    return
                # Empty streams unpack to nothing, so no size limit bounds their number.
                self._stream_count += 1
                check_count(self._stream_count)
                self._inflater = zlib.decompressobj(_GZIP_WBITS)
                self.is_in_stream = True
            yield self._inflater.decompress(packed, _MAX_STEP_BYTES)
            packed = self._inflater.unused_data or self._inflater.unconsumed_tail
            if not packed and not self._inflater.eof:
                yield from self._drain()
            self.is_in_stream = not self._inflater.eof

    def _drain(self) -> Iterator[bytes]:
        """Yield the output that exceeded the last step."""
        while piece := self._inflater.decompress(b"", _MAX_STEP_BYTES):
            yield piece
