"""Generated keys: each key that MinIO accepts gives a row or a reject, or is ignored with a reason.

The result must be the same by MinIO's own event and by a sweep.
"""

import io
import json
import re
import time
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minio import Minio
from minio.error import S3Error

from shared.redis_keys import IGNORED_COUNT, IGNORED_KEYS
from tests.factories import make_csv_body
from tests.faults.case_form import CaseForm
from tests.integration.stepping import RowdropHarness
from worker.commands.init import Initializer
from worker.listener import Listener
from worker.source.ignored_keys import MAX_LISTED_IGNORED

pytestmark = pytest.mark.minio_events
EVENT_TIMEOUT_S = 30
UNUSUAL_KEYS = [
    "a b.csv", "a+b.csv", "a%20b.csv", "%.csv", "100%25.csv", "a&b=c.csv", "a#b?c.csv", " .csv",
    "\u00a0.csv", unicodedata.normalize("NFC", "é.csv"), unicodedata.normalize("NFD", "é.csv"),
    "\u202eabc.csv", "👩‍👩‍👧.csv", ".hidden.csv", "..csv", "...csv", ".csv", "csv", "a.b.csv",
    "a..csv", "-.csv", "=1+1.csv", "1.CSV", "x.Csv", "folder/1.csv", "a/../b.csv", "./a.csv",
    "//a.csv", "..", "a/..", "/", "a\\b.csv", "a\tb.csv", "a\nb.csv", "a\x7fb.csv", "\x01.csv",
    "\u2028.csv", "\x85.csv", 'q"q.csv', "q,q.csv", "'.csv", "ctrl\x00.csv", "x" * 251 + ".csv",
    "é" * 125 + ".csv", "x" * 1020 + ".csv", "d/" * 510 + "csv", ("x" * 200 + "/") * 5 + "a.csv",
    "1.csv.csv", "1.png.csv", "._1.csv", "~$1.csv", ".~lock.1.csv", ".~lock.1.csv#", "1.csv ",
    "._u.zip", "~1.csv", "#1.csv", "@1.csv", "$1.csv", "1.csv.", ".~loc.csv", "._.csv",
    "a\ufffe.csv", "\uffff.csv", "\ufffd.csv",
]  # fmt: skip
# The rules of docs/formats.md, written once more: which keys are read.
NAME = r"(?!\._|~\$|\.~lock)(?P<name>[^\x00-\x1f\x7f\ufffe\uffff/]+)"
USER_KEY = re.compile(rf"{NAME}\.(?P<extension>csv|png|jpg|jpeg)")
BUNDLE_KEY = re.compile(rf"{NAME}\.(?:zip|tar|tar\.gz|tgz)")
STEMS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
KEYS = (
    st.sampled_from(UNUSUAL_KEYS)
    | STEMS.map("{}.csv".format)
    | st.text(max_size=30)
    | STEMS.map("{}/x.csv".format)
)


@pytest.fixture
def listener(rowdrop: RowdropHarness) -> Listener:
    Initializer(rowdrop.services).run()
    return rowdrop.create_listener()


def test_listener_and_sweep_handle_every_key_minio_accepts(
    form: CaseForm,
    rowdrop: RowdropHarness,
    listener: Listener,
    minio_client: Minio,
) -> None:
    @hypothesis.seed(form.seed)
    @form.build_settings(short=5, long=40, shrink=False)
    @given(st.lists(KEYS, min_size=30, max_size=60, unique=True))
    def check_keys(keys: list[str]) -> None:
        before = users_of(keys_of(rowdrop))
        for key in keys:
            put_if_accepted(minio_client, rowdrop.source.bucket, key)
        stored_keys = keys_of(rowdrop)  # MinIO stores "//a.csv" and "./a.csv" as "a.csv"
        new = users_of(stored_keys) - before
        wait_until_marked(rowdrop, listener, new)
        rowdrop.services.refresher.refresh(sorted(new))
        rowdrop.publish_pending()
        assert rowdrop.read_rows().keys() >= new
        rowdrop.publisher.write_manifest()
        rowdrop.run_sweep()
        assert rowdrop.read_rows().keys() == users_of(stored_keys)
        assert rowdrop.find_differences() == []
        check_ignored_keys(
            rowdrop,
            [
                key
                for key in stored_keys
                if not USER_KEY.fullmatch(key) and not BUNDLE_KEY.fullmatch(key)
            ],
        )

    check_keys()


def put_if_accepted(client: Minio, bucket: str, key: str) -> None:
    """Put an object under this key, unless MinIO refuses the key."""
    body = make_csv_body({"first_name": "Ada"})
    with suppress(S3Error, ValueError):
        client.put_object(bucket, key, io.BytesIO(body), len(body))


def keys_of(rowdrop: RowdropHarness) -> list[str]:
    return [info.key for page in rowdrop.source.list_objects() for info in page]


def users_of(keys: Iterable[str]) -> set[str]:
    """Return the users that have a CSV among these keys."""
    matches = map(USER_KEY.fullmatch, keys)
    return {match["name"] for match in matches if match and match["extension"] == "csv"}


def wait_until_marked(rowdrop: RowdropHarness, listener: Listener, users: set[str]) -> None:
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while not rowdrop.state.users.dirty_users() >= users:
        listener.run_once(0.1)
        missing = users - rowdrop.state.users.dirty_users()
        assert time.monotonic() < deadline, (
            f"expected an event of each user within the timeout, found none of {missing}"
        )


def check_ignored_keys(rowdrop: RowdropHarness, keys: list[str]) -> None:
    """Check that all keys are counted, and that at most `MAX_LISTED_IGNORED` have a reason."""
    redis: Any = rowdrop.services.clients.redis
    assert int(redis.get(IGNORED_COUNT)) == len(keys)
    listed = {
        key.decode(): json.loads(entry)["reason"]
        for key, entry in redis.hgetall(IGNORED_KEYS).items()
    }
    assert len(listed) == min(len(keys), MAX_LISTED_IGNORED)
    assert all(listed.values())
    assert listed.keys() <= set(keys)
