"""Parses a date in milliseconds since 1970 UTC, as people and spreadsheets write it.

A number is read if it is exact: a whole number, also with a sign, with a fraction of zeros, or with
an exponent that shortens nothing. Any other value gets a reason that says how to write it.
"""

import re

from shared.csv_reader.characters import (
    GROUP_SEPARATORS,
    MINUS_SIGNS,
    name_quote_marks,
)
from shared.csv_reader.reasons import InvalidUserCsv, Reason

MIN_DATE = -62_135_596_800_000
"""The first millisecond of 0001-01-01, in ms since 1970 UTC."""
MAX_DATE = 253_402_300_799_999
"""The last millisecond of 9999-12-31, in ms since 1970 UTC."""
PLAUSIBLE_DATES = range(-2_208_988_800_000, 4_133_980_800_000)
"""The years 1900 to 2100, in which numbers of other units are recognized."""
SECONDS_DIGITS = range(8, 11)
"""Digits of most birth dates in seconds since 1970."""
DAYS_DIGITS = range(5, 6)
"""Digits of most birth dates in days since 1900, as spreadsheets store them."""

MAX_DIGITS = 40
"""More digits are not a date in any unit."""
MAX_EXAMINED_LENGTH = 60
"""A longer value is not examined further."""

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,15}")
_NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,9}))?")
_ABSENT = re.compile(
    r"null|nan|none|n/?a|#n/?a( n/a)?|<na>|nil|\\n|nat|-+|\?+|\.+|undefined|unknown|missing|empty"
    r"|\(null\)|\(none\)|\(empty\)|n\.a\.?|not available|1\.#qnan|-?1\.#ind",
    re.IGNORECASE,
)
_MONTHS = (
    "jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?"
    "|nov(ember)?|dec(ember)?"
)
_DATE = re.compile(
    r"[0-9]{4}(?P<a>[-/.])[0-9]{1,2}(?P=a)[0-9]{1,2}([T ,].*)?"
    r"|[0-9]{1,2}(?P<b>[-/. ]) ?[0-9]{1,2}(?P=b) ?([0-9]{2}|[0-9]{4})([T ,].*)?"
    r"|[0-9]{8}T[0-9]{4,6}.*"
    r"|[0-9]{1,2}:[0-9]{2}.*"
    rf"|.*\b({_MONTHS})\b.*[0-9].*|.*[0-9].*\b({_MONTHS})\b.*"
    r"|[0-9]{1,2}[-. ]+[^\W\d_]+[-. ]+[0-9]{2,4}.*"
    r"|[0-9]{2,4} ?[年년].*",
    re.IGNORECASE | re.DOTALL,
)
_SHORTENED_BY_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]*[eE][+-]?[0-9]+")
_HASHES = re.compile(r"#{2,}")
_FORMULA_ERROR = re.compile(r"#[A-Z0-9/]+[!?]?")
_NEGATIVE = re.compile(r"\([0-9]+\)|[0-9]+ ?-|- +[0-9]+")
_GROUPS_OF_THREE = re.compile(r"[0-9]{1,3}(,[0-9]{3})+")


def parse_milliseconds(value: str, column: str, line: int) -> int:
    """Return the date of a trimmed value.

    Raises `InvalidUserCsv` with the name of the column if it is not a date in the years 1 to 9999.
    """
    # Not `isdigit` and not only `int`, which accept other scripts and underscores.
    if _WHOLE_NUMBER.fullmatch(value):
        date = int(value)
    else:
        date = _parse_exact_number(value, column, line)
    if not MIN_DATE <= date <= MAX_DATE:
        raise InvalidUserCsv(_explain_range(date), line, column=column)
    return date


def _parse_exact_number(value: str, column: str, line: int) -> int:
    match = _NUMBER.fullmatch(value)
    if not match:
        kind, values = _explain_value(value)
        raise InvalidUserCsv(kind, line, column=column, **values)
    sign, whole, fraction, exponent = match.groups(default="")
    digits = whole + fraction
    point = len(whole) + int(exponent or 0)
    if point > len(digits):
        raise InvalidUserCsv(Reason.NUMBER_SHORTENED, line, column=column)
    point = max(point, 0)
    if digits[point:].strip("0"):
        kind = _explain_fraction(digits[:point])
        raise InvalidUserCsv(kind, line, column=column)
    digits = digits[:point].lstrip("0") or "0"
    if len(digits) > MAX_DIGITS:
        raise InvalidUserCsv(Reason.NUMBER_RANGE, line, column=column)
    return -int(digits) if sign == "-" else int(digits)


def _explain_range(number: int) -> Reason:
    if number // 1_000 in PLAUSIBLE_DATES:
        return Reason.NUMBER_MICROSECONDS
    if number // 1_000_000 in PLAUSIBLE_DATES:
        return Reason.NUMBER_NANOSECONDS
    return Reason.NUMBER_RANGE


def _explain_fraction(whole: str) -> Reason:
    digit_count = len(whole.lstrip("0"))
    if digit_count in SECONDS_DIGITS:
        return Reason.NUMBER_FRACTION_OF_SECONDS
    if digit_count in DAYS_DIGITS:
        return Reason.NUMBER_FRACTION_OF_DAYS
    return Reason.NUMBER_FRACTION


def _explain_value(value: str) -> tuple[Reason, dict[str, str]]:
    """Return the reason for a value that is not a number, and what its braces stand for."""
    if not value:
        return Reason.NUMBER_EMPTY, {}
    if len(value) > MAX_EXAMINED_LENGTH:
        return Reason.NOT_A_NUMBER, {}
    for pattern, reason in _PATTERNS.items():
        if pattern.fullmatch(value):
            return reason, {}
    quotes = name_quote_marks(value) or ("apostrophe" if value[0] in "'\u2019" else "")
    if quotes and re.search("[0-9]", value):
        return Reason.NUMBER_QUOTED, {"quotes": quotes}
    if value[0] in MINUS_SIGNS and re.search("[0-9]", value):
        return Reason.NUMBER_MINUS, {"character": MINUS_SIGNS[value[0]]}
    if any(character.isdigit() and not character.isascii() for character in value):
        return Reason.NUMBER_SCRIPT, {}
    return _explain_digits(value)


def _explain_digits(value: str) -> tuple[Reason, dict[str, str]]:
    digits = value.lstrip("+-")
    others = set(digits) - set("0123456789")
    if not others or not re.search("[0-9]", value):
        return Reason.NOT_A_NUMBER, {}
    if not others <= GROUP_SEPARATORS.keys():
        return Reason.NUMBER_TEXT, {}
    if others == {"."} and digits.count(".") == 1:
        return Reason.NUMBER_FRACTION, {}
    whole, _, fraction = digits.partition(",")
    if others == {","} and not _GROUPS_OF_THREE.fullmatch(digits) and "," not in fraction:
        if fraction.strip("0") and whole:
            return _explain_fraction(whole), {}
        return Reason.NUMBER_DECIMAL_COMMA, {}
    # The last comma or dot may be that of the decimals, if there is another separator.
    separators = others - {",", "."} or ({digits[min(map(digits.index, others))]} if others else ())
    names = dict.fromkeys(
        name for separator, name in GROUP_SEPARATORS.items() if separator in separators
    )
    return Reason.NUMBER_GROUPED, {"characters": " and ".join(names)}


_PATTERNS = {
    _ABSENT: Reason.NUMBER_ABSENT,
    _HASHES: Reason.NUMBER_HASHES,
    _FORMULA_ERROR: Reason.NUMBER_FORMULA_ERROR,
    re.compile("=.*", re.DOTALL): Reason.NUMBER_FORMULA,
    _DATE: Reason.NUMBER_DATE,
    _NEGATIVE: Reason.NUMBER_NEGATIVE,
    _SHORTENED_BY_COMMA: Reason.NUMBER_SHORTENED,
}
