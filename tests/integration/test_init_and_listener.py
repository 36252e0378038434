"""Tests of `rowdrop init` and `worker.listener`: from real MinIO events to dirty users."""

import io
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.error import S3Error
from redis import Redis
from redis.exceptions import ConnectionError, NoPermissionError

from local.ports import find_free_port
from local.servers import RedisServer, ServerUser
from shared.formats.events import TruncatedEntry
from shared.formats.source_keys import PROBE_PREFIX
from shared.progress.pipeline_status import read_pipeline_status
from shared.redis_keys import (
    DEAD_LETTERS,
    FAST_EVENTS,
    IGNORED_COUNT,
    IGNORED_KEYS,
    MAX_DEAD_LETTERS,
)
from shared.scripts import CHUNK_SIZE
from shared.settings import Settings
from shared.task_queue import EVENTS_QUEUE
from tests.api_process import wait_until
from tests.factories import make_notification
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands import sample
from worker.commands.init import Initializer
from worker.commands.provisioning.server_users import REDIS_RULES
from worker.listener import Listener

pytestmark = pytest.mark.minio_events


@pytest.fixture
def listener(rowdrop: RowdropHarness, capsys: pytest.CaptureFixture[str]) -> Listener:
    Initializer(rowdrop.services).run()
    assert capsys.readouterr().out == ""  # both buckets exist, and the probe's event arrived
    services = rowdrop.services
    listener = Listener(
        services.state.inbox,
        services.clients.tasks,
        services.ignored_keys,
        services.clients.settings.source_bucket,
        time.time,
    )
    wait_until(lambda: services.clients.redis.llen(FAST_EVENTS) >= 2)  # the probe, and its deletion
    process_all_events(rowdrop, listener)
    services.clients.redis.delete(EVENTS_QUEUE)
    return listener


def process_all_events(rowdrop: RowdropHarness, listener: Listener) -> None:
    while rowdrop.services.clients.redis.llen(FAST_EVENTS):
        listener.run_once(0.1)


def messages(rowdrop: RowdropHarness) -> int:
    return int(rowdrop.services.clients.redis.llen(EVENTS_QUEUE))


def test_init_creates_buckets_once_and_reports_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"{settings.source_bucket}-new"
    output = f"{settings.output_bucket}-new"
    rowdrop = RowdropHarness(replace(settings, source_bucket=source, output_bucket=output))
    Initializer(rowdrop.services).run()
    assert capsys.readouterr().out == f"created {source}\ncreated {output}\n"
    Initializer(rowdrop.services).run()
    assert capsys.readouterr().out == ""
    rowdrop.close()


def test_init_keeps_other_notification_rules(rowdrop: RowdropHarness, minio_client: Minio) -> None:
    from minio.notificationconfig import NotificationConfig, QueueConfig, SuffixFilterRule

    bucket = rowdrop.source.bucket
    other_rule = QueueConfig(
        ["s3:ObjectAccessed:*"],
        "theirs",
        suffix_filter_rule=SuffixFilterRule(".txt"),
        queue="arn:minio:sqs::FAST:redis",
    )
    minio_client.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[other_rule]))
    Initializer(rowdrop.services).run()
    rules = minio_client.get_bucket_notification(bucket).queue_config_list
    assert {(queue.config_id, queue.queue) for queue in rules} == {
        ("theirs", "arn:minio:sqs::FAST:redis"),
        ("rowdrop-fast", "arn:minio:sqs::FAST:redis"),
    }


def test_init_prints_settings_when_no_event_arrives(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MinIO sends its events to one Redis, Rowdrop is configured with another."""
    with RedisServer(
        tmp_path / "other", find_free_port(), ServerUser("", "other-password")
    ) as other:
        rowdrop = RowdropHarness(replace(settings, redis_url=other.url))
        Initializer(rowdrop.services, probe_timeout_s=0.5).run()
        output = capsys.readouterr().out
        rowdrop.close()
    assert f"MINIO_NOTIFY_REDIS_ADDRESS_FAST=127.0.0.1:{other.port}" in output
    assert "MINIO_NOTIFY_REDIS_KEY_FAST=events:fast" in output
    assert "SAFE" not in output
    assert "other-password" not in output
    assert "USER_FAST" not in output  # the default user


def test_init_does_not_print_its_redis_user_for_minio(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acl = ["user init-1 on >a-password ~* &* +@all"]
    with RedisServer(
        tmp_path / "other", find_free_port(), ServerUser("init-1", "a-password"), acl
    ) as other:
        rowdrop = RowdropHarness(replace(settings, redis_url=other.url))
        Initializer(rowdrop.services, probe_timeout_s=0.5).run()
        output = capsys.readouterr().out
        rowdrop.close()
    assert "MINIO_NOTIFY_REDIS_USER_FAST=<the user `minio` of REDIS_USERS>" in output
    assert "init-1" not in output


def test_init_warns_when_forged_upload_is_accepted(
    rowdrop: RowdropHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    def forge(endpoint: str, access_key: str, bucket: str, region: str, prefix: str) -> list[str]:
        """Write as anyone can on a MinIO with the unsigned-upload vulnerability."""
        settings = rowdrop.services.clients.settings
        assert (endpoint, bucket) == (settings.minio_endpoint, rowdrop.source.bucket)
        assert access_key == settings.minio_access_key
        rowdrop.source.put(f"{prefix}forged", b"forged")
        return [f"{prefix}forged"]

    Initializer(rowdrop.services, probe_forgery=forge).run()
    output = capsys.readouterr().out
    assert "WARNING: anyone who reaches this MinIO can write any object" in output
    assert "--print-policies" in output
    assert not rowdrop.source.exists(f"{PROBE_PREFIX}forged")


@pytest.mark.parametrize(
    "user", ["0001", "a b+c%20", "é", "e\u0301", "😀", 'q"q', ".hidden", "a.b"]
)
def test_listener_marks_user_of_any_name(
    rowdrop: RowdropHarness, listener: Listener, user: str
) -> None:
    rowdrop.put_files(user)
    assert listener.run_once(5) == 1
    assert rowdrop.state.users.dirty_users() == {user}
    assert messages(rowdrop) == 1


def test_listener_marks_user_for_deletion_and_image(
    rowdrop: RowdropHarness, listener: Listener
) -> None:
    rowdrop.source.put("u.jpeg", b"x")
    assert listener.run_once(5) == 1
    rowdrop.source.delete("u.jpeg")
    assert listener.run_once(5) == 1


def test_listener_sends_one_message_for_csv_and_image(
    rowdrop: RowdropHarness, listener: Listener
) -> None:
    for number in range(20):
        rowdrop.put_files(f"u{number}", images=["png"])
    deadline = time.monotonic() + 10
    while rowdrop.services.clients.redis.llen(FAST_EVENTS) < 40:
        assert time.monotonic() < deadline
    while rowdrop.services.clients.redis.llen(FAST_EVENTS):
        listener.run_once(0.1)
    assert messages(rowdrop) <= 2
    assert len(rowdrop.state.users.dirty_users()) == 20


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
    make_notification().replace(b'"1.csv"', b'"%FF.csv"'),
    make_notification().replace(b'"1.csv"', b'"\\ud800.csv"'),
    make_notification().replace(b'"src-data"', b"[7]"),
    make_notification("x" * 100_000 + ".csv"),
]


def test_listener_keeps_invalid_entries_as_dead_letters(
    rowdrop: RowdropHarness, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    redis = rowdrop.services.clients.redis
    redis.rpush(FAST_EVENTS, *POISON)
    rowdrop.put_files("u")
    wait_until(lambda: listener.run_once(0.1) > 0)
    process_all_events(rowdrop, listener)
    assert rowdrop.state.users.dirty_users() == {"u"}
    letters = [json.loads(letter) for letter in redis.lrange(DEAD_LETTERS, 0, -1)]
    assert len(letters) == len(POISON)
    now = time.time()
    assert all(letter["reason"] and now - 60 < letter["since"] <= now for letter in letters)
    assert max(len(letter["raw"]) for letter in letters) == 200
    too_long = [letter for letter in letters if "longer than 1,000,000" in letter["reason"]]
    assert [letter["raw"][:3] for letter in too_long] == ["xxx", "xxx"]
    shown = read_pipeline_status(redis).dead_letters
    assert [(issue.reason, issue.since) for issue in shown] == [
        (x["reason"], x["since"]) for x in letters
    ]
    assert [record for record in caplog.records if record.exc_info] == []


def test_listener_keeps_single_invalid_entry_as_dead_letter(
    rowdrop: RowdropHarness, listener: Listener
) -> None:
    """The first event after a pause is processed without a batch."""
    for raw in POISON:
        time.sleep(0.02)
        waiting = threading.Timer(0.05, rowdrop.services.clients.redis.rpush, (FAST_EVENTS, raw))
        waiting.start()
        listener.run_once(5)
        waiting.join()
    assert rowdrop.services.clients.redis.llen(DEAD_LETTERS) == len(POISON)
    assert rowdrop.services.clients.redis.llen(FAST_EVENTS) == 0


def test_listener_keeps_newest_dead_letters(rowdrop: RowdropHarness, listener: Listener) -> None:
    redis = rowdrop.services.clients.redis
    redis.rpush(FAST_EVENTS, *(b"%d: not JSON" % number for number in range(MAX_DEAD_LETTERS + 50)))
    while redis.llen(FAST_EVENTS):
        listener.run_once(0.1)
    letters = [json.loads(letter) for letter in redis.lrange(DEAD_LETTERS, 0, -1)]
    assert len(letters) == MAX_DEAD_LETTERS
    assert letters[-1]["raw"] == f"{MAX_DEAD_LETTERS + 49}: not JSON"


def test_event_inbox_peek_limits_bytes_of_large_entries(rowdrop: RowdropHarness) -> None:
    """Otherwise a listener and Redis would hold all of them in memory at the same time."""
    redis = rowdrop.services.clients.redis
    redis.rpush(FAST_EVENTS, *(b"x" * 900_000 for _ in range(40)))
    assert len(rowdrop.state.inbox.peek(CHUNK_SIZE)) == 19
    redis.delete(FAST_EVENTS)
    redis.rpush(FAST_EVENTS, *(b"y" * 5_000_000 for _ in range(10)), b"small")
    entries = rowdrop.state.inbox.peek(CHUNK_SIZE)
    assert [len(raw) for raw in entries] == [200] * 4
    assert all(isinstance(raw, TruncatedEntry) for raw in entries)
    redis.lpush(FAST_EVENTS, b"z" * 5_000_000)
    first = rowdrop.state.inbox.wait_for_event(1)
    assert isinstance(first, TruncatedEntry)
    assert first == b"z" * 200


def test_listener_records_ignored_key_and_marks_no_user(
    rowdrop: RowdropHarness, listener: Listener
) -> None:
    rowdrop.source.put("1.CSV", make_csv())
    listener.run_once(5)
    redis: Any = rowdrop.services.clients.redis
    assert b"rename" in redis.hget(IGNORED_KEYS, "1.CSV")
    assert int(redis.get(IGNORED_COUNT)) == 1
    assert rowdrop.state.users.dirty_users() == set()
    rowdrop.source.delete("1.CSV")
    listener.run_once(5)
    assert redis.hlen(IGNORED_KEYS) == 0


def test_listener_ignores_events_of_another_bucket(
    rowdrop: RowdropHarness, listener: Listener, minio_client: Minio
) -> None:
    minio_client.put_object(rowdrop.output.bucket, "u.csv", io.BytesIO(b"x"), 1)
    rowdrop.put_files("v")
    listener.run_once(5)
    assert rowdrop.state.users.dirty_users() == {"v"}


def test_event_inbox_wait_takes_no_event(rowdrop: RowdropHarness, listener: Listener) -> None:
    """A listener that is killed between waiting and marking loses no event."""
    rowdrop.put_files("u")
    assert rowdrop.state.inbox.wait_for_event(5) is not None
    assert rowdrop.services.clients.redis.llen(FAST_EVENTS) == 1
    assert listener.run_once(5) == 1


def test_init_puts_sample_only_into_new_bucket(settings: Settings) -> None:
    old = RowdropHarness(settings)
    new = RowdropHarness(replace(settings, source_bucket=f"{settings.source_bucket}-fresh"))
    Initializer(old.services, with_sample=True).run()
    Initializer(new.services, with_sample=True).run()
    keys = {entry.key for objects in new.source.list_objects() for entry in objects}
    assert keys == {key for key, _ in sample.generate_files()}
    assert [entry for objects in old.source.list_objects() for entry in objects] == []
    old.close()
    new.close()


def test_init_without_sample_leaves_new_bucket_empty(settings: Settings) -> None:
    new = RowdropHarness(replace(settings, source_bucket=f"{settings.source_bucket}-fresh"))
    Initializer(new.services).run()
    assert [entry for objects in new.source.list_objects() for entry in objects] == []
    new.close()


def test_init_waits_for_starting_server(settings: Settings, tmp_path: Path) -> None:
    redis = RedisServer(tmp_path, find_free_port(), ServerUser("", "a-password"))
    late = RowdropHarness(replace(settings, redis_url=redis.url))
    starting = threading.Timer(1.0, redis.start)
    starting.start()
    try:
        Initializer(late.services).wait_for_servers(30)
        assert late.services.clients.redis.ping()
    finally:
        starting.join()
        redis.stop()
        late.close()


def test_init_waits_for_redis_with_current_acl_rules(settings: Settings, redis: "Redis") -> None:
    """An upgrade starts `init` while Redis still has the rules of the previous release."""
    client: Any = redis
    client.execute_command("ACL", "SETUSER", "init", "on", ">a-password", "~notifications", "+@all")
    password = urlsplit(settings.redis_url).password
    url = settings.redis_url.replace(f":{password}@", "init:a-password@")
    upgraded = RowdropHarness(replace(settings, redis_url=url))
    init = Initializer(upgraded.services)
    try:
        with pytest.raises(NoPermissionError):
            init.wait_for_servers(0)
        client.execute_command("ACL", "SETUSER", "init", *REDIS_RULES["init"].split())
        init.wait_for_servers(0)
    finally:
        client.execute_command("ACL", "DELUSER", "init")
        upgraded.close()


def test_init_fails_at_once_on_rejected_credentials(settings: Settings) -> None:
    unauthorized = RowdropHarness(replace(settings, minio_secret_key="another-secret"))
    with pytest.raises(S3Error, match=r"SignatureDoesNotMatch|AccessDenied|Forbidden"):
        Initializer(unauthorized.services).wait_for_servers(3600)
    unauthorized.close()


def test_init_times_out_on_missing_server(settings: Settings) -> None:
    unconnected = RowdropHarness(
        replace(settings, redis_url=f"redis://127.0.0.1:{find_free_port()}/0")
    )
    with pytest.raises(ConnectionError):
        Initializer(unconnected.services).wait_for_servers(0)
    unconnected.close()
