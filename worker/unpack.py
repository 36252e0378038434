"""Unpack a bundle and make its members visible by one atomic write of the bundle catalog.

A bundle is processed like a user: get its version tokens, read its current archive, submit the
result (a reject or nothing). Members are unpacked to a folder of their own in the output bucket,
named by a digest of key and ETag. Nothing refers to the folder before the catalog does. If the
worker is killed, the next attempt resumes in the partial folder, or a sweep deletes it. After the
catalog is written, every user that is in the bundle, or was in its previous version, is marked.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from shared.keys import Ignored, bundle_id, bundle_key, member_source
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    StoredObject,
    StoreUnavailable,
)
from shared.published import BUNDLES, UNPACKED
from shared.records import CsvVersion, InvalidCsv, Outcome
from shared.task_queue import TaskQueue
from shared.unpacks import Unpacks
from worker.archive import Archive, InvalidArchive, Member
from worker.backlog import Backlog, Note, new_token
from worker.bulk import BulkWork
from worker.bundle_index import BundleIndex, IndexBuilder, InvalidIndex, MemberImage
from worker.bundles import index_key, unpacked_key
from worker.ranged import RangedFile
from worker.refresh import MOST_READINGS, Judge, judge, judge_safely
from worker.shelf import Shelved, digest_of, read_shelf
from worker.tar_archive import TarArchive
from worker.unreadable import is_unreadable, reason_of, try_again
from worker.zip_archive import MOST_DIRECTORY_BYTES, ZipArchive

logger = logging.getLogger(__name__)

MOST_TRIES = 3
"""Number of attempts that may kill their worker before the bundle is given up."""
STUCK = (
    "unpacking it killed or stalled its worker again and again; it is unpacked anew when it changes, "
    "and once more by each sweep"
)
"""The reject reason of a bundle that was given up."""
KEPT = "; the version before it stays in use"
"""Appended to a reject reason while the previous version of the bundle is still visible."""
MOST_UNWRITTEN, MOST_UNWRITTEN_BYTES = 128, 64 << 20
"""Maximum number of pending writes of unpacked images, and of their bytes."""
TELL_S = 1.0
"""Seconds between two progress reports, which also renew the unpack lease."""


class Unpacker:
    """Unpacks the bundles of `source` into `output`; `pool` runs the requests.

    `deadline` is entered for each member. It may kill the process. `clock` returns Unix seconds.
    """

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        backlog: Backlog,
        bulk: BulkWork,
        tasks: TaskQueue,
        unpacks: Unpacks,
        pool: Executor,
        deadline: AbstractContextManager[None] | None = None,
        judge: Judge = judge,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._output, self._backlog, self._bulk, self._tasks = source, output, backlog, bulk, tasks
        self._unpacks, self._pool, self._clock = unpacks, pool, clock
        self._deadline, self._judge = deadline or nullcontext(), judge

    def run(self, key: str) -> None:
        """Process this bundle, then enqueue the next waiting one.

        Does nothing while another process holds the unpack lease: that process enqueues the next
        bundle. Raises `StoreUnavailable`. The bundle then stays marked, and is retried.
        """
        token = new_token()
        if not self._unpacks.take(token):
            return
        try:
            self._look_at(key)
        finally:
            self._unpacks.give_back(token)
        # `note` omits bundles with a pending result: they need no further attempt.
        waiting = list(self._backlog.note([bundle_id(other) for other in self._unpacks.waiting()]))
        others = [other for other in waiting if other != bundle_id(key)]
        if others:
            self._tasks.unpack(bundle_key(others[0]) or "")

    def _look_at(self, key: str) -> None:
        """Process the bundle until a result is submitted, at most `MOST_READINGS` times."""
        made: Shelved | None = None
        for _ in range(MOST_READINGS):
            note = self._backlog.note([bundle_id(key)]).get(bundle_id(key))
            if note is None:
                return
            try:
                info = self._info(key)
                before = read_shelf(self._output)[0].bundles.get(key)
                made = self._state(key, info, before, made) if info else None
                claimed = self._switch(key, before, made, note)
            except (PreconditionFailed, ObjectNotFound):
                continue  # the archive was replaced or deleted, or the catalog was written concurrently
            if claimed is None:
                continue
            self._settle_users(key, made)
            if not self._backlog.stage([(claimed, _outcome(key, made))]):
                return
        logger.info(
            "bundle %s or the catalog changed during each attempt; the bundle stays dirty and is enqueued again", key
        )

    def _switch(self, key: str, before: Shelved | None, after: Shelved | None, note: Note) -> Note | None:
        """Publish `after` as the catalog entry of the bundle, into the current catalog.

        Returns the version tokens to submit with; None if another result of this bundle was
        accepted.

        The order is: read the catalog, take ownership of the bundle, write the catalog, even if it
        is unchanged. So of two concurrent workers the one that read the bundle later wins, although
        either may be suspended at any point.

        Raises `PreconditionFailed` if the catalog was written concurrently. After
        `StoreUnavailable` the write may have happened.
        """
        shelf, etag = read_shelf(self._output)
        if self._backlog.shelf_etag() not in {None, etag or "-"}:
            # No process recorded this ETag: the catalog was edited or deleted by hand, or a
            # delayed write landed. Its previous content is lost: only a sweep finds what changed.
            self._backlog.add_evidence("files_changed")
        # Another worker changed the entry since `_look_at` read it: retry with the current one.
        if shelf.bundles.get(key) != before:
            raise PreconditionFailed(BUNDLES)
        claimed = self._backlog.claim(bundle_id(key), note)
        if claimed is None:
            return None
        if after != before:
            # Recorded before the write: if this worker dies after it, the next one marks the users.
            self._unpacks.note_old(key, [before.digest] if before else [])
        # Renewed after the write and before users are marked: a read of a marked user then loads
        # the new catalog.
        self._backlog.renew_shelf(self._output.replace(BUNDLES, shelf.replace(key, after).encode(), etag))
        if after is None and before:
            self._unpacks.close(digest_of(key, before.etag), "removed", self._clock())
        return claimed

    def _settle_users(self, key: str, after: Shelved | None) -> None:
        """Mark all users that are or were in the bundle, unless that is done already."""
        noted = self._unpacks.old(key)
        if noted is not None:
            self._mark_users(key, after, noted)
            self._unpacks.forget_old(key, noted)
            self._unpacks.finish(self._clock())  # other workers may have read and published all users already

    def _mark_users(self, key: str, after: Shelved | None, old: list[str]) -> None:
        """Mark and enqueue all users that are or were in the bundle.

        Then delete the unpacked folders in `old` that are no longer visible.
        """
        visible = after.digest if after else ""
        users = sorted({user for digest in {visible, *old} - {""} for user in self._users(digest)})
        self._backlog.mark(users, "bundle", self._clock())
        if after and not after.reason:
            self._unpacks.visible(after.digest, after.users, after.ignored, self._clock())
        self._bulk.enqueue(users, self._unpacks.still_alive)
        # Deleted after the switch: a reader with a stale catalog gets `Outdated` and retries.
        for digest in set(old) - {visible}:
            remove_unpacked(self._output, digest, self._unpacks.still_alive)
        logger.info("bundle %s marked users=%d", key, len(users))

    def _users(self, digest: str) -> Iterator[str]:
        index = self._index(digest)
        return index.users() if index else iter(())

    def _index(self, digest: str) -> BundleIndex | None:
        with suppress(ObjectNotFound, ObjectUnreadable, InvalidIndex):
            # Callers use only users and images, so the key and date of the bundle do not matter.
            return BundleIndex("", 0, self._output.get(index_key(digest)).body)
        return None

    def _info(self, key: str) -> ObjectInfo | None:
        try:
            return self._source.info(key)
        except ObjectUnreadable:  # LIST reports an object that cannot be read
            return self._source.listed(key)

    # -- one version of a bundle -------------------------------------------------------------------
    def _state(self, key: str, info: ObjectInfo, before: Shelved | None, made: Shelved | None) -> Shelved:
        """Return the catalog entry for the archive that is in the source bucket.

        `before` is the entry in the catalog. `made` is the entry of an earlier iteration that could
        not be published, and is reused if the archive is unchanged.

        Raises `PreconditionFailed` or `ObjectNotFound` if the archive is replaced or deleted while
        it is read, and `StoreUnavailable`.
        """
        if made and not made.reason and (made.etag, made.since) == (info.etag, info.last_modified):
            return made
        digest = digest_of(key, info.etag)
        if before and before.etag == info.etag and self._stays(digest, before):
            return self._again(info, before)
        if self._unpacks.begin(digest, key, self._clock()) > MOST_TRIES:
            self._unpacks.end(digest)
            return self._reject(digest, info, before, STUCK)
        try:
            after = self._unpacked(key, info, digest)
        except InvalidArchive as error:
            remove_unpacked(self._output, digest, self._unpacks.still_alive)
            after = self._reject(digest, info, before, error.reason)
        except ObjectUnreadable as error:
            if error.key != key:  # an unpacked object, not the archive
                raise
            after = self._reject_unread(key, before, error)
        finally:
            # The worker survived, so this attempt must not count against the bundle.
            self._unpacks.end(digest)
        return after

    def _reject_unread(self, key: str, before: Shelved | None, error: ObjectUnreadable) -> Shelved:
        info = self._source.listed(key)
        if info is None:
            raise ObjectNotFound(key)
        return self._reject(digest_of(key, info.etag), info, before, reason_of(error))

    def _stays(self, digest: str, before: Shelved) -> bool:
        """Return whether the entry of this unchanged archive can be reused."""
        if is_unreadable(before.reason):
            return False  # retried by each check
        if before.reason:
            # A sweep grants a bundle that was given up one more attempt.
            return not (before.reason.startswith(STUCK) and self._unpacks.is_pardoned(digest))
        return before.digest == digest and self._is_whole(digest)

    def _again(self, info: ObjectInfo, before: Shelved) -> Shelved:
        """Return the entry of an unchanged archive, with its current LastModified.

        The same archive may have been dropped again, which changes its rank among the bundles.
        """
        if not before.reason:
            return replace(before, since=info.last_modified, visible_since=info.last_modified)
        if before.digest and not self._is_whole(before.digest):
            # The archive of the previous version is gone: its missing objects cannot be restored.
            return Shelved(info.etag, info.last_modified, "", reason=before.reason.removesuffix(KEPT))
        return replace(before, since=info.last_modified)

    def _is_whole(self, digest: str) -> bool:
        index = self._index(digest)
        if index is None:
            return False
        there = self._there(digest)
        images = ((user_id, image) for user_id, _, image in index.entries() if image)
        return all(there.get(unpacked_key(digest, user_id, image)) == image.etag for user_id, image in images)

    def _there(self, digest: str) -> dict[str, str]:
        there: dict[str, str] = {}
        for page in self._output.objects(folder=f"{UNPACKED}/{digest}"):
            there.update((info.key, info.etag) for info in page)
            self._unpacks.still_alive()
        return there

    def _reject(self, digest: str, info: ObjectInfo, before: Shelved | None, reason: str) -> Shelved:
        logger.warning("bundle %s is rejected: %s", info.key, reason)
        # The previous version stays visible, unless it is this very archive.
        held = before.digest if before and before.digest != digest else ""
        self._unpacks.close(digest, "rejected", self._clock(), reason)
        if not held or before is None:
            return Shelved(info.etag, info.last_modified, "", reason=reason)
        return replace(before, etag=info.etag, since=info.last_modified, reason=reason + KEPT)

    def _unpacked(self, key: str, info: ObjectInfo, digest: str) -> Shelved:
        def read(start: int, end: int) -> bytes:
            return try_again(partial(self._source.get_range, key, info.etag, start, end))

        # LIST reports size 0 for an object that the server cannot read.
        try_again(partial(self._source.check_readable, key))
        file = RangedFile(read, info.size, self._pool, MOST_DIRECTORY_BYTES)
        index, ignored = IndexBuilder(), 0
        with _Writing(self._output, self._pool, self._there(digest)) as writing:
            for member in self._members(key, file, digest):
                if isinstance(member.file, Ignored):
                    ignored += 1
                elif member.file.is_csv:
                    self._add_csv(index, key, info, member)
                else:
                    self._add_image(index, writing, digest, member)
            writing.finish()
        # The index is written last: it exists only after all images were written.
        self._output.put(index_key(digest), index.encode())
        since = info.last_modified
        return Shelved(info.etag, since, digest, since, len(index.users()), ignored)

    def _members(self, key: str, file: RangedFile, digest: str) -> Iterator[Member]:
        with self._deadline, _faults_are_the_archives():
            archive = open_archive(key, file)
        members, done, told = archive.members(), 0, 0.0
        while True:
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                self._unpacks.still_alive()
                self._unpacks.progress(digest, done, archive.total)
            # The deadline includes the caller's work on the member, which runs during `yield`.
            with self._deadline:
                with _faults_are_the_archives():
                    member = next(members, None)
                if member is None:
                    break
                yield member
            done += 1
        self._unpacks.progress(digest, done, done)

    def _add_csv(self, index: IndexBuilder, key: str, info: ObjectInfo, member: Member) -> None:
        assert not isinstance(member.file, Ignored)  # noqa: S101
        stored = StoredObject(member.body, _md5(member.body), info.last_modified)
        csv = judge_safely(self._judge, member_source(key, member.path), stored)
        index.add_csv(member.file.user_id, member.path, csv)

    def _add_image(self, index: IndexBuilder, writing: "_Writing", digest: str, member: Member) -> None:
        assert not isinstance(member.file, Ignored)  # noqa: S101
        image = MemberImage(member.path, _md5(member.body), member.file.extension)
        if index.add_image(member.file.user_id, image):
            writing.put(unpacked_key(digest, member.file.user_id, image), member.body, image.etag)


class _Writing:
    """Writes objects concurrently, except those that exist with the same ETag.

    Holds a bounded number of bytes. No write is in flight after the `with` block: a late write
    would recreate an object after its folder was deleted.
    """

    def __init__(self, output: ObjectStore, pool: Executor, there: dict[str, str]) -> None:
        self._output, self._pool, self._there = output, pool, there
        self._under_way: deque[tuple[Future[str], int]] = deque()
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        left = [written for written, _ in self._under_way]
        for written in left:
            written.cancel()
        wait(left)

    def put(self, key: str, body: bytes, etag: str) -> None:
        if self._there.get(key) == etag:
            return
        if key in self._there:  # a pending write of the same key must not overtake this one
            self.finish()
        self._there[key] = etag
        self._bytes += len(body)
        self._under_way.append((self._pool.submit(self._output.put, key, body), len(body)))
        while len(self._under_way) > MOST_UNWRITTEN or self._bytes > MOST_UNWRITTEN_BYTES:
            self._wait()

    def finish(self) -> None:
        while self._under_way:
            self._wait()

    def _wait(self) -> None:
        written, size = self._under_way.popleft()
        self._bytes -= size
        written.result()


@contextmanager
def _faults_are_the_archives() -> Iterator[None]:
    """Convert an unexpected exception into a reject of the archive.

    A retry would fail in the same way, because the bytes are the same. A shortage of memory or a
    failure of the object store does not depend on the bytes, so those exceptions are passed
    through.
    """
    try:
        yield
    except (InvalidArchive, StoreUnavailable, PreconditionFailed, ObjectNotFound, MemoryError):
        raise
    except Exception as error:
        raise InvalidArchive(f"Rowdrop could not read it, by a fault of its own ({type(error).__name__})") from error


def open_archive(key: str, file: RangedFile) -> Archive:
    """Open the archive that has this key; the extension selects the format.

    Raises `InvalidArchive`, and what reading the file raises.
    """
    return ZipArchive(file) if key.endswith(".zip") else TarArchive(file)


def remove_unpacked(output: ObjectStore, digest: str, still_alive: Callable[[], None]) -> None:
    """Delete the folder of an unpacked version; `still_alive` renews the lease per page."""
    for page in output.objects(folder=f"{UNPACKED}/{digest}"):
        output.delete_many([info.key for info in page])
        still_alive()


def _outcome(key: str, shelved: Shelved | None) -> Outcome:
    """Return the result to submit for a bundle: a reject, or nothing."""
    csv = None
    if shelved and shelved.reason:
        csv = InvalidCsv(CsvVersion(key, shelved.etag, shelved.since), shelved.reason, None)
    return Outcome(bundle_id(key), csv, None)


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
