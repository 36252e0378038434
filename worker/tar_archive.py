"""Stream reader for a tar, plain or compressed by gzip.

Formats: POSIX.1-2008 `pax`, and GNU tar for long names.

`tarfile.TarInfo` parses each header of 512 bytes. The rest is implemented here, because `tarfile`
trusts the sizes in headers: it would hold an extended header of several gigabytes in memory.
"""

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker.archive import InvalidArchive, Member, check_count, check_size, cut_off, file_of, most_kept, no_file
from worker.ranged import RangedFile

GZIP_MAGIC = b"\x1f\x8b"
MOST_HEADER_BYTES = 1 << 20
"""Maximum size of one extended header, which holds names, in bytes."""

_GZIP = 16 + zlib.MAX_WBITS
_BLOCK = tarfile.BLOCKSIZE
_STEP, _SLICE = 1 << 20, 1 << 16
_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_NO_FILES = {
    tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "link", tarfile.CHRTYPE: "device", tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe", tarfile.GNUTYPE_SPARSE: "file with holes",
}  # fmt: skip


@dataclass(slots=True)
class _Names:
    """Path and size that extended headers declare for the next member; None if not declared."""

    path: str | None = None
    size: int | None = None


class TarArchive:
    """The tar in `file`. The number of members is unknown until its end."""

    total: int | None = None

    def __init__(self, file: RangedFile) -> None:
        self._packed = file.size
        self._stream = _Stream(_unpacked(file))
        self._unpacked = 0

    def members(self) -> Iterator[Member]:
        """Yield the members, as `worker.archive.Archive` describes.

        The rest of the stream is read after the last member, so that damage and size limits are
        detected there as well.
        """
        names, count = _Names(), 0
        while (header := self._header()) is not None:
            count += 1
            check_count(count)
            if header.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME}:
                self._extend(names, header)
                continue
            path, size = names.path or header.name, header.size if names.size is None else names.size
            # POSIX: the size in the header of a folder is a limit, and no data follows.
            size = 0 if header.type == tarfile.DIRTYPE else size
            names = _Names()
            member = self._member(path, size, header.type)
            if member:
                yield member
        self._stream.drain()

    def _header(self) -> tarfile.TarInfo | None:
        """Return the next header; None at the end of the archive."""
        block = self._stream.take(_BLOCK)
        if len(block) < _BLOCK:
            # Without any valid header before, the file is not a tar at all.
            raise cut_off() if self._unpacked else _no_tar()
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return None
        except (tarfile.HeaderError, ValueError):
            raise (InvalidArchive("it is damaged: a header is none") if self._unpacked else _no_tar()) from None
        self._unpacked += _BLOCK
        return header

    def _member(self, path: str, size: int, kind: bytes) -> Member | None:
        self._unpacked += size
        check_size(self._unpacked, self._packed)
        if kind in _NO_FILES:
            raise no_file(path, _NO_FILES[kind])
        file = file_of(path) if kind in _FILES else None
        body = self._body(size, most_kept(path, file, size) if file else 0)
        if file is None:
            return None
        # Undecodable bytes of the path are replaced, so that it can be stored as UTF-8.
        return Member(path.encode(errors="surrogateescape").decode(errors="replace"), file, body)

    def _body(self, size: int, most: int) -> bytes:
        if size < 0:
            raise InvalidArchive("it is damaged: a header is none")
        body = self._stream.take(min(size, most))
        # The data is padded to a multiple of the block size.
        rest = size - len(body) + -size % _BLOCK
        if len(body) < min(size, most) or self._stream.skip(rest) < rest:
            raise cut_off()
        return body

    def _extend(self, names: _Names, header: tarfile.TarInfo) -> None:
        if not 0 <= header.size <= MOST_HEADER_BYTES:
            raise InvalidArchive(f"an extended header is larger than {MOST_HEADER_BYTES:,} bytes")
        body = self._body(header.size, header.size)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            names.path = body.partition(b"\0")[0].decode(errors="surrogateescape")
            return
        for key, value in _records(body):
            if key == b"path":
                names.path = value.decode(errors="surrogateescape")
            elif key == b"size" and value.isdigit():
                names.size = int(value)
            # In pax format a sparse file has the type of a regular file.
            elif key.startswith(b"GNU.sparse"):
                raise no_file(names.path or header.name, "file with holes")


def _no_tar() -> InvalidArchive:
    return InvalidArchive("it is no tar archive, be it plain or packed by gzip")


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of an extended header as key and value.

    Each record has the form `<length> <key>=<value>` and ends with a line feed. `<length>` is
    decimal and counts all bytes of the record.
    """
    while body.strip(b"\0"):
        length, _, _ = body.partition(b" ")
        if not (length.isdigit() and len(length) < 10 and int(length) > len(length) + 1):
            raise InvalidArchive("it is damaged: an extended header is none")
        key, _, value = body[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        yield key, value
        body = body[int(length) :]


class _Stream:
    """A byte stream over chunks of any length."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; fewer only at the end."""
        return b"".join(self._parts(count))

    def skip(self, count: int) -> int:
        """Discard up to `count` bytes; return how many were available."""
        return sum(map(len, self._parts(count)))

    def drain(self) -> None:
        """Discard the rest."""
        for _ in self._pieces:
            pass

    def _parts(self, count: int) -> Iterator[memoryview]:
        while count > 0:
            if not self._piece:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._piece = memoryview(piece)
            part, self._piece = self._piece[:count], self._piece[count:]
            count -= len(part)
            yield part


def _unpacked(file: RangedFile) -> Iterator[bytes | memoryview]:
    file.seek(0)
    whole = file.chunks(0, file.size)
    return _gunzipped(whole, file.size) if file.read(2) == GZIP_MAGIC else whole


def _gunzipped(packed: Iterable[memoryview], size: int) -> Iterator[bytes]:
    """Yield the content of consecutive gzip streams (RFC 1952); zeros at the end are padding.

    Raises `InvalidArchive` if the data is damaged or cut off, or if a size limit is exceeded.
    """
    inflater, unpacked = _Gunzip(), 0
    try:
        for chunk in packed:
            for start in range(0, len(chunk), _SLICE):
                for piece in inflater.pieces(chunk[start : start + _SLICE]):
                    unpacked += len(piece)
                    check_size(unpacked, size)
                    yield piece
    except zlib.error:
        raise InvalidArchive("it is damaged: gzip cannot unpack it") from None
    if inflater.in_a_stream:
        raise cut_off()


class _Gunzip:
    """Decompresses consecutive gzip streams in steps of bounded memory."""

    def __init__(self) -> None:
        self._streams = 0
        self._inflater = zlib.decompressobj(_GZIP)
        self.in_a_stream = False

    def pieces(self, packed: bytes | memoryview) -> Iterator[bytes]:
        while packed:
            if not self.in_a_stream:
                if not bytes(packed).strip(b"\0"):
                    return
                # Empty streams unpack to nothing, so no size limit bounds their number.
                self._streams += 1
                check_count(self._streams)
                self._inflater, self.in_a_stream = zlib.decompressobj(_GZIP), True
            yield self._inflater.decompress(packed, _STEP)
            packed = self._inflater.unused_data or self._inflater.unconsumed_tail
            if not packed and not self._inflater.eof:
                yield from self._left()
            self.in_a_stream = not self._inflater.eof

    def _left(self) -> Iterator[bytes]:
        """Yield the output that exceeded the last step."""
        while piece := self._inflater.decompress(b"", _STEP):
            yield piece
