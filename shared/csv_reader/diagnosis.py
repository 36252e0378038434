"""Finds out why a text has no valid header or record: what a person would see in it.

Both functions are called only after a rule is broken, and examine only the beginning of a file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from typing import NoReturn

from shared.csv_reader.characters import (
    ALL_QUOTE_MARKS,
    BLANKS_NAME,
    DELIMITERS,
    OTHER_LINE_ENDS,
    OTHER_SEPARATORS,
    SEP_LINE_DELIMITERS,
    TRIMMED,
    class_of,
    name_delimiter,
    name_delimiters,
    name_quote_marks,
    trim,
)
from shared.csv_reader.decoding import LINE_BREAK
from shared.csv_reader.file_types import YAML, reject_binary_type, reject_text_type
from shared.csv_reader.reasons import InvalidUserCsv, Reason
from shared.csv_reader.tables import (
    Table,
    normalize_name,
    read_records,
    split_sep_line,
)

MAX_EXAMINED_LENGTH = 20_000
"""Characters of the text that are examined."""
MAX_LINES = 50
MAX_COLUMNS = 50
MAX_NAME_LENGTH = 40
MIN_SIMILARITY = 0.7
MIN_COMMON_PREFIX = 4

ENCODED_TWICE_MARKS = ("\u00ef\u00bb\u00bf", "\u043f\u00bb\u0457", "\u2229\u2557\u2510")
"""A byte order mark that was decoded as CP1252, CP1251 or CP437, and encoded as UTF-8 again."""
_EMPTY_FIELDS = TRIMMED + "".join(DELIMITERS) + '"'
_BLANK_LINES = re.compile(
    rf"(?:{class_of(_EMPTY_FIELDS.translate({10: None, 13: None}))}*+(?:\r\n|\r|\n))*+"
)
_NUMBER_OR_DATE = re.compile(r"[+-]?[0-9]++([.,/: -][0-9]++)*+")
_LONG_NUMBER = re.compile(r"-?[0-9]{6,}")
_IGNORED_IN_NAMES = re.compile(r"[\W_]+")
_CONFLICT_MARKER = re.compile(r"<{7}( |$)")
_UTF7_SEQUENCE = re.compile(r"\+[A-Za-z0-9/]{2,}-")


def reject_text(text: str, columns: Sequence[str]) -> NoReturn:
    """Raise `InvalidUserCsv` with the reason why a text has no header with all columns."""
    # Bytes of another type may be valid UTF-8 by chance.
    reject_binary_type(text.encode())
    reject_text_type(text)
    if text.startswith(ENCODED_TWICE_MARKS):
        raise InvalidUserCsv(Reason.ENCODED_TWICE, 1)
    start_line, _, text = split_sep_line(text)
    blank_lines = _BLANK_LINES.match(text)
    if blank_lines:
        start_line += len(LINE_BREAK.findall(blank_lines[0]))
        text = text[blank_lines.end() :]
    text = text[:MAX_EXAMINED_LENGTH]
    lines = _list_lines(text, start_line)
    if not lines:
        raise InvalidUserCsv(Reason.EMPTY)
    line_number, first_line = lines[0]
    _reject_other_line_ends(first_line, line_number, columns)
    for header_line, line in lines[1:]:
        if _is_header(line, columns):
            raise InvalidUserCsv(Reason.LINE_ABOVE, line_number, header_line=header_line)
    _reject_quotes(first_line, line_number, columns)
    for separator in (*_list_used(OTHER_SEPARATORS, first_line), BLANKS_NAME):
        if _has_columns(_split(first_line, separator), columns):
            separators = OTHER_SEPARATORS.get(separator, separator)
            raise InvalidUserCsv(Reason.SEPARATOR, line_number, separators=separators)
    _reject_transposed([line for _, line in lines], line_number, columns)
    if _UTF7_SEQUENCE.search(first_line):
        raise InvalidUserCsv(Reason.OTHER_UNICODE, encoding="UTF-7")
    _reject_names(text, line_number, columns)


def reject_record(error: InvalidUserCsv, table: Table, columns: Sequence[str]) -> None:
    """Raise `InvalidUserCsv` if there is a better reason than `error` for an invalid record."""
    if error.line is None:
        return
    lines = LINE_BREAK.split(table.text, maxsplit=error.line - table.first_line + 1)
    header_line = lines[table.header_line - table.first_line]
    if error.kind is Reason.NO_RECORD:
        for line_end in _list_used(OTHER_LINE_ENDS, header_line):
            character = OTHER_LINE_ENDS[line_end]
            raise InvalidUserCsv(Reason.LINE_ENDS, error.line, character=character)
    for line_number, line in _list_lines(table.text[:MAX_EXAMINED_LENGTH], table.first_line):
        is_behind = line_number > table.header_line
        if is_behind and _CONFLICT_MARKER.match(line):
            raise InvalidUserCsv(Reason.CONFLICT, line_number)
        if is_behind and _has_columns(_split(line, table.delimiter), columns):
            raise InvalidUserCsv(Reason.HEADER_AGAIN, line_number)
    line = lines[error.line - table.first_line]
    if error.kind in (Reason.MISSING_VALUE, Reason.QUOTE_FOLLOWED):
        _reject_record_form(line, error.line, table)
    if error.kind is Reason.NOT_A_NUMBER:
        _reject_shifted_number(line, error, table, columns)
    if error.kind is Reason.QUOTE_FOLLOWED and '\\"' in line:
        raise InvalidUserCsv(Reason.BACKSLASH, error.line)


def _reject_record_form(line: str, line_number: int, table: Table) -> None:
    field_count = max(table.positions) + 1
    fields = [field for field in _split(line, table.delimiter) if trim(field)]
    if len(fields) > 1:
        return
    if fields and len(_split(fields[0], table.delimiter)) >= field_count:
        raise InvalidUserCsv(Reason.RECORD_QUOTED, line_number)
    # If the quotes of the line are wrong, only another delimiter explains it.
    others = (*DELIMITERS, *OTHER_SEPARATORS, BLANKS_NAME) if fields else DELIMITERS
    for separator in others:
        if separator != table.delimiter and len(_split(line, separator)) >= field_count:
            raise InvalidUserCsv(
                Reason.DELIMITERS_DISAGREE,
                line_number,
                header=name_delimiters(table.delimiter),
                record=name_delimiters(separator),
            )


def _reject_shifted_number(
    line: str, error: InvalidUserCsv, table: Table, columns: Sequence[str]
) -> None:
    column = str(error.values["column"])
    position = table.positions[columns.index(column)] + 1
    fields = _split(line, table.delimiter)
    if position < len(fields) and _LONG_NUMBER.fullmatch(trim(fields[position])):
        raise InvalidUserCsv(
            Reason.NUMBER_SHIFTED,
            error.line,
            column=column,
            position=position + 1,
            delimiter=name_delimiter(table.delimiter),
        )


def _list_lines(text: str, first_line: int) -> list[tuple[int, str]]:
    """Return the first lines that are not blank, with their numbers."""
    lines = enumerate(LINE_BREAK.split(text), first_line)
    return list(islice(((n, line) for n, line in lines if line.strip(_EMPTY_FIELDS)), MAX_LINES))


def _split(line: str, separator: str) -> list[str]:
    """Split one line; return an empty list if its quotes are wrong."""
    if separator == BLANKS_NAME:
        return line.split()
    if separator not in SEP_LINE_DELIMITERS:
        return line.split(separator)
    try:
        return next(read_records(line, separator), (0, []))[1]
    except InvalidUserCsv:
        return []


def _list_used(separators: Iterable[str], line: str) -> list[str]:
    return [separator for separator in separators if separator in line]


def _is_header(line: str, columns: Sequence[str]) -> bool:
    used = _list_used(DELIMITERS, line)
    return any(_has_columns(_split(line, delimiter), columns) for delimiter in used)


def _has_columns(fields: Sequence[str], columns: Sequence[str], quotes: str = "") -> bool:
    names = {normalize_name(field.strip(TRIMMED + quotes)) for field in fields}
    return names.issuperset(columns)


def _reject_other_line_ends(line: str, line_number: int, columns: Sequence[str]) -> None:
    for line_end in _list_used(OTHER_LINE_ENDS, line):
        if _is_header(line.partition(line_end)[0], columns):
            character = OTHER_LINE_ENDS[line_end]
            raise InvalidUserCsv(Reason.LINE_ENDS, line_number, character=character)


def _reject_quotes(line: str, line_number: int, columns: Sequence[str]) -> None:
    for delimiter in _list_used(DELIMITERS, line):
        fields = [field for field in _split(line, delimiter) if trim(field)]
        if len(fields) == 1 and _is_header(fields[0], columns):
            raise InvalidUserCsv(Reason.LINE_QUOTED, line_number)
        fields = line.split(delimiter)
        if _has_columns(fields, columns, ALL_QUOTE_MARKS):
            quotes = next(
                filter(None, (name_quote_marks(trim(field)) for field in fields)), "quotes"
            )
            raise InvalidUserCsv(Reason.QUOTE_MARKS, line_number, quotes=quotes)


def _reject_transposed(lines: Sequence[str], line_number: int, columns: Sequence[str]) -> None:
    keys = [line.partition(":")[0] for line in lines if ":" in line]
    if _has_columns(keys, columns, ALL_QUOTE_MARKS + "-"):
        raise InvalidUserCsv(Reason.OTHER_FORMAT, kind=YAML)
    for separator in (*DELIMITERS, "="):
        firsts = [line.partition(separator)[0] for line in lines]
        if _has_columns(firsts, columns, ALL_QUOTE_MARKS):
            raise InvalidUserCsv(Reason.TRANSPOSED, line_number)


def _reject_names(text: str, line_number: int, columns: Sequence[str]) -> NoReturn:
    headers = []
    errors = []
    for delimiter in _list_used(DELIMITERS, text) or [","]:
        try:
            _, fields = next(read_records(text, delimiter), (0, []))
            headers.append(fields)
        except InvalidUserCsv as error:
            errors.append(error)
    # Of equal headers the first one: that of the comma.
    header = max(
        headers, key=lambda fields: (len(_match_names(fields, columns)), len(fields)), default=[]
    )
    found = _match_names(header, columns)
    if errors and len(header) < 2:
        errors[0].line = line_number
        raise errors[0]
    if not found and any(_NUMBER_OR_DATE.fullmatch(trim(field)) for field in header):
        raise InvalidUserCsv(Reason.NO_HEADER, line_number, columns=",".join(columns))
    if not found and len(header) < 2:
        raise InvalidUserCsv(Reason.ONE_FIELD, line_number, columns=",".join(columns))
    raise _explain_missing_columns(header, found, line_number, columns)


def _explain_missing_columns(
    header: Sequence[str], found: Mapping[str, int], line_number: int, columns: Sequence[str]
) -> InvalidUserCsv:
    names = [normalize_name(name) for name in header]
    missing = [name for name in columns if name not in names]
    noun = "column" if len(missing) == 1 else "columns"
    missing_text = f"{noun} {', '.join(missing)}"
    renames = [
        f"column {found[name] + 1} to {name}" for name in columns if name in {*missing} & {*found}
    ]
    if renames:
        return InvalidUserCsv(
            Reason.SIMILAR_COLUMNS, line_number, missing=missing_text, renames=", ".join(renames)
        )
    present = [name for name in columns if name in names]
    other_count = len(header) - len(present)
    others = f"{other_count} other {'column' if other_count == 1 else 'columns'}"
    return InvalidUserCsv(
        Reason.MISSING_COLUMNS,
        line_number,
        missing=missing_text,
        found=" and ".join([*present, others] if other_count else present),
    )


def _match_names(header: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    """Map each column to the position of its name in a header, or else of the most similar one."""
    names = [normalize_name(name) for name in header[:MAX_COLUMNS]]
    found = {name: names.index(name) for name in columns if name in names}
    similar = sorted(
        (
            (_measure_similarity(name, column), -position, column)
            for position, name in enumerate(names)
            for column in columns
            if name not in columns and column not in found
        ),
        reverse=True,
    )
    for similarity, position, column in similar:
        if similarity and column not in found and -position not in found.values():
            found[column] = -position
    return found


@lru_cache(maxsize=1000)  # A wrong header is usually that of many files.
def _measure_similarity(name: str, column: str) -> float:
    """Return how similar two names are, up to 1; 0 if they are not."""
    first = _IGNORED_IN_NAMES.sub("", name)[:MAX_NAME_LENGTH]
    second = _IGNORED_IN_NAMES.sub("", column)
    ratio = SequenceMatcher(None, first, second).ratio()
    is_similar = ratio >= MIN_SIMILARITY or (
        len(first) >= MIN_COMMON_PREFIX and first[:MIN_COMMON_PREFIX] == second[:MIN_COMMON_PREFIX]
    )
    return ratio if is_similar else 0
