"""PUT /files/{name}?wait=: wait until a bundle is published, and answer with its counts.

The bundle catalog says which version of an archive is unpacked. An archive that is uploaded again
is not unpacked again, so no record of an unpack would say that the upload was processed.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import falcon
from falcon.asgi import Request, Response
from redis.exceptions import RedisError

from api.access.auth import may_see_contents
from api.controllers.completion_waiter import NOT_YET_VISIBLE, TOO_MANY_WAITING, CompletionWaiter
from api.controllers.drop_controller import REDIS_UNAVAILABLE, raise_reject
from api.controllers.task_descriptions import describe_unpack
from api.snapshot.view import ViewProvider
from api.web.problems import Problem
from api.web.thread_pool import ThreadPool
from api.web.transfers import Transfers
from shared.formats.bundle_catalog import BundleCatalog, CatalogEntry
from shared.formats.object_names import CATALOG_KEY
from shared.formats.source_keys import make_bundle_id
from shared.object_store import StoreUnavailable
from shared.progress.receipts import Receipt
from shared.progress.unpacks import Unpacks, UnpackStatus

logger = logging.getLogger(__name__)

BUNDLE_POLL_S = 0.2
"""Seconds between two checks of a bundle, each of which may read two objects."""
RECORD_LOST = "unpacked, but the record of that has expired; the receipt says when it is published"
BUNDLE_REPLACED = "the bundle was replaced or deleted before it was published"
STORE_UNAVAILABLE = "stored, but the API cannot read the object store; /tasks has the progress"
_DIGEST_OR_NONE = re.compile("([0-9a-f]{32})?")


class ReadArchive(NamedTuple):
    """The archive of a bundle after it was read; `etag` is None if it was deleted.

    `digest` is the ID of the unpack of the visible version, which is another one than this archive
    if that is rejected. It is empty without a visible version.
    """

    etag: str | None
    digest: str
    is_rejected: bool

    @property
    def task_id(self) -> str:
        """The ID of its own unpack, empty if it is rejected or deleted."""
        return "" if self.is_rejected else self.digest


ReceiptReader = Callable[[str], Awaitable[tuple[list[Receipt], bool]]]
"""Returns the receipts of a user or bundle, newest first, and whether it is dirty."""


class BundleReader:
    """Reads what the pipeline has made of a bundle."""

    def __init__(
        self,
        source: Transfers,
        output: Transfers,
        read_receipts: ReceiptReader,
        unpacks: Unpacks,
        redis_pool: ThreadPool,
    ) -> None:
        self._source = source
        self._output = output
        self._read_receipts = read_receipts
        self._unpacks = unpacks
        self._redis_pool = redis_pool

    async def find_archive(self, name: str) -> ReadArchive | None:
        """Return the archive that is in the source bucket, None if it is not processed yet.

        If it is, its users are marked, or its reject is published.
        """
        if await self._is_dirty(name):
            return None
        info = await self._source.find_object(name)
        # The times are both from the object store, in whole seconds.
        archive = (info.etag, info.last_modified) if info else None
        catalog = await self._output.parse_object(CATALOG_KEY, BundleCatalog.decode)
        entry = catalog.entries.get(name)
        checked_archive = (entry.etag, entry.since) if entry else None
        # The catalog changes before users are marked. Until they are, the bundle is dirty.
        if checked_archive != archive or await self._is_dirty(name):
            return None
        return _make_read_archive(entry)

    async def read_record(self, task_id: str) -> UnpackStatus | None:
        """Return the record of an unpack, None if it does not exist or has expired."""
        return await self._redis_pool.run(self._unpacks.status, task_id)

    async def find_published_time(self, name: str, etag: str | None) -> float | None:
        """Return when all users of this version of a bundle were published, in Unix seconds.

        None if they are not, or if the record of that has expired.
        """
        archive = await self.find_archive(name)
        if archive is None or archive.etag != etag or not archive.task_id:
            return None
        status = await self.read_record(archive.task_id)
        return status.finished_at if status is not None and status.state == "done" else None

    async def _is_dirty(self, name: str) -> bool:
        _, is_dirty = await self._read_receipts(make_bundle_id(name))
        return is_dirty


def _make_read_archive(entry: CatalogEntry | None) -> ReadArchive | None:
    """Return what the catalog says of an archive, None for what the pipeline did not write."""
    if entry is None:
        return ReadArchive(None, "", is_rejected=False)
    digest = str(entry.digest)  # a file that was edited by hand may have any value
    if not _DIGEST_OR_NONE.fullmatch(digest):
        return None
    return ReadArchive(entry.etag, digest, bool(entry.reason))


def _explain_failure(error: Exception) -> str:
    match error:
        case StoreUnavailable():
            return STORE_UNAVAILABLE
        case RedisError():
            return REDIS_UNAVAILABLE
        case _:  # too many requests wait for a thread
            return TOO_MANY_WAITING


class BundleDropController:
    """Completes the responses to uploads of bundles by clients that wait."""

    def __init__(
        self,
        get_view: ViewProvider,
        waiter: CompletionWaiter,
        bundles: BundleReader,
    ) -> None:
        self._get_view = get_view
        self._waiter = waiter
        self._bundles = bundles

    async def await_result(
        self, request: Request, response: Response, name: str, etag: str, wait_s: float
    ) -> None:
        """Wait until every API process serves the users of a stored bundle, at most `wait_s`.

        Then responds with 200 and the fields of the unpack. `response.media` must be set; it stays
        a 202 if the time is over. Raises a 422 `Problem` if the archive is rejected.
        """
        # The archive is stored, so nothing that fails from here on is an error of the upload.
        try:
            outcome = await self._wait(name, time.monotonic() + wait_s)
        except (RedisError, StoreUnavailable, Problem) as error:
            logger.warning("cannot wait for the result of %.80r: %s", name, error)
            outcome = _explain_failure(error)
        if isinstance(outcome, str):
            response.media |= {"message": outcome} if outcome else {}
            return
        archive, status = outcome
        view = self._get_view()
        reject = view.rejects.get(make_bundle_id(name))
        if archive.is_rejected:
            raise_reject(reject, name, etag, user_id=None, is_held=bool(archive.digest))
        response.status = falcon.HTTP_200
        response.media |= {"status": "published", "result": "unpacked", "reason": None}
        if archive.etag != etag or status is None:
            response.media |= {"result": "superseded", "reason": BUNDLE_REPLACED}
            return
        rejected = view.reject_list.member_counts.get(name, 0)
        response.media |= describe_unpack(
            status, rejected, may_see_contents=may_see_contents(request)
        )

    async def _wait(
        self, name: str, deadline: float
    ) -> tuple[ReadArchive, UnpackStatus | None] | str:
        """Return the archive that is published and the record of its unpack.

        There is no record of a reject and of a deleted archive. Otherwise returns why the result is
        not certain to be visible yet, which is empty if the time is over.
        """
        archive: ReadArchive | None = None
        status: UnpackStatus | None = None

        async def has_ended() -> bool:
            nonlocal archive, status
            if status is not None:  # it costs less than to read the catalog again
                status = await self._bundles.read_record(status.task_id)
                if status is not None and status.state == "publishing":
                    return False
            archive = await self._bundles.find_archive(name)
            if archive is None:
                return False
            status = await self._bundles.read_record(archive.task_id) if archive.task_id else None
            return status is None or status.state == "done"

        with self._waiter.hold_slot() as has_slot:
            if not has_slot:
                return TOO_MANY_WAITING
            if not await self._waiter.wait_until(has_ended, deadline, BUNDLE_POLL_S):
                return ""
            assert archive is not None  # noqa: S101
            if status is None and archive.task_id:
                return RECORD_LOST
            is_visible = await self._waiter.wait_until_visible(deadline)
        return (archive, status) if is_visible else NOT_YET_VISIBLE
