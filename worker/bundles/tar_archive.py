"""Stream reader for a tar, plain or compressed by gzip.

Formats: POSIX.1-2008 `pax`, and GNU tar for long names.

`tarfile.TarInfo` parses each header of 512 bytes. The rest is implemented here, because `tarfile`
trusts the sizes in headers: it would hold an extended header of several gigabytes in memory.
"""

import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from shared.csv_reader.decoding import GZIP_MAGIC
from shared.csv_reader.file_types import TAR_MAGIC_OFFSET
from shared.formats.source_keys import (
    IgnoredFile,
    UserFile,
    make_printable_path,
    rank_path,
)
from worker.bundles.members import (
    CpuBudget,
    InvalidArchive,
    Member,
    MemberName,
    check_count,
    check_image,
    check_member_path,
    check_size,
    ignore_special_file,
    is_decoded,
    max_kept_bytes,
    special_file_error,
    truncated_error,
    unknown_format_error,
)
from worker.source.ranged_file import RangedFile

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
_EXTENDED_HEADER_TYPES = {
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
_FILE_TYPES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
# A folder, the list of a folder, the label of a volume.
_TYPES_WITHOUT_FILE = {tarfile.DIRTYPE, b"D", b"V"}
_MULTIVOLUME_TYPE = b"M"
_SPECIAL_FILE_TYPES = {
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
    tarfile.GNUTYPE_SPARSE: "file with holes",
    _MULTIVOLUME_TYPE: "part of a file in another volume",
}
_TYPES_WITHOUT_DATA = {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}
# GNU tar continues the map of a sparse file in blocks between header and data. These bytes of the
# header, and of each such block, say whether another one follows.
_SPARSE_HEADER_FLAG = 482
_SPARSE_BLOCK_FLAG = 504


@dataclass(slots=True)
class _ExtendedHeader:
    """What `count` extended headers declare for the next member; None if not declared."""

    count: int = 0
    path: str | None = None
    link_target: str | None = None
    size: int | None = None
    is_sparse: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member; its data of `size` bytes is next in the stream."""

    name: MemberName
    kind: bytes
    size: int
    link_target: str
    is_sparse: bool


@dataclass(frozen=True, slots=True)
class _HardLink:
    """A user's file that has the content of an earlier member."""

    name: MemberName
    file: UserFile


class TarArchive:
    """The tar in `file`. The number of members is unknown until its end.

    Its extended headers may have `max_records` records together. `zip_names` is the codec of names
    that are not UTF-8; if it is empty, such members are ignored.
    """

    member_count: int | None = None

    def __init__(
        self,
        file: RangedFile,
        max_records: int = MAX_RECORDS,
        cpu: CpuBudget | None = None,
        *,
        zip_names: str = "",
    ) -> None:
        self._file = file
        self._max_records = max_records
        self._cpu = cpu or CpuBudget(file.size)
        self._zip_names = zip_names
        self._path_length = 0
        # Number of the last regular file at each path, and the links to each number.
        self._files: dict[str, int] = {}
        self._links: dict[int, list[_HardLink]] = {}

    def members(self) -> Iterator[Member | None]:
        """Yield the members, as `worker.bundles.archive.Archive` describes.

        Hard links are last: the content that they name is read again. The rest of the stream is
        read after the last member, so that damage and size limits are detected there as well.
        """
        reader = _TarReader(self._file, self._cpu, self._max_records)
        for entry in reader.entries():
            yield self._read_member(entry, reader)
        if reader.find_second_archive():
            file = IgnoredFile(
                "another archive begins after the end of this one, and is not read; "
                "append with tar -A"
            )
            yield Member(MemberName(reader.count + 1, ""), file, b"")
        yield from self._read_links()

    def _read_member(self, entry: _Entry, reader: "_TarReader") -> Member | None:
        name = MemberName(entry.name.number, self._decode_path(entry.name.path))
        self._path_length += len(name.path)
        if self._path_length > MAX_PATH_LENGTH:
            raise InvalidArchive(
                f"the paths of its members have more than {MAX_PATH_LENGTH:,} characters"
            )
        kind = _SPECIAL_FILE_TYPES.get(entry.kind)
        if kind is None and entry.kind not in {*_FILE_TYPES, tarfile.LNKTYPE}:
            kind = "record of an unknown type"
        if entry.is_sparse:
            kind = _SPECIAL_FILE_TYPES[tarfile.GNUTYPE_SPARSE]
        if entry.kind in _TYPES_WITHOUT_FILE and not entry.is_sparse:
            reader.read_body(entry.size, 0)
            return None
        file = check_member_path(name)
        if entry.kind == tarfile.LNKTYPE:
            return self._add_link(name, file, entry.link_target)
        if kind:
            if not isinstance(file, IgnoredFile):
                raise special_file_error(name, kind)
            file = ignore_special_file(file, kind)
        else:
            self._files[rank_path(name.path)[1]] = name.number
        body = reader.read_body(entry.size, max_kept_bytes(name, file, entry.size))
        return _make_member(name, file, body)

    def _add_link(
        self,
        name: MemberName,
        file: UserFile | IgnoredFile,
        target_path: str,
    ) -> Member | None:
        """Remember a hard link to a user's file; return the member if it is ignored."""
        path = rank_path(name.path)[1]
        target = self._files.get(rank_path(self._decode_path(target_path))[1])
        if target is not None:
            self._files[path] = target  # later links may name this one
        if isinstance(file, IgnoredFile):
            return _make_member(name, file, b"")
        if target is None:
            raise name.error(
                "is a link to a file that is not in the archive before it; pack that file, too"
            )
        self._links.setdefault(target, []).append(_HardLink(name, file))
        return None

    def _read_links(self) -> Iterator[Member | None]:
        """Read the archive once more, and yield the hard links with the content of their targets.

        Content is not kept in the first pass, because any member may be linked later.
        """
        if not self._links:
            return
        last_number = max(self._links)
        reader = _TarReader(self._file, self._cpu, self._max_records)
        for entry in reader.entries():
            links = self._links.get(entry.name.number, [])
            kept = [max_kept_bytes(link.name, link.file, entry.size) for link in links]
            body = reader.read_body(entry.size, max(kept, default=0))
            yield None
            for link, max_bytes in zip(links, kept, strict=True):
                self._cpu.check()
                reader.count_unpacked(entry.size)
                yield _make_member(link.name, link.file, body[:max_bytes])
            if entry.name.number == last_number:
                return

    def _decode_path(self, path: str) -> str:
        """Decode a path that is not UTF-8 by the codec of ZIP_NAMES, if there is one."""
        if self._zip_names:
            raw = path.encode(errors="surrogateescape")
            with suppress(UnicodeError):
                decoded = path if is_decoded(path) else raw.decode(self._zip_names)
                return decoded if is_decoded(decoded) else path
        return path


def _make_member(name: MemberName, file: UserFile | IgnoredFile, body: bytes) -> Member:
    check_image(name, file, body)
    return Member(name._replace(path=make_printable_path(name.path)), file, body)


class _TarReader:
    """Reads the headers of the tar in `file`, plain or compressed. `count` members were read."""

    def __init__(self, file: RangedFile, cpu: CpuBudget, max_records: int) -> None:
        self.count = 0
        self._packed_bytes = file.size
        self._cpu = cpu
        self._stream = _ByteStream(_open_content(file, cpu))
        self._unpacked_bytes = 0
        self._max_records = max_records
        self._record_count = 0

    def entries(self) -> Iterator[_Entry]:
        """Yield the members up to the end of the archive; the caller reads the data of each."""
        extended = _ExtendedHeader()
        while (header := self._read_header()) is not None:
            if header.type in _EXTENDED_HEADER_TYPES:
                self._read_extended_header(extended, header)
                continue
            size = header.size if extended.size is None else extended.size
            # Such a member has no data. Its size may be that of the link's target, or a
            # limit.
            size = 0 if header.type in _TYPES_WITHOUT_DATA else size
            self.count_unpacked(size)
            if header.type == tarfile.XGLTYPE:  # it declares nothing that is used, and is no member
                self.read_body(size, 0)
                continue
            self.count += 1
            check_count(self.count)
            yield _Entry(
                MemberName(self.count, extended.path or header.name),
                header.type,
                size,
                extended.link_target or header.linkname,
                extended.is_sparse,
            )
            extended = _ExtendedHeader()

    def count_unpacked(self, size: int) -> None:
        """Count unpacked bytes. Raises `InvalidArchive` if they exceed a limit."""
        self._unpacked_bytes += size
        check_size(self._unpacked_bytes, self._packed_bytes)

    def find_second_archive(self) -> bool:
        """Read the rest of the stream; return whether another archive begins in it."""
        is_found = False
        while len(block := self._stream.read(_TAR_BLOCK_BYTES)) == _TAR_BLOCK_BYTES:
            self._cpu.check()
            if block.count(0) == _TAR_BLOCK_BYTES:
                continue
            with suppress(tarfile.HeaderError, ValueError):
                tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                is_found = True
            break
        self._stream.drain()
        return is_found

    def _read_header(self) -> tarfile.TarInfo | None:
        """Return the next header; None at the end of the archive."""
        self._cpu.check()
        block = self._stream.read(_TAR_BLOCK_BYTES)
        if len(block) < _TAR_BLOCK_BYTES:
            # Without any valid header before, the file is not a tar at all.
            raise truncated_error() if self._unpacked_bytes else _not_a_tar_error(block)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return None
        except (tarfile.HeaderError, ValueError):
            raise (
                InvalidArchive("it is damaged: a header is invalid")
                if self._unpacked_bytes
                else _not_a_tar_error(block)
            ) from None
        self._unpacked_bytes += _TAR_BLOCK_BYTES
        if header.type == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_map(block)
        return header

    def _skip_sparse_map(self, header: bytes) -> None:
        is_continued = header[_SPARSE_HEADER_FLAG]
        while is_continued:
            self._cpu.check()
            block = self._stream.read(_TAR_BLOCK_BYTES)
            if len(block) < _TAR_BLOCK_BYTES:
                raise truncated_error()
            is_continued = block[_SPARSE_BLOCK_FLAG]

    def read_body(self, size: int, max_bytes: int) -> bytes:
        """Return the first `max_bytes` of the next data, and skip the rest of its `size` bytes."""
        if size < 0:
            raise InvalidArchive("it is damaged: a header is invalid")
        body = self._stream.read(min(size, max_bytes))
        # The data is padded to a multiple of the block size.
        rest = size - len(body) + -size % _TAR_BLOCK_BYTES
        if len(body) < min(size, max_bytes) or self._stream.skip(rest) < rest:
            raise truncated_error()
        return body

    def _read_extended_header(self, extended: _ExtendedHeader, header: tarfile.TarInfo) -> None:
        extended.count += 1
        if extended.count > MAX_EXTENDED_HEADERS:
            raise InvalidArchive(f"a member has more than {MAX_EXTENDED_HEADERS} extended headers")
        if not 0 <= header.size <= MAX_EXTENDED_HEADER_BYTES:
            raise InvalidArchive(
                f"an extended header is larger than {MAX_EXTENDED_HEADER_BYTES:,} bytes"
            )
        body = self.read_body(header.size, header.size)
        if header.type in {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}:
            text = body.partition(b"\0")[0].decode(errors="surrogateescape")
            if header.type == tarfile.GNUTYPE_LONGNAME:
                extended.path = text
            else:
                extended.link_target = text
            return
        sparse_path = None
        for number, (key, value) in enumerate(parse_records(body), 1):
            self._count_record(number)
            if key == b"path":
                extended.path = value.decode(errors="surrogateescape")
            elif key == b"linkpath":
                extended.link_target = value.decode(errors="surrogateescape")
            elif key == b"size":
                if not value.isdigit() or len(value) > _MAX_SIZE_DIGITS:
                    raise InvalidArchive(
                        "the size in an extended header is no number of at most "
                        f"{_MAX_SIZE_DIGITS} digits"
                    )
                extended.size = int(value)
            # In pax format a sparse file has the type of a regular file, and another name.
            elif key.startswith(b"GNU.sparse"):
                extended.is_sparse = True
                if key == b"GNU.sparse.name":
                    sparse_path = value.decode(errors="surrogateescape")
        extended.path = sparse_path or extended.path

    def _count_record(self, number: int) -> None:
        """Count a record, which is the record `number` of its header."""
        if number > MAX_HEADER_RECORDS:
            raise InvalidArchive(f"an extended header has more than {MAX_HEADER_RECORDS:,} records")
        self._record_count += 1
        if self._record_count > self._max_records:
            raise InvalidArchive(
                f"its extended headers have more than {self._max_records:,} records"
            )


def _not_a_tar_error(head: bytes) -> InvalidArchive:
    if head.startswith(GZIP_MAGIC):
        return InvalidArchive("it is packed by gzip twice; unpack it once (gunzip)")
    if head.startswith(b"ustar", TAR_MAGIC_OFFSET):
        return InvalidArchive("it is damaged: a header is invalid")
    return unknown_format_error(
        head, "it is no tar archive, be it plain or packed by gzip; pack it again"
    )


def _damaged_extended_header_error() -> InvalidArchive:
    return InvalidArchive("it is damaged: an extended header is invalid")


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
                if self._stream_count and packed[0] != GZIP_MAGIC[0]:
                    raise InvalidArchive(
                        "something else follows after the archive; pack or upload it again"
                    )
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
