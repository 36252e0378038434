"""GET /files/{name}/receipt: what became of a file, and when."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from falcon.asgi import Request, Response

from api.access import auth
from api.controllers.bundle_drop_controller import BundleReader, ReceiptReader
from api.controllers.drop_controller import find_image_result, find_suspicion
from api.query.file_query import parse_etag
from api.snapshot.view import ServedVersion, View, ViewProvider
from api.web.problems import Problem, build_not_ready_problem
from api.web.thread_pool import ThreadPool
from api.web.transfers import Transfers
from shared.formats.source_keys import (
    Bundle,
    IgnoredFile,
    UserFile,
    classify_key,
    make_bundle_id,
)
from shared.object_store import ObjectInfo
from shared.progress.receipts import Receipt
from shared.text import format_time

NOT_READ = "not read yet; if no event names it, the next sweep does"


@dataclass(slots=True)
class _Result:
    """What became of a file. `fields` are more fields of the response."""

    name: str
    reason: str | None = None
    line: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class ReceiptController:
    """Builds receipts from the bucket, the served table and what Redis keeps for a week."""

    def __init__(
        self,
        get_view: ViewProvider,
        transfers: Transfers,
        read_receipts: ReceiptReader,
        bundles: BundleReader,
        compute_pool: ThreadPool,
    ) -> None:
        self._get_view = get_view
        self._transfers = transfers
        self._read_receipts = read_receipts
        self._bundles = bundles
        self._compute_pool = compute_pool

    async def respond(self, request: Request, response: Response, name: str) -> None:
        """Respond with the receipt of a file, or of its version `?etag=`.

        A client that only reads because of `PUBLIC_READ` learns what `/files` shows it, and nothing
        of removed files and earlier versions: their ETags are digests of what they contained.

        Raises a 404 `Problem` if there is no such file and no receipt of one, a 503 before the
        first publish, and `redis.exceptions.RedisError`.
        """
        etag = parse_etag(request.params)
        source_key = classify_key(name)
        user_id = _find_user_id(source_key)
        receipts: list[Receipt] = []
        is_dirty = False
        if user_id is not None:
            receipts, is_dirty = await self._read_receipts(user_id)
        # After the receipts: a version that is newer than them is pending.
        info = await self._transfers.find_object(name)
        view = self._get_view()
        if view.table is None:
            raise build_not_ready_problem()
        may_see_contents = auth.may_see_contents(request)
        own = []
        if may_see_contents or (info is not None and etag in {None, info.etag}):
            own = _select_own_receipts(receipts, name)
        if info is None and not own:
            raise Problem("not-found", f"The source bucket has no file {name[:300]!r}.")
        wanted_etag = etag or (info.etag if info else None)
        file = _File(name, info, wanted_etag, source_key) if info else None
        result = await self._find_result(file, view, receipts, is_dirty=is_dirty)
        if isinstance(source_key, UserFile) and not source_key.is_csv:
            receipt = file.select_image_receipt(own) if file is not None else None
        else:
            receipt = _select_receipt(own, name, wanted_etag)
        response.media = {
            "name": name,
            "user_id": source_key.user_id if isinstance(source_key, UserFile) else None,
            "etag": wanted_etag,
            "result": result.name,
            "reason": result.reason,
            "line": result.line,
            **_describe_times(receipt, view),
            **result.fields,
            "history": [_describe_history(each, view) for each in own] if may_see_contents else [],
        }
        response.set_header("Cache-Control", "no-store")

    async def _find_result(
        self, file: "_File | None", view: View, receipts: Sequence[Receipt], *, is_dirty: bool
    ) -> _Result:
        """Return what became of a file, None for a removed one."""
        if file is None:
            return _Result("removed")
        result = file.find_result(view, receipts, is_dirty=is_dirty)
        match result.name, file.source_key:
            case "row", UserFile(user_id, _) if view.table is not None:
                # Finding all suspicious rows of a table takes some ms, once per version.
                suspicion = await self._compute_pool.run(find_suspicion, view.table, user_id)
                if suspicion:
                    return _Result("suspicious", suspicion, fields=result.fields)
            case "pending", Bundle():
                published_at = await self._bundles.find_published_time(file.name, file.etag)
                if published_at is not None and published_at < (view.store_polled_at or 0):
                    return _Result("unpacked")
        return result

    async def explain(self, user_id: str) -> dict[str, Any]:
        """Return from which files the row of a user was made, and when; null where unknown."""
        receipts, is_dirty = await self._read_receipts(user_id)
        view = self._get_view()
        newest = receipts[0] if receipts else None
        return {
            "csv": newest.csv_source if newest else None,
            "csv_etag": newest.csv_etag if newest else None,
            "image": newest.image if newest else None,
            "reason": newest.reason if newest else None,
            "line": newest.line if newest else None,
            "is_changing": is_dirty,
            **_describe_times(newest, view),
        }


class _File:
    """An object of the source bucket, and the version that is asked for."""

    def __init__(
        self,
        name: str,
        info: ObjectInfo,
        etag: str | None,
        source_key: UserFile | Bundle | IgnoredFile,
    ) -> None:
        self.name = name
        self.etag = etag
        self.source_key = source_key
        self._info = info

    def find_result(self, view: View, receipts: Sequence[Receipt], *, is_dirty: bool) -> _Result:
        """Return what became of it."""
        if self.etag != self._info.etag:
            return _Result("superseded", "a newer version of the file was dropped")
        if isinstance(self.source_key, IgnoredFile):
            return _Result("ignored", self.source_key.reason)
        if isinstance(self.source_key, Bundle):
            return self._find_bundle_result(view, is_dirty=is_dirty)
        reject = view.rejects.get(self.source_key.user_id)
        row = view.find_row(self.source_key.user_id)
        if not self.source_key.is_csv:
            is_read = not is_dirty and any(map(self._was_read_by, receipts[:1]))
            is_served = is_read and _is_visible(receipts[0], view)
            if not (is_served or self._is_read_before(view, is_dirty=is_dirty)):
                return _Result("pending", NOT_READ)
            result, reason = find_image_result(self.name, row)
            return _Result(result, reason, fields={"row": row})
        if reject is not None and (reject.key, reject.etag) == (self.name, self.etag):
            fields = {"held": row is not None, "row": row}
            return _Result("rejected", reject.reason, reject.line, fields)
        newest = receipts[0] if receipts else None
        # A reject need not change output.csv: this process serves it if the view has it, see above.
        valid_version = (self.name, self.etag, None)
        if newest and (newest.csv_source, newest.csv_etag, newest.reason) == valid_version:
            is_published = _is_visible(newest, view)
        else:
            is_published = self._is_read_before(view, is_dirty=is_dirty)
        if is_published and row is not None:
            return _Result("row", fields={"row": row})
        return _Result("pending", NOT_READ)

    def select_image_receipt(self, own: Sequence[Receipt]) -> Receipt | None:
        """Return the newest receipt that has this version of an image; None if none is known.

        Receipts have no ETag of an image, so the time of the read decides.
        """
        if self.etag != self._info.etag:
            return None
        return next(filter(self._was_read_by, own), None)

    def _was_read_by(self, receipt: Receipt) -> bool:
        """Return whether the image existed when the result of this receipt was read."""
        # LastModified is in whole seconds. A result with this image may be read in the same second.
        margin_s = 0 if receipt.image == self.name else 1
        return (receipt.read_at or 0) > self._info.last_modified + margin_s

    def _is_read_before(self, view: View, *, is_dirty: bool) -> bool:
        """Return whether the table has this version although no receipt shows it any more.

        That a user is not dirty proves nothing: its event may be on the way. Everything that was
        dropped before `consistent_as_of` is published. LastModified is in whole seconds.
        """
        as_of = view.consistent_as_of
        return not is_dirty and as_of is not None and self._info.last_modified + 1 < as_of

    def _find_bundle_result(self, view: View, *, is_dirty: bool) -> _Result:
        reject = view.rejects.get(make_bundle_id(self.name))
        if reject is not None and reject.etag == self.etag:
            fields = {"held": reject.keeps_bundle_version}
            return _Result("rejected", reject.reason, reject.line, fields)
        if not self._is_read_before(view, is_dirty=is_dirty):
            return _Result("pending", "/tasks has the progress")
        return _Result("unpacked")


def _find_user_id(source_key: UserFile | Bundle | IgnoredFile) -> str | None:
    match source_key:
        case UserFile(user_id, _):
            return user_id
        case Bundle(key):
            return make_bundle_id(key)
        case _:
            return None


def _select_own_receipts(receipts: Sequence[Receipt], name: str) -> list[Receipt]:
    """Return the receipts of a user or bundle that name this file."""
    return [receipt for receipt in receipts if name in (receipt.csv_source, receipt.image)]


def _select_receipt(own: Sequence[Receipt], name: str, etag: str | None) -> Receipt | None:
    """Return the newest receipt of this version of a CSV or a bundle; None if none is known.

    A bundle has receipts only of its rejects.
    """
    return next((each for each in own if (each.csv_source, each.csv_etag) == (name, etag)), None)


def _find_visible_time(receipt: Receipt, view: View) -> float | None:
    """Return since when this process serves the receipt's version, or a newer one.

    None if it does not yet, or if it may have been published before this process started.
    """
    served = _find_served_version(receipt, view)
    if served is None:
        return None
    if served is view.served_versions[0] and served.polled_at >= receipt.published_at:
        return None
    return max(served.since, receipt.published_at)


def _find_served_version(receipt: Receipt, view: View) -> ServedVersion | None:
    """Return the first served version that has the result of the receipt, None without one."""
    for version, later in itertools.zip_longest(view.served_versions, view.served_versions[1:]):
        # In a burst not each version is loaded, so a newer one may be the first.
        if version.polled_at >= receipt.published_at:
            return version
        # It may have been loaded before the receipt was written. A version that was replaced
        # earlier was an earlier publish of the same rows.
        is_same = version.etag == receipt.output_etag
        if is_same and (later is None or later.since >= receipt.published_at):
            return version
    return None


def _is_visible(receipt: Receipt, view: View) -> bool:
    """Return whether this process serves the receipt's version, or a newer one."""
    polled_at = view.store_polled_at
    return _find_served_version(receipt, view) is not None or (
        polled_at is not None and polled_at >= receipt.published_at
    )


def _describe_times(receipt: Receipt | None, view: View) -> dict[str, Any]:
    if receipt is None:
        return dict.fromkeys(("event_at", "read_at", "published_at", "visible_at", "version"))
    return {
        "event_at": format_time(receipt.marked_at),
        "read_at": format_time(receipt.read_at),
        "published_at": format_time(receipt.published_at),
        "visible_at": format_time(_find_visible_time(receipt, view)),
        "version": receipt.output_etag,
    }


def _describe_history(receipt: Receipt, view: View) -> dict[str, Any]:
    return {
        "etag": receipt.csv_etag,
        "image": receipt.image,
        "reason": receipt.reason,
        "line": receipt.line,
        **_describe_times(receipt, view),
    }
