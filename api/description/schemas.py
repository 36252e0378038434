"""JSON Schemas of the API's responses and parameters.  Pure."""

from collections.abc import Sequence
from typing import Any

from api.web.problem_kinds import PROBLEM_KINDS

Schema = dict[str, Any]

LARGEST_BIRTHTS = 10**15 - 1


def ref(name: str) -> Schema:
    """Return a reference to the schema with this name in `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str = "", **more: object) -> Schema:
    """Return the schema of a string."""
    return ({"description": description} if description else {}) | {"type": "string", **more}


def number(description: str = "", kind: str = "integer", **more: object) -> Schema:
    """Return the schema of a number."""
    return ({"description": description} if description else {}) | {"type": kind, **more}


def maybe(schema: Schema) -> Schema:
    """Return a schema that also allows null."""
    return {**schema, "type": [schema["type"], "null"]}


def an_object(
    properties: dict[str, Schema], optional: Sequence[str] = (), description: str = ""
) -> Schema:
    """Return the schema of an object with only these properties, required unless `optional`."""
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return (
        schema
        | ({"required": required} if required else {})
        | ({"description": description} if description else {})
    )


def a_list(items: Schema) -> Schema:
    """Return the schema of a JSON array."""
    return {"type": "array", "items": items}


_TIME = text("ISO 8601 in UTC", format="date-time")
_COUNT = number(minimum=0)
_SECONDS = number("seconds", kind="number", minimum=0)
_COUNTS = {"type": "object", "additionalProperties": _COUNT}

_ROW = {
    "user_id": text("the file's name without its extension", minLength=1),
    "first_name": text(),
    "last_name": text(),
    "birthts": number(
        "birth date in milliseconds since 1970 UTC",
        minimum=-LARGEST_BIRTHTS,
        maximum=LARGEST_BIRTHTS,
    ),
    "img_path": maybe(text("bucket and key of the image; null without one")),
}
_FILTERS = {"is_image_exists": {"type": "boolean"}, "min_age": number(), "max_age": number()}

SCHEMAS: dict[str, Schema] = {
    "User": an_object(_ROW, description="A row."),
    "SomeFields": an_object(_ROW, tuple(_ROW), "A row, or only its requested fields."),
    "Statistics": an_object(
        {
            "count": _COUNT,
            "average_age": maybe(number("mean of full years, two decimals", kind="number")),
            "average_birthts": maybe(
                number("mean of the birth dates in milliseconds since 1970 UTC")
            ),
            "filters": an_object(_FILTERS, tuple(_FILTERS), "The filters that were applied."),
            "message": text("only if no row passes the filters"),
        },
        ("message",),
    ),
    "Task": an_object(
        {
            "task_id": text(),
            "state": text(enum=["queued", "running", "done", "failed"]),
            "done": number("users read and published", minimum=0),
            "total": maybe(number("users of the rebuild that are known so far", minimum=0)),
            "queued_at": maybe(_TIME),
            "started_at": maybe(_TIME),
            "finished_at": maybe(_TIME),
            "error": text("why it failed"),
        },
        ("error",),
    ),
    "Unpack": an_object(
        {
            "task_id": text(),
            "bundle": text("the archive's name in the source bucket"),
            "state": text(
                enum=["unpacking", "publishing", "done", "rejected", "failed", "removed"]
            ),
            "done": number("members unpacked", minimum=0),
            "total": maybe(
                number("members of the archive; null until their number is known", minimum=0)
            ),
            "users": number("users with files in the archive", minimum=0),
            "published": number("users of the archive with published rows", minimum=0),
            "ignored": number("members that are not a user's file", minimum=0),
            "started_at": maybe(_TIME),
            "finished_at": maybe(_TIME),
            "error": text("why it was rejected, or why it failed"),
        },
        ("error",),
    ),
    "Waiting": an_object(
        {
            "bundle": text("the archive's name in the source bucket"),
            "state": text(enum=["waiting"]),
        },
        description="A bundle that is not unpacked yet: bundles are unpacked one at a time.",
    ),
    "Rebuild": an_object(
        {
            "task_id": text(),
            "status": text(enum=["queued", "running", "done", "updated"]),
            "done": _COUNT,
            "total": maybe(_COUNT),
            "queued_at": maybe(_TIME),
            "started_at": maybe(_TIME),
            "finished_at": maybe(_TIME),
            "message": text(),
        },
        ("done", "total", "queued_at", "started_at", "finished_at", "message"),
        "`updated`: every API process serves the result.  "
        "Fields after `status`: only after waiting.",
    ),
    "Refresh": an_object(
        {"user_id": text(), "status": text(enum=["queued", "updated"]), "message": text()},
        ("message",),
    ),
    "File": an_object(
        {
            "name": text(),
            "user_id": maybe(text("the user of the file; null if it is not a user's file")),
            "size": number("bytes", minimum=0),
            "etag": text(),
            "last_modified": _TIME,
            "ignored": maybe(text("why it is not a user's file")),
        }
    ),
    "Accepted": an_object(
        {
            "name": text(),
            "user_id": maybe(text()),
            "status": text(enum=["stored", "deleted"]),
            "size": number("bytes", minimum=0),
            "etag": text(),
            "look_at": text("the address that will show the effect"),
        },
        ("size", "etag"),
    ),
    "ReceivedEvents": an_object(
        {
            "accepted": number("events that will be processed", minimum=0),
            "ignored": number("events of other buckets, and messages about no object", minimum=0),
        }
    ),
    "Trouble": an_object(
        {
            "key": maybe(text()),
            "user_id": maybe(text()),
            "kind": text(enum=["rejected", "held", "ignored", "dead_letter"]),
            "reason": text(),
            "line": maybe(number(minimum=1)),
            "since": _TIME,
        }
    ),
    "Live": an_object({"live": {"type": "boolean"}}),
    "Readiness": an_object(
        {
            "ready": {"type": "boolean"},
            "reasons": a_list(text()),
            "warnings": a_list(text()),
            "snapshot_age_s": maybe(_SECONDS),
            "redis_age_s": maybe(_SECONDS),
            "dirty_users": maybe(_COUNTS),
            "oldest_dirty_age_s": maybe(_SECONDS),
            "consistent_as_of": maybe(_TIME),
            "last_publish_at": maybe(_TIME),
            "last_sweep_at": maybe(_TIME),
            "last_sweep": maybe(
                an_object({"at": _TIME, "cause": text(), "objects": _COUNT, "marked": _COUNT})
            ),
            "events_waiting": maybe(_COUNT),
            "rows": maybe(_COUNT),
            "rejected": _COUNT,
            "held": _COUNT,
            "ignored": maybe(_COUNT),
            "dead_letters": maybe(_COUNT),
            "lost_and_healed": maybe(an_object({"count": _COUNT, "since": maybe(_TIME)})),
            "evidence": maybe(an_object({"counts": _COUNTS, "since": maybe(_TIME)})),
        }
    ),
    "Index": an_object(
        {
            "service": text(),
            "documentation": text(),
            "routes": a_list(
                an_object(
                    {
                        "method": text(),
                        "path": text(),
                        "description": text(),
                        "token": text(
                            "the kind of token that a client elsewhere needs",
                            enum=["none", "read", "write", "events"],
                        ),
                        "parameters": {"type": "object", "additionalProperties": text()},
                    }
                )
            ),
        }
    ),
    "Problem": {
        "type": "object",
        "description": "Why a request failed: a problem document (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": text(
                "the address of its explanation", enum=[f"/docs#{kind}" for kind in PROBLEM_KINDS]
            ),
            "title": text(),
            "status": number(minimum=400, maximum=599),
            "detail": text("what went wrong in this request, and how to correct it"),
            "parameter": text("the parameter that is invalid"),
            "allowed": {
                "description": "what is allowed",
                "type": ["string", "array"],
                "items": text(),
            },
            "most_bytes": number("the limit of the body in bytes", minimum=1),
            "task_id": text("the rebuild that failed"),
        },
        "additionalProperties": False,
    },
}
"""The schemas, by the names that `api.description.operations` uses."""
