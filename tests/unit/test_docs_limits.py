"""Tests that limits, intervals and timeouts in the docs have the values of the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMITS = [
    # page, constant, divisor of its value, text with the value
    ("README.md", "MAX_MEMBERS", 1, "of up to {:,.0f} members"),
    ("README.md", "MAX_CSV_BYTES", 1, "A CSV has at most {:,.0f} bytes"),
    ("docs/formats.md", "MAX_CSV_BYTES", 1, "at most {:,.0f} bytes"),
    ("docs/formats.md", "MAX_FILE_NAME_BYTES", 1, "A name has at most {:g} bytes"),
    ("docs/formats.md", "MAX_MEMBERS", 1, "more than {:,.0f} members"),
    ("docs/formats.md", "MAX_UNPACKED_BYTES", 10**9, "more than {:g} GB"),
    ("docs/formats.md", "MIN_BYTES_FOR_RATIO_CHECK", 10**6, "({:g} MB are always allowed)"),
    ("docs/formats.md", "MAX_MEMBER_IMAGE_BYTES", 10**6, "an image above {:g} MB"),
    ("docs/formats.md", "MAX_UNCHECKED_IMAGE_BYTES", 10**6, "an image above {:g} MB that does"),
    ("docs/formats.md", "MAX_CPU_S", 1, "more than {:g} seconds of processor time"),
    ("docs/formats.md", "MAX_EXTENDED_HEADERS", 1, "more than {:g} extended headers"),
    ("docs/formats.md", "MAX_EXTENDED_HEADER_BYTES", 1 << 20, "one above {:g} MiB"),
    ("docs/formats.md", "MAX_HEADER_RECORDS", 1, "more than {:,.0f} records,"),
    ("docs/formats.md", "MAX_RECORDS", 1, "more than {:,.0f} records together"),
    ("docs/formats.md", "MAX_PATH_LENGTH", 1 << 20, "more than {:g} Mi characters together"),
    ("docs/api.md", "MAX_SEARCH_LENGTH", 1, "at most {:g} characters"),
    ("docs/api.md", "MAX_SEARCH_WORDS", 1, "at most {:g} words"),
    ("docs/api.md", "DEFAULT_HTML_ROWS", 1, "a browser gets: {:g} rows"),
    ("docs/api.md", "MAX_HTML_ROWS", 1, "with `limit` up to {:,.0f}"),
    ("docs/api.md", "MAX_WAIT_S", 1, "(0 to {:g} seconds)"),
    ("docs/api.md", "MAX_LISTED_FILES", 1, "`limit` (1 to {:,.0f}, the default)"),
    ("docs/api.md", "MAX_LISTED_ERRORS", 1, "a page has at most {:,.0f} entries"),
    ("docs/api.md", "MAX_LISTED_IGNORED", 1, "the first {:g}. `X-Ignored-Count`"),
    ("docs/api.md", "MAX_QUOTES", 1, "the first {:g} entries of a page"),
    ("docs/api.md", "MAX_QUOTE_LENGTH", 1, "(at most {:g} characters)"),
    ("docs/api.md", "MAX_LARGE_UPLOADS", 1, "at most {:g} uploads above 1 MiB"),
    ("docs/api.md", "MAX_BODY_BYTES", 1, "It may have 1 MiB ({:,.0f} bytes)"),
    ("docs/api.md", "MAX_EVENTS", 1, "and {:,.0f} different objects at most (413)"),
    ("docs/api.md", "MAX_WAITING_EVENTS", 1, "{:,.0f} events wait already"),
    ("docs/api.md", "MAX_DEAD_LETTERS", 1, "the newest {:,.0f}"),
    ("docs/configuration.md", "MIN_TOKEN_LENGTH", 1, "at least {:g} characters"),
    ("docs/configuration.md", "MAX_PUBLISH_INTERVAL_S", 1, "at most {:g}: for a million rows"),
    ("docs/operations.md", "PROBE_TIMEOUT_S", 1, "does not arrive within {:g} seconds"),
    ("docs/operations.md", "TICK_S", 1, "looks every {:g} seconds"),
    ("docs/protocol.md", "CHUNK_SIZE", 1, "A call names at most {:g} users"),
    ("docs/protocol.md", "MAX_ENTRY_BYTES", 1, "an entry above {:,.0f} bytes"),
    ("docs/protocol.md", "MAX_PEEK_BYTES", 1 << 20, "ends after {:g} MiB"),
    ("docs/formats.md", "COUNTED_INDEX_COPIES", 1, "paths, counts {:g}"),
    ("docs/formats.md", "MAX_SHOWN_PATH_LENGTH", 1, "of a path above {:,.0f} characters"),
    ("docs/protocol.md", "COUNTED_INDEX_COPIES", 1, "the index {:g} times"),
    ("docs/protocol.md", "MAX_INDEX_CACHE_BYTES", 1 << 20, "its cache of {:g} MiB"),
    ("docs/protocol.md", "MAX_LOAD_S", 1, "loads indexes for {:g} s at most"),
    ("docs/protocol.md", "MAX_READ_S", 1, "After {:g} s no further request is started"),
    ("docs/protocol.md", "WAKEUP_TIMEOUT_S", 1, "the publisher's own check every {:g} s"),
    ("docs/protocol.md", "DEADLINE_S", 1, "when a read takes {:g} s"),
    ("docs/protocol.md", "WRITER_LEASE_MS", 1000, "writer lease ({:g} s)"),
    ("docs/protocol.md", "MANIFEST_EVERY_S", 1, "when idle, or every {:g} s"),
    ("docs/protocol.md", "EVENT_DELAY_S", 1, "the sweep waits {:g} s, and"),
    ("docs/protocol.md", "MAX_PAUSE_S", 1, "at most until {:g} s for events that wait"),
    ("docs/protocol.md", "MAX_SILENT_DRIFT", 1, "at most {:,.0f} of a sweep;"),
    ("docs/protocol.md", "MIN_USERS_FOR_LIST", 1, "from {:g} users on"),
    ("docs/protocol.md", "MAX_PAGE_USERS", 1, "Pages of {:,.0f} users"),
    ("docs/protocol.md", "MAX_BYTES_IN_FLIGHT", 1 << 20, "{:g} MiB of images"),
    ("docs/protocol.md", "MAX_DELETED_COPIES", 1, "At most {:g} per publish"),
    ("docs/protocol.md", "RECOVERY_CHECK_EVERY_S", 1, "one byte of each every {:g} s"),
    ("docs/protocol.md", "MAX_RETRIES_PER_SWEEP", 1, "A sweep grants at most {:g} such bundles"),
    ("docs/protocol.md", "TICK_S", 1, "Each tick, every {:g} s"),
    ("docs/protocol.md", "OVERDUE_S", 1, "users dirty for {:g} s and unread"),
    ("docs/architecture.md", "MARGIN_S", 1, "Otherwise it is {:g} s before the last look"),
    ("docs/architecture.md", "PROCESS_TIMEOUT_S", 1, "without a heartbeat for {:g} s"),
    ("docs/architecture.md", "SEGMENT_BYTES", 1 << 20, "in segments of {:g} MiB"),
    ("docs/architecture.md", "LEASE_TTL_S", 1, "when the lease ({:g} s) has expired"),
    ("docs/architecture.md", "LEASE_TTL_S", 1, "when its lease ({:g} s) has expired"),
    ("docs/decisions/0007-messages-are-hints.md", "VISIBILITY_TIMEOUT_S", 60, "is {:g} minutes"),
    ("docs/decisions/0016-throttle-publishing.md", "LIVE_FRACTION", 0.01, "to {:g} % of the time"),
    ("docs/decisions/0016-throttle-publishing.md", "BULK_FRACTION", 0.01, "to {:g} % for bulk"),
    ("docs/decisions/0020-do-not-poll-output-csv.md", "POLL_INTERVAL_S", 1, "ETag every {:g} s"),
    (
        "docs/decisions/0029-no-thread-per-connection.md",
        "REQUEST_TIMEOUT_S",
        1,
        "complete within {:g} s",
    ),
    ("docs/decisions/0029-no-thread-per-connection.md", "MAX_HEAD_BYTES", 1024, "at most {:g} KiB"),
    (
        "docs/decisions/0029-no-thread-per-connection.md",
        "SEND_TIMEOUT_S",
        1,
        "within {:g} s is disconnected",
    ),
    (
        "docs/decisions/0029-no-thread-per-connection.md",
        "MAX_UNSENT_BYTES",
        1 << 20,
        "at most {:g} MiB",
    ),
    (
        "docs/decisions/0029-no-thread-per-connection.md",
        "MAX_CONNECTIONS",
        1,
        "at most {:g} connections",
    ),
    ("docs/decisions/0030-transfer-objects-in-segments.md", "MAX_LARGE_UPLOADS", 1, "one of {:g}"),
]


@cache
def read_constants() -> dict[str, set[float]]:
    """Map each constant of the code with a number to its values, in any module."""
    values_by_name: dict[str, set[float]] = {}
    for folder in ("worker", "api", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                match node:
                    case ast.Assign([ast.Name(name)], value) if name.isupper():
                        number = read_number(ast.unparse(value))
                        if number is not None:
                            values_by_name.setdefault(name, set()).add(number)
    return values_by_name


def read_number(text: str) -> float | None:
    """Return the value of an expression such as `5.0` or `16 << 20`, or None."""
    shifted = re.fullmatch(r"(\d+) << (\d+)", text)
    if shifted:
        return int(shifted[1]) << int(shifted[2])
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


@pytest.mark.parametrize(("page", "name", "divisor", "text"), LIMITS)
def test_docs_limits_equal_those_of_the_code(
    page: str, name: str, divisor: float, text: str
) -> None:
    values = read_constants()[name]
    words = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert [value for value in values if text.format(round(value / divisor, 6)) in words]
