"""An independent reader of users' CSVs, written from docs/formats.md alone.

It shares no code with the product, and uses neither its libraries for CSV and gzip nor its way to
parse numbers: a state machine reads one character after the other. It does not say why a file is
rejected. Generated tests compare both readers.
"""

import codecs
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice

MAX_BYTES = 1_000_000
MAX_FIELD_LENGTH = 131_072
COLUMNS = ["first_name", "last_name", "birthts"]
FIRST_DATE = Decimal(-62_135_596_800_000)
LAST_DATE = Decimal(253_402_300_799_999)

INVISIBLE = {
    *map(
        unicodedata.lookup,
        [
            "SOFT HYPHEN",
            "ARABIC LETTER MARK",
            "MONGOLIAN VOWEL SEPARATOR",
            "ZERO WIDTH SPACE",
            "ZERO WIDTH NO-BREAK SPACE",
            "LEFT-TO-RIGHT MARK",
            "RIGHT-TO-LEFT MARK",
            "LEFT-TO-RIGHT EMBEDDING",
            "RIGHT-TO-LEFT EMBEDDING",
            "POP DIRECTIONAL FORMATTING",
            "LEFT-TO-RIGHT OVERRIDE",
            "RIGHT-TO-LEFT OVERRIDE",
            "WORD JOINER",
            "FUNCTION APPLICATION",
            "INVISIBLE TIMES",
            "INVISIBLE SEPARATOR",
            "INVISIBLE PLUS",
            "LEFT-TO-RIGHT ISOLATE",
            "RIGHT-TO-LEFT ISOLATE",
            "FIRST STRONG ISOLATE",
            "POP DIRECTIONAL ISOLATE",
        ],
    )
}
HYPHENS = {"-", unicodedata.lookup("HYPHEN"), unicodedata.lookup("NON-BREAKING HYPHEN")}
JOINERS = {
    unicodedata.lookup("ZERO WIDTH JOINER"),
    unicodedata.lookup("ZERO WIDTH NON-JOINER"),
}

PersonFields = tuple[str, str, int]


class Unreadable(Exception):
    """The file breaks a rule."""


def read_person(body: bytes) -> PersonFields | None:
    """Return first name, last name and birth date, or None if the file breaks a rule."""
    try:
        return _read_person(body)
    except (Unreadable, UnicodeDecodeError, zlib.error):
        return None


def _read_person(body: bytes) -> PersonFields:
    text = _decode(_unpack(body))
    named, text = _split_sep_line(text)
    candidates = [named] if named else [other for other in ",;\t|" if other in text] or [","]
    for delimiter in candidates:
        records = _iterate_records(text, delimiter)
        try:
            header = next(records, None)
        except Unreadable:
            continue
        while header and not _strip(header[-1]):
            header.pop()
        names = [_simplify(name) for name in header or []]
        if set(COLUMNS) <= set(names):
            return _read_record(names, list(islice(records, 2)))
    raise Unreadable


def _unpack(body: bytes) -> bytes:
    if len(body) > MAX_BYTES:
        raise Unreadable
    if body[:2] != b"\x1f\x8b":
        return body
    parts = []
    while body:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(body, MAX_BYTES + 1))
        if not member.eof:
            raise Unreadable
        body = member.unused_data.lstrip(b"\0")
    unpacked = b"".join(parts)
    if len(unpacked) > MAX_BYTES or unpacked[:2] == b"\x1f\x8b":
        raise Unreadable
    return unpacked


def _decode(body: bytes) -> str:
    if body.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise Unreadable
    encoding = "utf-8"
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if body.startswith(mark):
            encoding = name
            if len(body) % 2 == 1 and body[-1] == 0x1A:
                body = body[:-1]
    text = body.decode(encoding)
    if "\0" in text:
        raise Unreadable
    if "\x1a" in text:
        while text and text[-1] in "\x1a\r\n":
            text = text[:-1]
    return text


def _split_sep_line(text: str) -> tuple[str | None, str]:
    """Return the delimiter that the first line names, if any, and the text behind it."""
    end = min((text.find(end) for end in "\r\n" if end in text), default=len(text))
    line = text[:end]
    while line.startswith("\ufeff"):
        line = line[1:]
    line = line.removeprefix('"')
    if line[:4].lower() != "sep=":
        return None, text
    named = line[4:6] if line[4:6] == "\\t" else line[4:5]
    rest = line[4 + len(named) :]
    while named and rest.startswith(named):
        rest = rest[len(named) :]
    if _strip(rest.removeprefix('"')):
        return None, text
    if named == "\\t":
        named = "\t"
    # A sign or a tab, but neither a letter, a digit, nor what numbers and quotes need.
    if named != "\t" and (named not in set(map(chr, range(33, 127))) or named.isalnum()):
        raise Unreadable
    if named in "\"'+-._":
        raise Unreadable
    end += 2 if text[end : end + 2] == "\r\n" else 1
    return named, text[end:]


def _iterate_records(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the records that have a field which is not empty."""
    position = 0
    while position < len(text):
        fields = []
        while True:
            field, position = _read_field(text, position, delimiter)
            if len(field) > MAX_FIELD_LENGTH:
                raise Unreadable
            fields.append(field)
            if text[position : position + 1] != delimiter:
                break
            position += 1
        position += 2 if text[position : position + 2] == "\r\n" else 1
        if any(map(_strip, fields)):
            yield fields


def _read_field(text: str, start: int, delimiter: str) -> tuple[str, int]:
    """Return the field that begins at `start`, and the position of the character that ends it."""
    ends = {delimiter, "\r", "\n", ""}
    position = _skip_blanks(text, start, ends)
    if text[position : position + 1] != '"':
        while text[position : position + 1] not in ends:
            position += 1
        return text[start:position], position
    content = []
    position += 1
    while True:
        character = text[position : position + 1]
        if not character:
            raise Unreadable
        position += 1
        if character == '"':
            if text[position : position + 1] != '"':
                break
            position += 1
        content.append(character)
    position = _skip_blanks(text, position, ends)
    if text[position : position + 1] not in ends:
        raise Unreadable
    return "".join(content), position


def _skip_blanks(text: str, position: int, ends: set[str]) -> int:
    while text[position : position + 1] not in ends and _is_blank(text[position]):
        position += 1
    return position


def _is_blank(character: str) -> bool:
    return character.isspace() or character in INVISIBLE


def _strip(text: str) -> str:
    start = 0
    end = len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _simplify(name: str) -> str:
    simple = ""
    for character in _strip(name)[:1000].casefold():
        if unicodedata.category(character) == "Zs" or character in HYPHENS:
            simple += "_"
        elif character not in INVISIBLE | JOINERS:
            simple += character
    return simple


def _read_record(names: Sequence[str], records: Sequence[list[str]]) -> PersonFields:
    if len(records) != 1 or any(names.count(name) != 1 for name in COLUMNS):
        raise Unreadable
    record = records[0]
    if any(map(_strip, record[len(names) :])):
        raise Unreadable
    values = dict(zip(names, record, strict=False))
    if not set(COLUMNS) <= values.keys():
        raise Unreadable
    first_name, last_name, date = (_strip(values[name]) for name in COLUMNS)
    if {"\r", "\n"} & set(first_name + last_name + date):
        raise Unreadable
    return first_name, last_name, _read_date(date)


def _read_date(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    is_simple = set(text.lower()) <= set("0123456789+-.e")
    is_number = mantissa.strip("+-")[:1].isdigit() and len(exponent.strip("+-")) < 10
    if not is_simple or not is_number:
        raise Unreadable
    try:
        number = Decimal(text)
    except ArithmeticError:
        raise Unreadable from None
    _, digits, power = number.as_tuple()
    # A power above 0 stands for digits that the text does not have.
    if not isinstance(power, int) or power > 0 or (power < 0 and any(digits[power:])):
        raise Unreadable
    if not FIRST_DATE <= number <= LAST_DATE:
        raise Unreadable
    return int(number)
