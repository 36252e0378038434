"""Every route with its parameters and responses, as OpenAPI operations.  Pure.

The descriptions are written by hand.  Tests verify that they contain exactly the existing routes
and parameters, and that every response of the running service matches them.
"""

import re

from api.answers.formats import CONTENT_TYPES
from api.description.builders import (
    ANYTHING,
    EVENTS,
    JSON,
    WRITES,
    Document,
    answer,
    in_path,
    in_query,
    operation,
)
from api.description.schemas import Schema, a_list, number, ref, text
from api.query.file_query import ALLOWED_FILE_LIMIT, ALLOWED_KEY, MAX_LISTED_FILES
from api.query.filters import ALLOWED_AGE, ALLOWED_BOOLEAN
from api.query.row_query import (
    ALLOWED_FIELDS,
    ALLOWED_FORMAT,
    ALLOWED_ROW_COUNT,
    ALLOWED_SEARCH,
    ALLOWED_SORT,
    FORMATS,
    MAX_SEARCH_LENGTH,
    MAX_SEARCH_WORDS,
)
from api.query.wait_query import ALLOWED_WAIT, MAX_WAIT_S
from shared.formats.output_csv import OUTPUT_COLUMNS
from shared.formats.source_keys import (
    BUNDLE_EXTENSIONS,
    MAX_FILE_NAME_BYTES,
    MAX_KEY_BYTES,
    USER_FILE_EXTENSIONS,
)

_PRINTABLE = r"^[^\x00-\x1f\x7f/]+$"
_EXTENSIONS = "|".join(map(re.escape, sorted({*USER_FILE_EXTENSIONS, *BUNDLE_EXTENSIONS})))
READABLE = rf"{_PRINTABLE[:-1]}\.(?:{_EXTENSIONS})$"
"""The names that `shared.formats.source_keys.explain_unusable_name` accepts."""
_FILTERS = [
    in_query(
        "is_image_exists",
        text(pattern="^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee]|[01])$"),
        ALLOWED_BOOLEAN,
    ),
    in_query("min_age", number(minimum=-99_999, maximum=99_999), ALLOWED_AGE),
    in_query("max_age", number(minimum=-99_999, maximum=99_999), ALLOWED_AGE),
]
_PAGING = [
    in_query("limit", number(minimum=0, maximum=999_999_999), ALLOWED_ROW_COUNT),
    in_query("offset", number(minimum=0, maximum=999_999_999), ALLOWED_ROW_COUNT),
]
_ORDERS = [f"{sign}{name}" for name in OUTPUT_COLUMNS for sign in ("", "-")]
_LIST: Schema = {"type": "array", "minItems": 1}
_SEARCH_PATTERN = rf"^\s*\S+(\s+\S+){{0,{MAX_SEARCH_WORDS - 1}}}\s*$"
_ROWS = [
    *_FILTERS,
    in_query(
        "q",
        text(minLength=1, maxLength=MAX_SEARCH_LENGTH, pattern=_SEARCH_PATTERN),
        ALLOWED_SEARCH,
    ),
    in_query(
        "sort", _LIST | {"items": text(enum=_ORDERS)}, ALLOWED_SORT, style="form", explode=False
    ),
    in_query(
        "fields",
        _LIST | {"items": text(enum=list(OUTPUT_COLUMNS))},
        ALLOWED_FIELDS,
        style="form",
        explode=False,
    ),
    *_PAGING,
    in_query("format", text(enum=list(FORMATS)), ALLOWED_FORMAT),
]
_WAIT = [in_query("wait", number(minimum=0, maximum=MAX_WAIT_S), ALLOWED_WAIT)]
_USER = in_path(
    "user_id",
    "The user: a file's name without its extension.",
    maxLength=MAX_FILE_NAME_BYTES - 4,
    pattern=_PRINTABLE,
)
_NAME = in_path("name", "The file's name, percent-encoded.", maxLength=MAX_KEY_BYTES)
_NEW_NAME = in_path(
    "name",
    "The file's name: one that Rowdrop reads.",
    maxLength=MAX_FILE_NAME_BYTES,
    pattern=READABLE,
)
_KEY = text(
    maxLength=MAX_KEY_BYTES, pattern=r"^(?![^\x00]*//)(?!(?:[^\x00]*/)?\.\.?(?:/|$))[^\x00]*$"
)
_LISTING = [
    in_query("prefix", _KEY, f"{ALLOWED_KEY}: only files with names that begin with it"),
    in_query("after", _KEY, f"{ALLOWED_KEY}: only files with names that sort after it"),
    in_query("limit", number(minimum=1, maximum=MAX_LISTED_FILES), ALLOWED_FILE_LIMIT),
]

_ETAG = {"ETag": "the version; sent back as If-None-Match, it gets a 304 until the version changes"}
_COUNTED = {"X-Total-Count": "the number of entries on all pages", "Link": "other pages (RFC 8288)"}
_LOCATION = {"Location": "the address that will show the result"}


_TASKS = ref("Task"), ref("Unpack")
_A_TASK: Schema = {"anyOf": [*_TASKS]}
_NOT_MODIFIED = {"304": answer("It has not changed.", {}, _ETAG)}
_ALL_FORMATS: dict[str, Schema] = {
    JSON: a_list(ref("SomeFields")),
    CONTENT_TYPES["ndjson"]: ANYTHING,
    "text/csv": ANYTHING,
    CONTENT_TYPES["parquet"]: ANYTHING,
    "text/html": ANYTHING,
}
_NO_ROWS = "nothing-published"
_NO_STORE = "store-away"
_NO_REDIS = "redis-away"

PATHS: dict[str, dict[str, Document]] = {
    "/data": {
        "get": operation(
            "The published rows: a JSON array of users, or another format.",
            {"200": answer("The rows.", _ALL_FORMATS, _ETAG | _COUNTED)} | _NOT_MODIFIED,
            ("no-such-format", _NO_ROWS),
            _ROWS,
            'curl "$api/data?min_age=18&sort=last_name&limit=10"',
        ),
        "post": operation(
            "Read every user's files again; with wait, respond when the result is published.",
            {
                "200": answer(
                    "Done, and every API process serves the result.",
                    {JSON: ref("Rebuild")},
                    _LOCATION,
                ),
                "202": answer(
                    "Queued, or not done before the timeout.", {JSON: ref("Rebuild")}, _LOCATION
                ),
            },
            (*WRITES, _NO_REDIS, "task-lost", "rebuild-failed"),
            _WAIT,
            'curl -X POST "$api/data?wait=60"',
        ),
    },
    "/data/{user_id}": {
        "get": operation(
            "One user's row.",
            {"200": answer("The row.", {JSON: ref("User")}, _ETAG)} | _NOT_MODIFIED,
            ("no-such-user", _NO_ROWS),
            [_USER],
            'curl "$api/data/0001"',
        ),
        "post": operation(
            "Read one user's files again; with wait, respond when the result is published.",
            {
                "200": answer(
                    "Done, and every API process serves the result.",
                    {JSON: ref("Refresh")},
                    _LOCATION,
                ),
                "202": answer(
                    "Queued, or not done before the timeout.", {JSON: ref("Refresh")}, _LOCATION
                ),
            },
            (*WRITES, "wrong-name", _NO_REDIS),
            [_USER, *_WAIT],
            'curl -X POST "$api/data/0001?wait=10"',
        ),
    },
    "/data/{user_id}/image": {
        "get": operation(
            "The image of a user's row, if its content is PNG, JPEG, GIF or WebP.",
            {"200": answer("The image.", {"image/*": ANYTHING}, _ETAG)} | _NOT_MODIFIED,
            (
                "no-raster-image",
                "no-such-user",
                "no-such-image",
                "unreadable",
                _NO_ROWS,
                _NO_STORE,
                "busy",
            ),
            [_USER],
            'curl "$api/data/0001/image" -o image',
        ),
    },
    "/stats": {
        "get": operation(
            "Count, average age and average birth date of the rows.",
            {"200": answer("The statistics.", {JSON: ref("Statistics")}, _ETAG)} | _NOT_MODIFIED,
            (_NO_ROWS,),
            _FILTERS,
            'curl "$api/stats?is_image_exists=true"',
        ),
    },
    "/files": {
        "get": operation(
            "The files in the source bucket, by name.",
            {
                "200": answer(
                    "The files.", {JSON: a_list(ref("File"))}, {"Link": "the next page (RFC 8288)"}
                )
            },
            (_NO_STORE,),
            _LISTING,
            'curl "$api/files?prefix=00&limit=10"',
        ),
    },
    "/files/{name}": {
        "get": operation(
            "A file, unchanged.",
            {
                "200": answer(
                    "The file.", {"text/csv": ANYTHING, "application/octet-stream": ANYTHING}, _ETAG
                ),
                "206": answer(
                    "The bytes of Range.",
                    {"text/csv": ANYTHING, "application/octet-stream": ANYTHING},
                    _ETAG,
                ),
            }
            | _NOT_MODIFIED,
            ("no-such-file", "unreadable", "wrong-range", _NO_STORE, "busy"),
            [_NAME],
            'curl "$api/files/0001.csv"',
        ),
        "put": operation(
            "Drop a file.  The user's row is updated later.",
            {"202": answer("The file is in the bucket.", {JSON: ref("Accepted")}, _LOCATION)},
            (*WRITES, "wrong-name", "no-length", "too-large", _NO_STORE, "busy"),
            [_NEW_NAME],
            'curl -T 0001.csv "$api/files/0001.csv"',
            {
                "required": True,
                "description": "The file.",
                "content": {"application/octet-stream": {"schema": ANYTHING}},
            },
        ),
        "delete": operation(
            "Delete a file.  The user's row is updated later.",
            {
                "202": answer(
                    "The file is deleted from the bucket.", {JSON: ref("Accepted")}, _LOCATION
                )
            },
            (*WRITES, "no-such-file", _NO_STORE),
            [_NAME],
            'curl -X DELETE "$api/files/0001.csv"',
        ),
    },
    "/tasks": {
        "get": operation(
            "The unfinished rebuilds, the waiting bundles, and the latest unpacks, newest first.",
            {"200": answer("The tasks.", {JSON: a_list({"anyOf": [*_TASKS, ref("Waiting")]})})},
            (_NO_REDIS,),
            sample='curl "$api/tasks"',
        ),
    },
    "/tasks/{task_id}": {
        "get": operation(
            "The progress of a rebuild, or of the unpacking of a bundle.",
            {"200": answer("The task.", {JSON: _A_TASK})},
            ("no-such-task", _NO_REDIS),
            [in_path("task_id", "The task's ID, from POST /data or GET /tasks.")],
            'curl "$api/tasks/$task_id"',
        ),
    },
    "/events": {
        "post": operation(
            "Events of the source bucket, by the webhook of a store.",
            {"202": answer("They are processed later.", {JSON: ref("ReceivedEvents")})},
            (*EVENTS, "too-large", _NO_REDIS, "busy"),
            sample='curl -H "Authorization: Bearer $token" --json @notification.json "$api/events"',
            body={
                "required": True,
                "description": "A notification in the form of MinIO, RustFS, Ceph, SeaweedFS, "
                "AWS SNS or AWS EventBridge.",
                "content": {JSON: {"schema": {"type": "object"}}},
            },
        ),
    },
    "/errors": {
        "get": operation(
            "Rejected files, ignored keys, and events that could not be decoded.",
            {
                "200": answer(
                    "The problems.",
                    {JSON: a_list(ref("Trouble"))},
                    _COUNTED | {"X-Ignored-Count": "the number of ignored keys"},
                )
            },
            (_NO_ROWS,),
            _PAGING,
            'curl "$api/errors"',
        ),
    },
    "/health/live": {
        "get": operation(
            "Whether rows can be served.",
            {
                "200": answer("Yes.", {JSON: ref("Live")}),
                "503": answer("Not yet.", {JSON: ref("Live")}),
            },
            sample='curl "$api/health/live"',
            is_open=True,
        ),
    },
    "/health/ready": {
        "get": operation(
            "Whether the pipeline keeps up and no loss is known; if not, the reasons.",
            {
                "200": answer("Yes.", {JSON: ref("Readiness")}),
                "503": answer("No.", {JSON: ref("Readiness")}),
            },
            sample='curl "$api/health/ready"',
        ),
    },
    "/": {
        "get": operation(
            "A short list of the routes.",
            {"200": answer("The routes.", {JSON: ref("Index")})},
            sample='curl "$api/"',
        ),
    },
    "/openapi.json": {
        "get": operation(
            "This description.",
            {"200": answer("OpenAPI 3.1.", {JSON: {"type": "object"}}, _ETAG)} | _NOT_MODIFIED,
            sample='curl "$api/openapi.json"',
        ),
    },
    "/docs": {
        "get": operation(
            "This description as an HTML page.",
            {"200": answer("The page.", {"text/html": ANYTHING}, _ETAG)} | _NOT_MODIFIED,
            sample='curl "$api/docs"',
        ),
    },
}
