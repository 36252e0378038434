"""Tests of `worker.init` and `worker.listener`: from real MinIO events to dirty users."""

import io
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error
from redis.exceptions import ConnectionError

from api.figures import read_figures
from local.ports import free_port
from local.servers import RedisServer
from shared.settings import Settings
from shared.task_queue import EVENTS_QUEUE
from tests.factories import notification
from tests.integration.stepping import Stepping, csv_of
from worker import sample
from worker.backlog import CHUNK, FAST, MOST_DEAD_LETTERS, SAFE
from worker.events import Cut
from worker.init import PROBE_PREFIX, Init
from worker.listener import Listener

pytestmark = pytest.mark.minio_events


@pytest.fixture
def listener(rowdrop: Stepping, capsys: pytest.CaptureFixture[str]) -> Listener:
    Init(rowdrop.wiring).run()
    assert capsys.readouterr().out == ""  # both buckets exist, and the probe's event arrived
    wiring = rowdrop.wiring
    listener = Listener(wiring.backlog, wiring.tasks, wiring.ignored, wiring.settings.source_bucket, time.time)
    until_quiet(rowdrop, listener)
    wiring.redis.delete(EVENTS_QUEUE)
    return listener


def until_quiet(rowdrop: Stepping, listener: Listener, patience_s: float = 20) -> None:
    """Process events until each fast event is matched by its durable copy: no count is left."""
    deadline = time.monotonic() + patience_s
    while rowdrop.wiring.redis.llen(FAST) or any(rowdrop.wiring.redis.scan_iter("seen:*")):
        listener.run_once(0.1)
        assert time.monotonic() < deadline


def messages(rowdrop: Stepping) -> int:
    return int(rowdrop.wiring.redis.llen(EVENTS_QUEUE))


def test_init_makes_the_buckets_once_and_says_so(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = f"{settings.source_bucket}-new", f"{settings.output_bucket}-new"
    stepping = Stepping(replace(settings, source_bucket=source, output_bucket=output))
    Init(stepping.wiring).run()
    assert capsys.readouterr().out == f"created {source}\ncreated {output}\n"
    Init(stepping.wiring).run()
    assert capsys.readouterr().out == ""
    stepping.close()


def test_init_keeps_the_rules_that_it_finds(rowdrop: Stepping, minio_client: Minio) -> None:
    from minio.notificationconfig import NotificationConfig, QueueConfig, SuffixFilterRule

    bucket = rowdrop.source.bucket
    theirs = QueueConfig(
        ["s3:ObjectAccessed:*"],
        "theirs",
        suffix_filter_rule=SuffixFilterRule(".txt"),
        queue="arn:minio:sqs::FAST:redis",
    )
    minio_client.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[theirs]))
    Init(rowdrop.wiring).run()
    found = minio_client.get_bucket_notification(bucket).queue_config_list
    assert {(queue.config_id, queue.queue) for queue in found} >= {
        ("theirs", "arn:minio:sqs::FAST:redis"),
        ("rowdrop-fast", "arn:minio:sqs::FAST:redis"),
        ("rowdrop-safe", "arn:minio:sqs::SAFE:redis"),
    }


def test_without_an_event_init_prints_what_to_set(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # MinIO sends its events to one Redis, Rowdrop is configured with another.
    with RedisServer(tmp_path / "other", free_port(), "other-password") as other:
        stepping = Stepping(replace(settings, redis_url=other.url))
        Init(stepping.wiring, probe_wait_s=0.5).run()
        said = capsys.readouterr().out
        stepping.close()
    assert f"MINIO_NOTIFY_REDIS_ADDRESS_FAST=127.0.0.1:{other.port}" in said
    assert "MINIO_NOTIFY_REDIS_KEY_SAFE=events:safe" in said
    assert "other-password" not in said
    assert "USER_FAST" not in said  # the default user


def test_the_user_of_init_is_not_told_for_minio(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acl = ["user init-1 on >a-password ~* &* +@all"]
    with RedisServer(tmp_path / "other", free_port(), "a-password", user="init-1", acl=acl) as other:
        stepping = Stepping(replace(settings, redis_url=other.url))
        Init(stepping.wiring, probe_wait_s=0.5).run()
        said = capsys.readouterr().out
        stepping.close()
    assert "MINIO_NOTIFY_REDIS_USER_FAST=<the user `minio` of REDIS_USERS>" in said
    assert "init-1" not in said


def test_an_open_hole_is_told_with_what_to_do(rowdrop: Stepping, capsys: pytest.CaptureFixture[str]) -> None:
    def forge(endpoint: str, access_key: str, bucket: str, region: str, prefix: str) -> list[str]:
        """Write as anyone can on a MinIO with the unsigned-upload vulnerability."""
        assert (endpoint, bucket) == (rowdrop.wiring.settings.minio_endpoint, rowdrop.source.bucket)
        assert access_key == rowdrop.wiring.settings.minio_access_key
        rowdrop.source.put(f"{prefix}forged", b"forged")
        return [f"{prefix}forged"]

    Init(rowdrop.wiring, forge=forge).run()
    said = capsys.readouterr().out
    assert "WARNING: anyone who reaches this MinIO can write any object" in said
    assert "--print-policies" in said
    assert not rowdrop.source.exists(f"{PROBE_PREFIX}forged")


@pytest.mark.parametrize("user", ["0001", "a b+c%20", "é", "e\u0301", "😀", 'q"q', ".hidden", "a.b"])
def test_a_put_marks_its_user_whatever_the_name(rowdrop: Stepping, listener: Listener, user: str) -> None:
    rowdrop.drop(user)
    assert listener.run_once(5) == 1
    assert rowdrop.backlog.dirty_users() == {user}
    assert messages(rowdrop) == 1


def test_a_put_is_noted_once_although_it_is_told_twice(rowdrop: Stepping, listener: Listener) -> None:
    rowdrop.drop("u")
    assert listener.run_once(5) == 1
    until_quiet(rowdrop, listener)
    assert messages(rowdrop) == 1
    assert rowdrop.wiring.redis.llen(SAFE) == 0


def test_an_event_that_came_only_by_the_safe_way_is_noted(rowdrop: Stepping, listener: Listener) -> None:
    rowdrop.drop("u")
    deadline = time.monotonic() + 20
    while not rowdrop.wiring.redis.llen(SAFE):
        rowdrop.wiring.redis.delete(FAST)
        assert time.monotonic() < deadline
    rowdrop.wiring.redis.delete(FAST)
    listener.run_once(0.1)
    assert rowdrop.backlog.dirty_users() == {"u"}


def test_a_delete_and_an_image_mark_their_user_too(rowdrop: Stepping, listener: Listener) -> None:
    rowdrop.source.put("u.jpeg", b"x")
    assert listener.run_once(5) == 1
    rowdrop.source.delete("u.jpeg")
    assert listener.run_once(5) == 1


def test_csv_and_image_dropped_together_are_read_together(rowdrop: Stepping, listener: Listener) -> None:
    for number in range(20):
        rowdrop.drop(f"u{number}", images=["png"])
    deadline = time.monotonic() + 10
    while rowdrop.wiring.redis.llen(FAST) < 40:
        assert time.monotonic() < deadline
    while rowdrop.wiring.redis.llen(FAST):
        listener.run_once(0.1)
    assert messages(rowdrop) <= 2
    assert len(rowdrop.backlog.dirty_users()) == 20


POISON = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b"\x00" * 50,
    b'[{"Event":[{"s3":1}]}]',
    b"[" * 900_000,
    b"1" * 5_000,
    b"x" * 1_000_001,
    b"x" * 10_000_000,
    notification().replace(b'"1.csv"', b'"%FF.csv"'),
    notification().replace(b'"1.csv"', b'"\\ud800.csv"'),
    notification().replace(b'"src-data"', b"[7]"),
    notification("x" * 100_000 + ".csv"),
]


def test_poison_messages_are_kept_as_dead_letters_and_stop_nobody(
    rowdrop: Stepping, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    redis = rowdrop.wiring.redis
    for source in (FAST, SAFE):
        for raw in POISON:
            redis.rpush(source, raw)
    rowdrop.drop("u")
    deadline = time.monotonic() + 20
    while redis.llen(FAST) or redis.llen(SAFE):
        listener.run_once(0.1)
        assert time.monotonic() < deadline
    assert rowdrop.backlog.dirty_users() == {"u"}
    letters = [json.loads(letter) for letter in redis.lrange("dead_letters", 0, -1)]
    assert len(letters) == len(POISON)  # durable copies add no second dead letter
    now = time.time()
    assert all(letter["reason"] and now - 60 < letter["since"] <= now for letter in letters)
    assert max(len(letter["raw"]) for letter in letters) == 200
    assert [letter["raw"][:3] for letter in letters if "longer than 1,000,000" in letter["reason"]] == ["xxx", "xxx"]
    shown = read_figures(redis).dead_letters
    assert [(trouble.reason, trouble.since) for trouble in shown] == [(x["reason"], x["since"]) for x in letters]
    assert [record for record in caplog.records if record.exc_info] == []


def test_poison_that_comes_alone_is_a_dead_letter_too(rowdrop: Stepping, listener: Listener) -> None:
    # The first event after a pause is processed without a batch.
    for raw in POISON:
        time.sleep(0.02)
        waiting = threading.Timer(0.05, rowdrop.wiring.redis.rpush, (FAST, raw))
        waiting.start()
        listener.run_once(5)
        waiting.join()
    assert rowdrop.wiring.redis.llen("dead_letters") == len(POISON)
    assert rowdrop.wiring.redis.llen(FAST) == 0


def test_the_newest_dead_letters_are_kept(rowdrop: Stepping, listener: Listener) -> None:
    redis = rowdrop.wiring.redis
    redis.rpush(FAST, *(b"%d: not JSON" % number for number in range(MOST_DEAD_LETTERS + 50)))
    while redis.llen(FAST):
        listener.run_once(0.1)
    letters = [json.loads(letter) for letter in redis.lrange("dead_letters", 0, -1)]
    assert len(letters) == MOST_DEAD_LETTERS
    assert letters[-1]["raw"] == f"{MOST_DEAD_LETTERS + 49}: not JSON"


def test_large_events_are_taken_a_few_at_a_time(rowdrop: Stepping) -> None:
    # Otherwise a listener and Redis would hold all of them in memory at the same time.
    redis = rowdrop.wiring.redis
    redis.rpush(FAST, *(b"x" * 900_000 for _ in range(40)))
    redis.rpush(SAFE, *(b"y" * 5_000_000 for _ in range(10)), b"small")
    fast, safe = rowdrop.backlog.peek(CHUNK)
    assert len(fast) == 19
    assert [len(raw) for raw in safe] == [200] * 4
    assert all(isinstance(raw, Cut) for raw in safe)
    redis.lpush(FAST, b"z" * 5_000_000)
    first = rowdrop.backlog.wait_for_event(1)
    assert isinstance(first, Cut)
    assert first == b"z" * 200


def test_an_ignored_key_is_listed_at_once_and_marks_nobody(rowdrop: Stepping, listener: Listener) -> None:
    rowdrop.source.put("1.CSV", csv_of())
    listener.run_once(5)
    redis: Any = rowdrop.wiring.redis
    assert b"rename" in redis.hget("ignored", "1.CSV")
    assert int(redis.get("ignored:total")) == 1
    assert rowdrop.backlog.dirty_users() == set()
    rowdrop.source.delete("1.CSV")
    listener.run_once(5)
    assert redis.hlen("ignored") == 0


def test_another_bucket_marks_nobody(rowdrop: Stepping, listener: Listener, minio_client: Minio) -> None:
    minio_client.put_object(rowdrop.output.bucket, "u.csv", io.BytesIO(b"x"), 1)
    rowdrop.drop("v")
    listener.run_once(5)
    assert rowdrop.backlog.dirty_users() == {"v"}


def test_waiting_for_an_event_takes_nothing_from_the_list(rowdrop: Stepping, listener: Listener) -> None:
    # A listener that is killed between waiting and marking loses no event.
    rowdrop.drop("u")
    assert rowdrop.backlog.wait_for_event(5) is not None
    assert rowdrop.wiring.redis.llen(FAST) == 1
    assert listener.run_once(5) == 1


def test_init_drops_the_sample_into_a_bucket_that_it_has_just_made_and_into_no_other(settings: Settings) -> None:
    old = Stepping(settings)
    new = Stepping(replace(settings, source_bucket=f"{settings.source_bucket}-fresh"))
    Init(old.wiring, with_sample=True).run()
    Init(new.wiring, with_sample=True).run()
    keys = {entry.key for objects in new.source.objects() for entry in objects}
    assert keys == {key for key, _ in sample.files()}
    assert [entry for objects in old.source.objects() for entry in objects] == []
    old.close()
    new.close()


def test_init_without_a_sample_leaves_a_new_bucket_empty(settings: Settings) -> None:
    new = Stepping(replace(settings, source_bucket=f"{settings.source_bucket}-fresh"))
    Init(new.wiring).run()
    assert [entry for objects in new.source.objects() for entry in objects] == []
    new.close()


def test_init_waits_for_a_server_that_is_still_starting(settings: Settings, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path, free_port(), "a-password")
    late = Stepping(replace(settings, redis_url=redis.url))
    starting = threading.Timer(1.0, redis.start)
    starting.start()
    try:
        Init(late.wiring).wait_for_servers(30)
        assert late.wiring.redis.ping()
    finally:
        starting.join()
        redis.stop()
        late.close()


def test_init_does_not_wait_for_a_server_that_refuses_its_keys(settings: Settings) -> None:
    stranger = Stepping(replace(settings, minio_secret_key="another-secret"))
    with pytest.raises(S3Error, match=r"SignatureDoesNotMatch|AccessDenied|Forbidden"):
        Init(stranger.wiring).wait_for_servers(3600)
    stranger.close()


def test_init_gives_up_on_a_server_that_does_not_come(settings: Settings) -> None:
    lonely = Stepping(replace(settings, redis_url=f"redis://127.0.0.1:{free_port()}/0"))
    with pytest.raises(ConnectionError):
        Init(lonely.wiring).wait_for_servers(0)
    lonely.close()
