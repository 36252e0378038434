"""Decodes the bytes of a CSV, or says in which form the file must be saved."""

import gzip
import io
import re
import zlib

from shared.csv_reader.file_types import reject_binary_type, reject_text_type
from shared.csv_reader.reasons import MAX_CSV_BYTES, InvalidUserCsv, Reason

GZIP_MAGIC = b"\x1f\x8b"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF32_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
END_MARK = "\x1a"
"""Ctrl-Z, which old programs write at the end of a file."""
MAX_QUOTE_LENGTH = 200
"""Maximum characters of a line that `quote_line` returns."""

LINE_BREAK = re.compile(r"\r\n|\r|\n")


def decode_csv(body: bytes) -> str:
    """Return the text of a CSV, without a byte order mark and without an end mark.

    Raises `InvalidUserCsv`.
    """
    if len(body) > MAX_CSV_BYTES:
        _reject_other_type(body, was_gzip=False)
        raise InvalidUserCsv(Reason.TOO_LARGE)
    was_gzip = body.startswith(GZIP_MAGIC)
    if was_gzip:
        body = _decompress(body)
    if body.startswith(UTF16_MARKS):
        text = _decode_utf16(body)
    else:
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            _reject_other_type(body, was_gzip=was_gzip)
            _reject_other_unicode(body)
            line = _count_lines(body[: error.start].decode())
            raise InvalidUserCsv(
                Reason.ENCODING, line, encoding="UTF-8", byte=error.start + 1
            ) from None
    if "\0" in text:
        _reject_nul(body, text, was_gzip=was_gzip)
    if END_MARK in text:
        text = text.rstrip(f"{END_MARK}\r\n")
    return text.removeprefix("\ufeff")


def _decompress(body: bytes) -> bytes:
    try:
        # One byte more than allowed shows that the rest is too much.
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_CSV_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        raise InvalidUserCsv(Reason.GZIP_DAMAGED) from None
    if unpacked.startswith(GZIP_MAGIC):
        raise InvalidUserCsv(Reason.GZIP_TWICE)
    if len(unpacked) > MAX_CSV_BYTES:
        _reject_other_type(unpacked, was_gzip=True)
        raise InvalidUserCsv(Reason.GZIP_TOO_LARGE)
    return unpacked


def _decode_utf16(body: bytes) -> str:
    if body.startswith(UTF32_MARKS):
        raise InvalidUserCsv(Reason.OTHER_UNICODE, encoding="UTF-32")
    if len(body) % 2 and body.endswith(END_MARK.encode()):
        body = body[:-1]
    try:
        return body.decode("UTF-16")
    except UnicodeDecodeError as error:
        raise InvalidUserCsv(Reason.UTF16_CUT_OFF, byte=error.start + 1) from None


def _reject_other_type(body: bytes, *, was_gzip: bool) -> None:
    reject_binary_type(body, was_gzip=was_gzip)
    # Latin-1 decodes any bytes, and the formats are recognized by their ASCII characters.
    reject_text_type(body.decode("latin-1"))


def _reject_other_unicode(body: bytes) -> None:
    # Two of four bytes are zero in UTF-32. In UTF-16 at least delimiters, digits and line breaks
    # have zero bytes, all at even or all at odd positions.
    zeros = [body[start::4].count(0) / (len(body) // 4 + 1) for start in range(4)]
    if body.startswith(UTF32_MARKS) or min(zeros[:2]) > 0.8 or min(zeros[2:]) > 0.8:
        raise InvalidUserCsv(Reason.OTHER_UNICODE, encoding="UTF-32")
    even = zeros[0] + zeros[2]
    odd = zeros[1] + zeros[3]
    if max(even, odd) > 0.4 > min(even, odd):
        encoding = "UTF-16 without a byte order mark"
        raise InvalidUserCsv(Reason.OTHER_UNICODE, encoding=encoding)


def _reject_nul(body: bytes, text: str, *, was_gzip: bool) -> None:
    _reject_other_type(body, was_gzip=was_gzip)
    line = _count_lines(text[: text.index("\0")])
    if "\0" not in text.rstrip("\0\r\n\x1a"):
        raise InvalidUserCsv(Reason.NUL_PADDING, line)
    if not body.startswith(UTF16_MARKS):
        _reject_other_unicode(body)
    raise InvalidUserCsv(Reason.NUL, line)


def _count_lines(text_before: str) -> int:
    return len(LINE_BREAK.findall(text_before)) + 1


def quote_line(body: bytes, line: int) -> str:
    """Return the beginning of a line, at most `MAX_QUOTE_LENGTH` characters, for any bytes.

    `line` is 1-based. The result is empty if `body`, which may be the beginning of a file, has no
    such line.
    """
    if body.startswith(GZIP_MAGIC):
        body = _decompress_beginning(body)
    encoding = "UTF-16" if body.startswith(UTF16_MARKS) else "UTF-8"
    text = body.decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = LINE_BREAK.split(text, maxsplit=line)
    return excerpt(lines[line - 1], MAX_QUOTE_LENGTH) if line <= len(lines) else ""


def _decompress_beginning(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(body, MAX_CSV_BYTES)
    except zlib.error:
        return b""


def excerpt(text: str, max_length: int = 40) -> str:
    """Shorten `text` to `max_length` characters on one line.

    Unprintable characters become "?".
    """
    short = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    return "".join(character if character.isprintable() else "?" for character in short)
