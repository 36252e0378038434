"""Sets of characters, and their names in reasons.

A reason quotes nothing of a file, but it may name a character of these fixed lists.
"""

import re
import string
import unicodedata

INVISIBLE = "\ufeff\u00ad\u061c\u180e\u200b\u200e\u200f" + "".join(
    map(chr, (*range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A)))
)
"""Characters without a shape that no name needs at its ends. The joiners U+200C and U+200D are not
among them, because words of some languages end with one."""
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))
ASCII_BLANKS = "".join(filter(str.isascii, BLANKS))
TRIMMED = BLANKS + INVISIBLE
"""What is removed around column names and values."""
JOINERS = "\u200c\u200d"

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
"""The delimiters that a header is tried with, in this order, and their names."""
SEP_LINE_DELIMITERS = {*DELIMITERS, *string.punctuation} - set("\"'+-._")
"""The delimiters that a line `sep=` may name. A number or a quoted field needs the others."""

# Each sequence that separates fields in other files: its name in the plural.
OTHER_SEPARATORS = {
    "\uff0c": "fullwidth commas",
    "\u3001": "ideographic commas",
    "\u060c": "Arabic commas",
    "\uff1b": "fullwidth semicolons",
    "\u061b": "Arabic semicolons",
    "\uff5c": "fullwidth vertical bars",
    "\u00a6": "broken bars",
    "\u201a": "low quotation marks",
    ":": "colons",
    "\uff1a": "fullwidth colons",
    "^": "circumflexes",
    "~": "tildes",
    "#": "number signs",
    "/": "slashes",
    "\\t": "a backslash and t",
    "\\": "backslashes",
    "&": "ampersands",
    "\x01": "control characters (U+0001)",
    "\x1c": "control characters (U+001C)",
    "\x1f": "control characters (U+001F)",
    "\u00a7": "section signs",
    "\u00b7": "middle dots",
    "\u2022": "bullets",
}
BLANKS_NAME = "blanks"
# Each sequence that ends lines in other files.
OTHER_LINE_ENDS = {
    "\u2028": "a line separator (U+2028)",
    "\u2029": "a paragraph separator (U+2029)",
    "\x85": "a next line character (U+0085)",
    "\x1e": "a record separator (U+001E)",
    "\x0b": "a vertical tab (U+000B)",
    "\x0c": "a form feed (U+000C)",
    "\\r\\n": "a backslash and a letter",
    "\\n": "a backslash and a letter",
}
# Characters that are used as quotes.
QUOTE_MARKS = {
    '"': "doubled quotes",
    "'": "apostrophes",
    "\u201c\u201d\u201e\u201f": "curly quotes",
    "\u2018\u2019\u201b": "curly apostrophes",
    "\u00ab\u00bb\u2039\u203a": "angle quotes",
    "`\u00b4": "backticks",
    "\uff02\uff07": "fullwidth quotes",
    "[]": "brackets",
}
ALL_QUOTE_MARKS = "".join(QUOTE_MARKS)
# Characters that are used for the sign of a negative number.
MINUS_SIGNS = {
    "\u2212": "a minus sign (U+2212)",
    "\u2013": "an en dash (U+2013)",
    "\u2014": "an em dash (U+2014)",
    "\u2010": "a hyphen (U+2010)",
    "\u2011": "a non-breaking hyphen (U+2011)",
    "\u2012": "a figure dash (U+2012)",
    "\ufe63": "a small hyphen (U+FE63)",
    "\uff0d": "a fullwidth hyphen (U+FF0D)",
}
# Characters between groups of digits.
GROUP_SEPARATORS = {
    ",": "commas",
    ".": "dots",
    " ": "blanks",
    "\u00a0": "no-break spaces",
    "\u202f": "narrow no-break spaces",
    "\u2009": "thin spaces",
    "\u2007": "figure spaces",
    "'": "apostrophes",
    "\u2019": "curly apostrophes",
    "_": "underscores",
    "\u066c": "Arabic group separators",
    "\uff0c": "fullwidth commas",
} | dict.fromkeys(INVISIBLE + JOINERS, "invisible characters")

# In column names blanks and hyphens are spelling, and characters without a shape are nothing.
NAME_SPELLING = str.maketrans(
    {
        **{blank: "_" for blank in BLANKS if unicodedata.category(blank) == "Zs"},
        **dict.fromkeys("-\u2010\u2011", "_"),
        **dict.fromkeys(INVISIBLE + JOINERS),
    }
)


def trim(text: str) -> str:
    """Remove blanks and invisible characters around a text."""
    # The set of ASCII blanks is small, and stripping them is much faster.
    return text.strip() if text.isascii() else text.strip(TRIMMED)


def name_delimiter(delimiter: str) -> str:
    """Return the name of one delimiter, with its article."""
    name = DELIMITERS.get(delimiter)
    return f"a {name}" if name else f"'{delimiter}'"


def name_delimiters(delimiter: str) -> str:
    """Return the name of a delimiter or another separator in the plural."""
    if delimiter in DELIMITERS:
        return f"{DELIMITERS[delimiter]}s"
    if delimiter == BLANKS_NAME:
        return delimiter
    return OTHER_SEPARATORS.get(delimiter, f"'{delimiter}'")


def name_quote_marks(text: str) -> str:
    """Return the name of the marks around a text, or an empty text."""
    if len(text) < 2:
        return ""
    for marks, name in QUOTE_MARKS.items():
        if text[0] in marks and (text[-1] in marks or text[-1] in ALL_QUOTE_MARKS):
            return name
    return ""


def class_of(characters: str) -> str:
    """Return a regular expression of one of these characters."""
    return f"[{re.escape(characters)}]"
