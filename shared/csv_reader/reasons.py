"""Why a CSV is rejected: every reason, with its wording.

A reason is published, and the file may be of another system. So the braces stand only for numbers,
for required columns, and for names of the fixed lists in `characters` and `file_types`.
"""

from enum import StrEnum

MAX_CSV_BYTES = 1_000_000
"""A larger file is rejected without being parsed."""

EXPECTED_DATE = "milliseconds since 1970 UTC are expected, for example 946598400000 for 1999-12-31"


class Reason(StrEnum):
    """The wordings of all reasons. docs/formats.md explains each of them."""

    # -- the whole file
    EMPTY = "the file is empty"
    TOO_LARGE = f"larger than {MAX_CSV_BYTES:,} bytes"
    OTHER_FORMAT = "this is {kind}; save it as CSV"
    WEB_PAGE = "this is a web page, possibly for signing in; download the file again"
    S3_ERROR = "this is an error message of an object store; download the file again"
    FORM = "this is a web form with a file in it; upload only the file (curl -T FILE ADDRESS)"
    UPLOAD_CHUNKS = (
        "this has the chunk headers of its upload, which a server stored; upload the file again"
    )
    LFS_POINTER = "this is a Git LFS pointer; run 'git lfs pull' and drop the file again"
    CONFLICT = "this has conflict markers of version control; resolve the conflict"
    ZIP = "this is a zip archive; drop it under a name that ends in .zip"
    TAR = "this is a tar archive; drop it under a name that ends in {extension}"
    COMPRESSED = "this is a {kind} file; extract it, and drop the CSV"
    IMAGE = "this is a {kind} image; drop images under names that end in .png, .jpg or .jpeg"
    GZIP_DAMAGED = "the gzip data is damaged or cut off; compress the file again"
    GZIP_TOO_LARGE = f"the gzip data unpacks to more than {MAX_CSV_BYTES:,} bytes"
    GZIP_TWICE = "compressed with gzip twice; compress it once, or not at all"

    # -- the encoding
    ENCODING = "not {encoding} at byte {byte}; save it as CSV UTF-8"
    UTF16_CUT_OFF = "UTF-16 that is damaged or cut off at byte {byte}; save it as CSV UTF-8"
    OTHER_UNICODE = "looks like {encoding}; save it as CSV UTF-8"
    ENCODED_TWICE = "encoded as UTF-8 twice; save the original as CSV UTF-8"
    NUL = "a NUL character; remove it, or save the file as CSV UTF-8"
    NUL_PADDING = "NUL characters at the end, as after an incomplete write; save the file again"

    # -- the header
    SEP_LINE = "the line sep= names no usable delimiter; write sep=; or remove the line"
    SEP_LINE_DISAGREES = (
        "the line sep= names {named}, the header has {used}; correct or remove the line"
    )
    LINE_ABOVE = (
        "the first line is not a header; line {header_line} is one: remove what is above it"
    )
    LINE_ENDS = "the lines end with {character}; end them with line feeds"
    LINE_QUOTED = "the whole line is in quotes; remove the quotes at both ends"
    QUOTE_MARKS = 'the column names are in {quotes}; use straight quotes (") or none'
    SEPARATOR = "the fields are separated by {separators}; separate them by commas"
    TRANSPOSED = "the column names are in separate lines; write them side by side in the first line"
    NO_HEADER = "the first line is a record; write a header above it: {columns}"
    ONE_FIELD = "the first line is one field; it must be a header: {columns}"
    MISSING_COLUMNS = "missing {missing}; the header has {found}: rename or add columns"
    SIMILAR_COLUMNS = "missing {missing}; similar names: rename {renames}"
    COLUMN_TWICE = "column {column} appears {count} times; keep one of them"

    # -- the record
    NO_RECORD = "only a header, no record"
    RECORD_COUNT = "{count} records instead of one; keep one, and write a file for each user"
    HEADER_AGAIN = "a second header; remove this line"
    DELIMITERS_DISAGREE = (
        "the header is separated by {header}, the record by {record}; use one delimiter in both"
    )
    RECORD_QUOTED = "the whole record is in quotes; remove the quotes at both ends"
    SURPLUS_FIELDS = (
        "{count} fields, the header has {columns}; quote a field that contains {delimiter}"
    )
    MISSING_VALUE = "missing value for {column}, column {position} of {columns}"
    LINE_BREAK = "{column}: a line break inside the field; remove it"
    QUOTE_OPEN = "a quote is not closed"
    QUOTE_FOLLOWED = "a quoted field is followed by something else than {delimiter}"
    BACKSLASH = "a quote inside a quoted field is written as a backslash and a quote; double it"
    FIELD_LENGTH = "a field is longer than {length} characters, or a quote is not closed"

    # -- the number
    NUMBER_EMPTY = "{column}: empty"
    NUMBER_SHORTENED = (
        "{column}: a spreadsheet shortened the number; "
        "format the column as a number without decimals, and save it again"
    )
    NUMBER_GROUPED = "{column}: remove the group separators ({characters})"
    NUMBER_DECIMAL_COMMA = "{column}: a decimal comma; write the number without decimals"
    NUMBER_FRACTION = "{column}: a fraction; milliseconds are whole numbers"
    NUMBER_FRACTION_OF_SECONDS = (
        "{column}: a fraction, probably of seconds; multiply by 1,000, and write a whole number"
    )
    NUMBER_FRACTION_OF_DAYS = f"{{column}}: a spreadsheet's date as a number; {EXPECTED_DATE}"
    NUMBER_DATE = f"{{column}}: a date; {EXPECTED_DATE}"
    NUMBER_HASHES = "{column}: the column was too narrow; widen it, and save the file again"
    NUMBER_FORMULA = "{column}: a formula; write only the number"
    NUMBER_FORMULA_ERROR = "{column}: the error value of a formula; write the number"
    NUMBER_QUOTED = "{column}: remove the {quotes}; write only the number"
    NUMBER_TEXT = "{column}: a number with text such as a unit; write only the number"
    NUMBER_MINUS = "{column}: the minus is {character}; write a hyphen-minus (-)"
    NUMBER_NEGATIVE = "{column}: write '-' in front of a negative number"
    NUMBER_SCRIPT = "{column}: digits of another script; write the digits 0 to 9"
    NUMBER_ABSENT = "{column}: a word for a missing value; a value is required"
    NUMBER_MICROSECONDS = (
        "{column}: not in the years 1 to 9999; these look like microseconds, divide by 1,000"
    )
    NUMBER_NANOSECONDS = (
        "{column}: not in the years 1 to 9999; these look like nanoseconds, divide by 1,000,000"
    )
    NUMBER_RANGE = "{column}: not in the years 1 to 9999"
    NUMBER_SHIFTED = (
        "{column}: not a number, but field {position} is one; "
        "quote a field that contains {delimiter}"
    )
    NOT_A_NUMBER = f"{{column}}: not a whole number; {EXPECTED_DATE}"


class InvalidUserCsv(Exception):
    """The CSV is not valid.

    `kind` is the reason, and `values` are what its braces stand for. `reason` is the complete text,
    which contains nothing of the file. `line` is 1-based, None if the reason concerns the whole
    file.
    """

    def __init__(self, kind: Reason, line: int | None = None, /, **values: str | int) -> None:
        self.kind = kind
        self.values = values
        self.reason = kind.format(**values)
        self.line = line
        super().__init__(self.reason)
