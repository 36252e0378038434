"""Leases that change hands while their holder works, on real servers."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import LockNotOwnedError

from local.servers import RedisServer
from shared.formats.bundle_catalog import BundleCatalog
from shared.object_store import ObjectInfo, ObjectStore
from shared.progress.job_records import build_records
from shared.progress.leases import LEASE_TTL_S, Lease
from shared.redis_keys import REBUILD_LEASE, SWEEP_LEASE, UNPACK_LEASE
from tests.archives import make_tar
from tests.fakes import DelegatingStore, FakeObjectStore
from tests.integration.stepping import RowdropHarness, make_csv
from worker.bundles.unpacked_folders import UnpackedFolders
from worker.jobs.entry_builder import ArchiveUnpacker
from worker.services.builders import build_bulk_reads, build_rebuild
from worker.source.ranged_file import BLOCK_BYTES

OTHER_TOKEN = b"another process"
OTHER_TTL_MS = 30_000


def replace_holder(redis: "Redis", key: str) -> None:
    """Let the lease expire, and another process acquire it."""
    redis.set(key, OTHER_TOKEN, px=OTHER_TTL_MS)


def check_other_holder(redis: Any, key: str) -> None:  # noqa: ANN401
    """Check that the other process holds the lease, and that its TTL was not prolonged."""
    assert redis.get(key) == OTHER_TOKEN
    assert redis.pttl(key) <= OTHER_TTL_MS


class InterruptedRedis(Redis):
    """A client that replaces the holder of the lease `key` before one of its requests for it.

    `requests_left` counts the requests up to that one.
    """

    key: str
    requests_left: int

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if self.key in args:
            self.requests_left -= 1
            if self.requests_left == 0:
                super().execute_command("SET", self.key, OTHER_TOKEN, "PX", OTHER_TTL_MS)  # type: ignore[no-untyped-call]
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class StoreWithLease(DelegatingStore):
    """A bucket that passes all requests on, and a lease `key` that subclasses change."""

    def __init__(self, store: ObjectStore, redis: "Redis", key: str) -> None:
        super().__init__(store)
        self._redis = redis
        self._key = key


class InterruptedStore(StoreWithLease):
    """A bucket in which the holder of the lease `key` is replaced before each LIST of objects."""

    def list_objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        replace_holder(self._redis, self._key)
        return self.inner.list_objects(after, folder)


class SlowStore(StoreWithLease):
    """A bucket of which each page of a LIST takes two thirds of the TTL of the lease `key`."""

    def list_objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        for page in self.inner.list_objects(after, folder):
            for info in page:
                left_ms = self._redis.pttl(self._key) - LEASE_TTL_S * 1000 * 2 // 3
                self._redis.pexpire(self._key, max(left_ms, 0))
                yield [info]


def test_lease_excludes_other_holders_until_its_release(redis: "Redis") -> None:
    first = Lease(redis, "lease")
    second = Lease(redis, "lease")
    with first.hold() as is_held, second.hold() as is_held_twice:
        assert (is_held, is_held_twice) == (True, False)
        assert second.is_held()
    assert not first.is_held()
    with second.hold() as is_held:
        assert is_held


def test_lease_expires_unless_it_is_renewed(redis: "Redis") -> None:
    lease = Lease(redis, "lease")
    with lease.hold():
        redis.pexpire("lease", 1000)
        lease.renew()
        assert (LEASE_TTL_S - 5) * 1000 < redis.pttl("lease") <= LEASE_TTL_S * 1000


def test_lease_renewal_fails_after_expiry(redis: "Redis") -> None:
    """An expired lease is lost even if it is free: another process may have held it since."""
    lease = Lease(redis, "lease")
    with lease.hold():
        redis.delete("lease")
        with pytest.raises(LockNotOwnedError):
            lease.renew()
    assert not lease.is_held()


def test_lease_renewal_prolongs_no_lease_of_another_process(redis: "Redis") -> None:
    lease = Lease(redis, "lease")
    with lease.hold():
        replace_holder(redis, "lease")
        with pytest.raises(LockNotOwnedError):
            lease.renew()
    check_other_holder(redis, "lease")


def test_lease_release_is_one_step(redis: "Redis", redis_server: RedisServer) -> None:
    """A lease that changes hands at any point of its release stays with its new holder."""
    for request_number in count(2):  # the first request acquires the lease
        client: Any = InterruptedRedis.from_url(redis_server.url)
        client.key = UNPACK_LEASE
        client.requests_left = request_number
        lease = build_records(client).unpack_lease
        UnpackedFolders(FakeObjectStore("output", time.time), lease).remove_invisible()
        client.close()
        if client.requests_left > 0:
            break
        check_other_holder(redis, UNPACK_LEASE)
        redis.delete(UNPACK_LEASE)
    assert request_number > 2
    assert not redis.exists(UNPACK_LEASE)


def test_unpacked_folders_delete_nothing_without_the_lease(redis: "Redis") -> None:
    """A folder that no catalog entry names may be the one that another process writes."""
    output = FakeObjectStore("output", time.time)
    output.put(".bundles/digest/image", b"x")
    interrupted: Any = InterruptedStore(output, redis, UNPACK_LEASE)
    folders = UnpackedFolders(interrupted, build_records(redis).unpack_lease)
    with pytest.raises(LockNotOwnedError):
        folders.remove_invisible()
    assert output.exists(".bundles/digest/image")
    check_other_holder(redis, UNPACK_LEASE)


def test_sweep_without_its_lease_is_not_committed(rowdrop: RowdropHarness) -> None:
    rowdrop.put_files("u")
    source: Any = InterruptedStore(rowdrop.source, rowdrop.redis, SWEEP_LEASE)
    with pytest.raises(LockNotOwnedError):
        rowdrop.create_sweep(source=source).run("test")
    check_other_holder(rowdrop.redis, SWEEP_LEASE)
    assert rowdrop.services.records.sweeps.get_field("at") is None
    assert rowdrop.state.users.dirty_users() == set()


def test_bulk_reads_renew_lease_during_long_list(rowdrop: RowdropHarness) -> None:
    """A LIST of two million objects takes a minute, and may be for less than a page of users."""
    for user_id in "abcd":
        rowdrop.put_files(user_id)
    lease = rowdrop.services.records.sweeps.lease
    source: Any = SlowStore(rowdrop.source, rowdrop.redis, SWEEP_LEASE)
    services = rowdrop.services
    bulk_reads = build_bulk_reads(source, rowdrop.state, services.refresher, services.clients.tasks)
    rowdrop.state.users.mark(["d"], "sweep", time.time())
    with lease.hold():
        bulk_reads.enqueue(["d"], lease.renew, list_bucket=True)
        assert lease.is_held()
    assert rowdrop.state.work_queues.count_pages() == 1


def start_interrupted_rebuild(rowdrop: RowdropHarness) -> str:
    """Start a rebuild that loses its lease during its LIST; return its task ID."""
    rowdrop.put_files("u")
    services = rowdrop.services
    source: Any = InterruptedStore(rowdrop.source, rowdrop.redis, REBUILD_LEASE)
    tasks = services.clients.tasks
    bulk_reads = build_bulk_reads(source, rowdrop.state, services.refresher, tasks)
    rebuild = build_rebuild(
        rowdrop.output, rowdrop.state, services.records, bulk_reads, tasks, services.bundles
    )
    task_id, _ = services.records.rebuilds.request(time.time())
    with suppress(LockNotOwnedError):
        rebuild.start(task_id)
    return task_id


def test_rebuild_does_not_release_lease_of_another_process(rowdrop: RowdropHarness) -> None:
    start_interrupted_rebuild(rowdrop)
    check_other_holder(rowdrop.redis, REBUILD_LEASE)


def test_rebuild_without_its_lease_is_not_enqueued(rowdrop: RowdropHarness) -> None:
    """A rebuild ends only after the process with the lease has enqueued all users."""
    task_id = start_interrupted_rebuild(rowdrop)
    rebuilds = rowdrop.services.records.rebuilds
    assert not rebuilds.is_enqueued(task_id)
    rowdrop.redis.delete(REBUILD_LEASE)
    rowdrop.services.rebuild.start(task_id)  # the retry of the task
    assert rebuilds.is_enqueued(task_id)
    rowdrop.run_bulk_work()
    assert list(rowdrop.read_rows()) == ["u"]


class CountingLease(Lease):
    """A lease that counts its renewals."""

    renewal_count = 0

    def renew(self) -> None:
        super().renew()
        self.renewal_count += 1


def test_unpacker_renews_lease_while_it_reads_one_member(redis: "Redis") -> None:
    """On a slow link, a large member that is ignored takes longer than the lease."""
    source = FakeObjectStore("src-data", time.time)
    output = FakeObjectStore("processed-data", time.time)
    source.put("u.tar", make_tar({"notes.txt": bytes(5 * BLOCK_BYTES), "1.csv": make_csv()}))
    info = source.get_info("u.tar")
    assert info is not None
    lease = CountingLease(redis, UNPACK_LEASE)
    folders = UnpackedFolders(output, lease)
    with lease.hold(), ThreadPoolExecutor(2) as pool:
        budget = folders.get_budget(BundleCatalog(), "u.tar", "digest")
        lease.renewal_count = 0
        unpacker = ArchiveUnpacker(source, folders, pool)
        entry, _ = unpacker.unpack_archive(info, "digest", budget, lambda _done, _total: None)
    assert (entry.users, entry.ignored) == (1, 1)
    assert lease.renewal_count > 5
