"""Receipts on a real Redis and MinIO: written by the publisher, answered by the API."""

import time
from copy import copy
from dataclasses import replace
from typing import Any

import pytest
from falcon.testing import Result
from redis import Redis

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.app import create_app
from api.description.openapi import DOCUMENT
from api.snapshot.follower import FollowerConnections, SnapshotPoller
from shared.formats.records import CsvVersion, InvalidCsv, ReadResult
from shared.progress.receipts import (
    MAX_RECEIPT_USERS,
    MAX_USER_BYTES,
    MAX_USER_RECEIPTS,
    RECEIPT_TTL_S,
    PublishTimes,
    Receipts,
)
from shared.redis_keys import CHANGE_VERSIONS, READ_TIMES, RECEIPT_TIMES, RECEIPTS
from shared.s3.files import open_file_store
from shared.settings import Settings
from shared.text import format_time
from tests.api_parts import ApiClient, make_dependencies
from tests.api_process import wait_until
from tests.archives import make_zip
from tests.integration.stepping import RowdropHarness, make_csv

INVALID = b"first_name,last_name,birthts\nAnn,Lee,soon\n"
TIMES = ("event_at", "read_at", "published_at", "visible_at")


class Api:
    """The application with a follower that the test moves."""

    def __init__(self, rowdrop: RowdropHarness, settings: Settings, redis: "Redis") -> None:
        self._rowdrop = rowdrop
        self._poller = SnapshotPoller(FollowerConnections(rowdrop.output, redis), time.time)
        self._parts = make_dependencies(
            redis, lambda: self._poller.view, open_file_store(settings, settings.source_bucket)
        )
        app = create_app(self._parts, CrossSiteMiddleware(), AuthMiddleware(AccessRules()))
        self._client = ApiClient(app, headers={"Host": "localhost"})

    def follow(self) -> None:
        self._poller.poll_once()

    def follow_until_consistent(self, as_of: float) -> None:
        """Follow as if everything that was dropped before `as_of` (Unix seconds) is published."""
        self.follow()
        self._poller.view = replace(self._poller.view, consistent_as_of=as_of)

    def process(self, *users: str) -> None:
        """Read and publish these users as after an event, and follow."""
        self._rowdrop.process_users(*users)
        self.follow()

    def open_to_everyone(self) -> "Api":
        """Return the same API for a client that only reads because of `PUBLIC_READ`."""
        public = copy(self)
        rules = AccessRules(allowed_hosts=("*",), public_read=True)
        public._client = ApiClient(
            create_app(self._parts, CrossSiteMiddleware(), AuthMiddleware(rules)),
            headers={"Host": "192.0.2.1"},
        )
        return public

    def get(self, path: str, **parameters: str) -> Result:
        return self._client.simulate_get(path, params=parameters)

    def get_receipt(self, name: str, **parameters: str) -> Any:  # noqa: ANN401
        answer = self.get(f"/files/{name}/receipt", **parameters)
        assert answer.status_code == 200, answer.text
        schema = DOCUMENT["components"]["schemas"]["Receipt"]
        assert set(schema["required"]) <= answer.json.keys() <= schema["properties"].keys()
        return answer.json


@pytest.fixture
def api(rowdrop: RowdropHarness, settings: Settings, redis: "Redis") -> Api:
    """Return an API that has followed the empty table, so that it knows of each version."""
    rowdrop.publish_pending()
    api = Api(rowdrop, settings, redis)
    api.follow()
    return api


def test_receipt_of_row_has_times_in_order(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    before = format_time(time.time()) or ""
    api.process("0001")
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["reason"], receipt["line"]) == ("row", None, None)
    assert receipt["row"] == api.get("/data/0001").json
    assert receipt["etag"] == rowdrop.source.get_etag("0001.csv")
    assert receipt["version"] == rowdrop.output.get_etag("output.csv")
    times = [receipt[name] for name in TIMES]
    assert [before, *times] == sorted([before, *times])
    assert [each["etag"] for each in receipt["history"]] == [receipt["etag"]]


def test_receipt_is_pending_until_process_serves_it(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0000", make_csv("Zoe"))
    api.process("0000")
    rowdrop.put_files("0001", make_csv("Ann"))
    assert api.get_receipt("0001.csv")["result"] == "pending"
    rowdrop.read_users("0001")
    assert api.get_receipt("0001.csv")["result"] == "pending"
    rowdrop.publish_pending()
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["visible_at"]) == ("pending", None)
    assert receipt["published_at"]
    api.follow()
    assert api.get_receipt("0001.csv")["result"] == "row"


def test_receipt_is_visible_with_next_version_that_process_loads(
    api: Api, rowdrop: RowdropHarness
) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    rowdrop.process_users("0001")
    rowdrop.put_files("0002", make_csv("Bob"))
    api.process("0002")
    skipped, loaded = api.get_receipt("0001.csv"), api.get_receipt("0002.csv")
    assert skipped["version"] != loaded["version"]
    assert skipped["visible_at"] == loaded["visible_at"] > loaded["published_at"]


def test_receipt_keeps_its_time_when_its_version_returns(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    receipt = api.get_receipt("0001.csv")
    rowdrop.put_files("0002", make_csv("Bob"))
    api.process("0002")
    rowdrop.source.delete("0002.csv")
    api.process("0002")
    assert rowdrop.output.get_etag("output.csv") == receipt["version"]
    assert api.get_receipt("0001.csv") == receipt


def test_receipt_is_pending_until_process_serves_returned_version(
    api: Api, rowdrop: RowdropHarness
) -> None:
    """The process has served this output.csv before, but serves another one now."""
    for name in ("Ann", "Bob"):
        rowdrop.put_files("0001", make_csv(name))
        api.process("0001")
    rowdrop.put_files("0001", make_csv("Ann"))
    rowdrop.process_users("0001")
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["visible_at"]) == ("pending", None)
    api.follow()
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["row"]["first_name"]) == ("row", "Ann")
    assert receipt["visible_at"] > receipt["published_at"]


def test_receipt_of_earlier_publish_has_no_visible_time(
    rowdrop: RowdropHarness, settings: Settings, redis: "Redis"
) -> None:
    """Other processes have served it, and a restart does not change since when."""
    rowdrop.put_files("0001", make_csv("Ann"))
    rowdrop.process_users("0001")
    api = Api(rowdrop, settings, redis)
    api.follow()
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["visible_at"]) == ("row", None)
    assert receipt["published_at"]


def test_receipt_of_reject_has_reason_and_line(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    valid_etag = rowdrop.source.get_etag("0001.csv")
    rowdrop.put_files("0001", INVALID)
    api.process("0001")
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["line"], receipt["held"]) == ("rejected", 2, True)
    assert receipt["reason"].startswith("birthts: ")
    assert receipt["row"]["first_name"] == "Ann"
    assert [each["etag"] for each in receipt["history"]] == [receipt["etag"], valid_etag]
    older = api.get_receipt("0001.csv", etag=valid_etag or "")
    assert (older["result"], older["etag"]) == ("superseded", valid_etag)
    assert older["published_at"] < receipt["published_at"]


def test_receipt_of_reject_is_pending_until_process_serves_it(
    api: Api, rowdrop: RowdropHarness
) -> None:
    """A reject changes no row, so the version of output.csv does not show it."""
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    rowdrop.put_files("0001", INVALID)
    rowdrop.process_users("0001")
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["history"][0]["line"]) == ("pending", 2)
    api.follow()
    assert api.get_receipt("0001.csv")["result"] == "rejected"


def test_receipt_of_removed_file_stays(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    rowdrop.source.delete("0001.csv")
    api.process("0001")
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["etag"]) == ("removed", None)
    assert api.get("/files/0002.csv/receipt").status_code == 404
    assert api.get("/files/..%2F0002.csv/receipt").status_code == 404


def test_receipt_shows_public_nothing_of_the_past(api: Api, rowdrop: RowdropHarness) -> None:
    """The ETag of a CSV is a digest of few unknown characters: who has it can find them."""
    rowdrop.put_files("0001", INVALID)
    api.process("0001")
    old_etag = rowdrop.source.get_etag("0001.csv") or ""
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    public = api.open_to_everyone()
    receipt = public.get_receipt("0001.csv")
    assert receipt == {**api.get_receipt("0001.csv"), "history": []}
    assert receipt["result"] == "row"
    assert receipt["visible_at"]
    known = public.get_receipt("0001.csv", etag=old_etag)
    unknown = public.get_receipt("0001.csv", etag="0" * 32)
    assert {**known, "etag": ""} == {**unknown, "etag": ""}
    rowdrop.source.delete("0001.csv")
    api.process("0001")
    assert api.get_receipt("0001.csv")["result"] == "removed"
    assert public.get("/files/0001.csv/receipt").status_code == 404
    assert public.get("/files/0001.csv/receipt", etag=old_etag).status_code == 404


def test_receipt_needs_first_publish(
    rowdrop: RowdropHarness, settings: Settings, redis: "Redis"
) -> None:
    rowdrop.source.put("0001.png", b"image")
    api = Api(rowdrop, settings, redis)
    assert api.get("/files/0001.png/receipt").status_code == 503


def test_receipt_of_image_is_part_of_row(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.source.put("0001.png", b"image")
    api.process("0001")
    receipt = api.get_receipt("0001.png")
    assert (receipt["result"], receipt["row"]) == ("part", None)
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    receipt = api.get_receipt("0001.png")
    assert (receipt["result"], receipt["row"]["first_name"]) == ("part", "Ann")
    rowdrop.source.put("0001.jpg", b"another")
    assert api.get_receipt("0001.jpg")["result"] == "pending"

    def is_read() -> bool:
        api.process("0001")
        results = {api.get_receipt(name)["result"] for name in ("0001.png", "0001.jpg")}
        return results == {"part", "superseded"}

    wait_until(is_read)


def test_receipt_of_image_is_pending_until_process_serves_it(
    api: Api, rowdrop: RowdropHarness
) -> None:
    """Until then its row has no image, or an earlier one."""
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    rowdrop.source.put("0001.png", b"image")
    rowdrop.process_users("0001")
    assert api.get_receipt("0001.png")["result"] == "pending"
    api.follow()
    assert api.get_receipt("0001.png")["result"] == "part"


def test_receipt_of_bundle_has_no_times_of_an_older_reject(
    api: Api, rowdrop: RowdropHarness
) -> None:
    rejected_etag = rowdrop.source.put("u.zip", b"PK is not enough")
    rowdrop.process_bundles("u.zip")
    api.follow()
    rejected = api.get_receipt("u.zip")
    assert (rejected["result"], rejected["etag"]) == ("rejected", rejected_etag)
    assert rejected["published_at"]
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv("Ann")}))
    receipt = api.get_receipt("u.zip")
    assert (receipt["result"], [receipt[name] for name in TIMES]) == ("pending", [None] * 4)
    rowdrop.process_bundles("u.zip")
    api.follow_until_consistent(time.time() + 2)
    receipt = api.get_receipt("u.zip")
    assert (receipt["result"], receipt["version"]) == ("unpacked", None)
    assert [receipt[name] for name in TIMES] == [None] * 4
    assert [each["etag"] for each in receipt["history"]] == [rejected_etag]
    older = api.get_receipt("u.zip", etag=rejected_etag)
    assert (older["result"], older["published_at"]) == ("superseded", rejected["published_at"])


def test_receipt_of_image_has_no_times_of_an_older_version(
    api: Api, rowdrop: RowdropHarness
) -> None:
    rowdrop.put_files("0001")
    older_etag = rowdrop.source.put("0001.png", b"image")

    def is_read() -> bool:
        api.process("0001")
        return bool(api.get_receipt("0001.png")["result"] == "part")

    wait_until(is_read)
    assert all(api.get_receipt("0001.png")[name] for name in TIMES)

    def is_replaced_later() -> bool:
        """Replace the image in a later second than that of the last read."""
        rowdrop.source.put("0001.png", b"another")
        return bool(api.get_receipt("0001.png")["result"] == "pending")

    wait_until(is_replaced_later)
    receipt = api.get_receipt("0001.png")
    assert [receipt[name] for name in TIMES] == [None] * 4
    superseded = api.get_receipt("0001.png", etag=older_etag)
    assert (superseded["result"], superseded["published_at"]) == ("superseded", None)


def test_receipt_of_new_version_without_receipt_is_pending(
    api: Api, rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    """That the user is not dirty proves nothing: the event may be on the way."""
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    redis.delete(RECEIPTS, RECEIPT_TIMES)
    rowdrop.put_files("0001", make_csv("Bob"))
    api.follow_until_consistent(time.time())
    assert api.get_receipt("0001.csv")["result"] == "pending"
    rowdrop.source.put("u.zip", b"not read yet")
    assert api.get_receipt("u.zip")["result"] == "pending"


def test_receipt_of_ignored_key_has_reason(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    rowdrop.source.put("1.CSV", b"x")
    receipt = api.get_receipt("1.CSV")
    assert (receipt["result"], receipt["user_id"]) == ("ignored", None)
    assert "1.csv" in receipt["reason"]


def test_receipt_needs_no_times_for_result(
    api: Api, rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    redis.delete(RECEIPTS, RECEIPT_TIMES)
    assert api.get_receipt("0001.csv")["result"] == "pending"
    api.follow_until_consistent(time.time() + 2)
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["row"]["first_name"]) == ("row", "Ann")
    assert [receipt[name] for name in TIMES] == [None] * 4
    assert receipt["history"] == []


def test_explain_names_files_of_row(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"), images=["png"])
    api.process("0001")
    row = api.get("/data/0001").json
    explained = api.get("/data/0001", explain="1").json
    assert {name: explained[name] for name in row} == row
    explanation = explained["explain"]
    assert (explanation["csv"], explanation["image"]) == ("0001.csv", "0001.png")
    assert explanation["csv_etag"] == rowdrop.source.get_etag("0001.csv")
    assert explanation["is_changing"] is False
    assert all(explanation[name] for name in TIMES)
    assert "explain" not in api.get("/data/0001", explain="0").json


def test_rebuild_writes_receipts_only_of_changed_users(
    api: Api, rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    receipt = api.get_receipt("0001.csv")
    rowdrop.put_files("0002", make_csv("Bob"))
    rowdrop.mark_users("0001", "0002", cause="rebuild")
    rowdrop.services.refresher.refresh(["0001", "0002"])
    rowdrop.publish_pending()
    api.follow()
    assert api.get_receipt("0001.csv") == receipt
    repaired = api.get_receipt("0002.csv")
    assert (repaired["result"], repaired["event_at"]) == ("row", None)
    assert redis.hlen(READ_TIMES) == 0


def test_receipts_keep_the_newest_of_a_user(api: Api, rowdrop: RowdropHarness) -> None:
    for number in range(MAX_USER_RECEIPTS + 2):
        rowdrop.put_files("0001", make_csv(f"Ann{number}"))
        api.process("0001")
    history = api.get_receipt("0001.csv")["history"]
    assert len(history) == MAX_USER_RECEIPTS
    assert history[0]["etag"] == rowdrop.source.get_etag("0001.csv")
    times = [each["published_at"] for each in history]
    assert times == sorted(times, reverse=True)


def test_receipt_of_file_read_again_replaces_its_entry(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    first = api.get_receipt("0001.csv")
    api.process("0001")
    again = api.get_receipt("0001.csv")
    assert [each["etag"] for each in again["history"]] == [first["etag"]]
    assert again["read_at"] > first["read_at"]
    rowdrop.put_files("0001", make_csv("Bob"))
    api.process("0001")
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    history = api.get_receipt("0001.csv")["history"]
    assert [each["etag"] == first["etag"] for each in history] == [True, False, True]


@pytest.mark.parametrize(("first_mark", "kept_mark"), [(1.0, 1.0), (3.0, None), (None, None)])
def test_receipts_know_no_event_after_the_read(
    redis: "Redis", first_mark: float | None, kept_mark: float | None
) -> None:
    """The event of an upload with `?wait=` may come after its read; the file is then read again."""
    receipts = Receipts(redis)
    csv = InvalidCsv(CsvVersion("1.csv", "etag", 0), "a reason", 1)
    results = {"1": ReadResult("1", csv, None)}
    marks = {} if first_mark is None else {"1": first_mark}
    receipts.write(results, ["1"], PublishTimes(marks, {"1": 2.0}), "etag", 5.0)
    receipts.write(results, [], PublishTimes({"1": 5.0}, {"1": 4.0}), "etag", 6.0)
    (receipt,), _ = receipts.read_user("1")
    assert (receipt.marked_at, receipt.read_at, receipt.published_at) == (kept_mark, 4.0, 6.0)


def test_receipts_know_no_event_of_a_new_file(redis: "Redis") -> None:
    receipts = Receipts(redis)
    for etag, marked_at, read_at in (("old", 1.0, 2.0), ("new", 5.0, 4.0)):
        csv = InvalidCsv(CsvVersion("1.csv", etag, 0), "a reason", 1)
        times = PublishTimes({"1": marked_at}, {"1": read_at})
        receipts.write({"1": ReadResult("1", csv, None)}, [], times, "etag", 6.0)
    assert [each.marked_at for each in receipts.read_user("1")[0]] == [None, 1.0]


def write_receipts(receipts: Receipts, users: list[str], now: float) -> None:
    results = {user: ReadResult(user, None, None) for user in users}
    receipts.write(results, results.keys(), PublishTimes({}, {}), "etag", now)


def test_receipts_expire_after_a_week(redis: "Redis") -> None:
    receipts = Receipts(redis)
    write_receipts(receipts, ["old"], 0.0)
    write_receipts(receipts, ["new"], RECEIPT_TTL_S - 1.0)
    assert receipts.read_user("old")[0]
    write_receipts(receipts, ["newest"], RECEIPT_TTL_S + 1.0)
    assert receipts.read_user("old") == ([], False)
    assert receipts.read_user("new")[0]
    assert redis.hlen(RECEIPTS) == redis.zcard(RECEIPT_TIMES) == 2


def test_receipts_stay_within_limit(redis: "Redis") -> None:
    receipts = Receipts(redis)
    redis.zadd(RECEIPT_TIMES, {str(number): 2.0 for number in range(MAX_RECEIPT_USERS - 1)})
    write_receipts(receipts, ["oldest", "older"], 0.0)
    write_receipts(receipts, ["kept"], 1.0)
    assert redis.zcard(RECEIPT_TIMES) == MAX_RECEIPT_USERS
    assert redis.hkeys(RECEIPTS) == [b"kept"]


LONG_PATH = "bundle.zip#" + "a" * MAX_USER_BYTES
"""The source of a member: a path in a bundle may be long."""


def write_source(receipts: Receipts, user: str, source: str, now: float) -> None:
    csv = InvalidCsv(CsvVersion(source, f"{now:04.0f}", 0), "a reason", 1)
    receipts.write({user: ReadResult(user, csv, None)}, [user], PublishTimes({}, {}), "etag", now)


@pytest.mark.parametrize(("length", "count"), [(1, 5), (250, 4), (600, 1), (1_200, 0)])
def test_receipts_of_user_stay_within_bytes(redis: "Redis", length: int, count: int) -> None:
    receipts = Receipts(redis)
    user = "ü" * (length // 2) + "u"
    for number in range(MAX_USER_RECEIPTS):
        write_source(receipts, user, f"{user}.csv", float(number))
    kept, _ = receipts.read_user(user)
    assert [each.published_at for each in kept] == [4.0, 3.0, 2.0, 1.0, 0.0][:count]
    entries = redis.hgetall(RECEIPTS)
    assert sum(2 * len(name) + len(entry) for name, entry in entries.items()) <= 2_000
    assert redis.zcard(RECEIPT_TIMES) == len(entries)


def test_receipts_keep_nothing_older_than_a_long_one(redis: "Redis") -> None:
    receipts = Receipts(redis)
    write_source(receipts, "1", "1.csv", 1.0)
    write_source(receipts, "1", LONG_PATH, 2.0)
    assert receipts.read_user("1") == ([], False)
    assert redis.exists(RECEIPTS, RECEIPT_TIMES) == 0


def test_receipts_replace_entries_in_another_form(redis: "Redis") -> None:
    """A value of another release is no error, neither of a request nor of a publish."""
    receipts = Receipts(redis)
    for entry in (b"\xff", b"not JSON", b"{}", b"[1]", b"[[1, 2]]", b"null"):
        redis.hset(RECEIPTS, "1", entry)
        assert receipts.read_user("1") == ([], False)
        write_source(receipts, "1", "1.csv", 1.0)
        assert [each.csv_source for each in receipts.read_user("1")[0]] == ["1.csv"]


def test_receipts_show_names_without_encoding(redis: "Redis") -> None:
    receipts = Receipts(redis)
    write_source(receipts, "1", "bundle.zip#\udcff/1.csv", 1.0)
    assert [each.csv_source for each in receipts.read_user("1")[0]] == ["bundle.zip#?/1.csv"]


def test_receipts_keep_time_of_read_until_publish(redis: "Redis") -> None:
    """A file that is dropped while a publish is running is read before that publish ends."""
    receipts = Receipts(redis)
    receipts.record_reads(["0001", "0002"])
    redis.hset(CHANGE_VERSIONS, "0001", 2)
    write_receipts(receipts, ["0001", "0002"], time.time())
    assert [*receipts.read_times(["0001", "0002"]).read_at] == ["0001"]
    redis.hdel(CHANGE_VERSIONS, "0001")
    write_receipts(receipts, ["0001"], time.time())
    assert redis.hlen(READ_TIMES) == 0


def test_times_of_refused_results_are_removed(redis: "Redis") -> None:
    receipts = Receipts(redis)
    receipts.record_reads([str(number) for number in range(MAX_RECEIPT_USERS + 2)])
    write_receipts(receipts, ["0"], 0.0)
    assert redis.hlen(READ_TIMES) == 0


def test_publish_succeeds_without_receipts(
    api: Api, rowdrop: RowdropHarness, redis: "Redis"
) -> None:
    """A key of another type makes each command fail, as a Redis without memory would."""
    for key in (RECEIPTS, RECEIPT_TIMES, READ_TIMES):
        redis.set(key, "not a hash")
    rowdrop.put_files("0001", make_csv("Ann"))
    api.process("0001")
    assert api.get("/data/0001").json["first_name"] == "Ann"
    assert rowdrop.state.users.begin_read(["0001"]) == {}


def test_receipt_of_suspicious_row_has_reason(api: Api, rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("0001", b"first_name,last_name,birthts\nAnn,Lee,946674001\n")
    api.process("0001")
    receipt = api.get_receipt("0001.csv")
    assert (receipt["result"], receipt["row"]["birthts"]) == ("suspicious", 946674001)
    assert "seconds" in receipt["reason"]
