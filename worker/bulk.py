"""Bulk work of sweeps and rebuilds: pages of a thousand users, which never delay events.

For a large number of users, one LIST makes the pages. It starts after the users' version tokens
were taken and shows which users have a CSV and which image. So a user costs one request instead of
four.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from shared.keys import bundle_id, bundle_key
from shared.object_store import ObjectStore
from shared.task_queue import BULK_QUEUE, TaskQueue
from worker.backlog import Backlog, ListedUser, Note, Page
from worker.listing import Listing
from worker.refresh import Refresher
from worker.trials import Trials

MANY = 500
"""From this many users on, one LIST of the whole bucket is cheaper than requests per user."""
PAGE_USERS = 1000
"""Users per page."""
PAGES_AHEAD = 4
"""Maximum pages in the queue; `enqueue` reads further pages itself."""

_Item = TypeVar("_Item")


class BulkWork:
    """Makes pages of users, enqueues them and reads them."""

    def __init__(
        self,
        source: ObjectStore,
        refresher: Refresher,
        backlog: Backlog,
        tasks: TaskQueue,
        page_users: int = PAGE_USERS,
    ) -> None:
        self._source, self._refresher, self._backlog, self._tasks = source, refresher, backlog, tasks
        self._page_users, self._trials = page_users, Trials(backlog.redis)

    def enqueue(self, user_ids: Sequence[str], still_alive: Callable[[], None], *, whole: bool = False) -> list[str]:
        """Enqueue these users to be read as bulk work.

        All of them must be marked before. `still_alive` is called for every page, to renew the
        caller's lease. `whole`: LIST the bucket even for a few users. Returns what a LIST showed
        besides `user_ids`: users with a CSV, and bundle IDs. Raises `StoreUnavailable`.
        """
        bundles = [key for key in map(bundle_key, user_ids) if key is not None]
        if bundles:
            self._tasks.unpack(bundles[0])  # the unpack task enqueues the next waiting bundle
            user_ids = [user_id for user_id in user_ids if bundle_key(user_id) is None]
        # An isolated user gets a message of its own: in a page, a poison file would take up to 999
        # other users with it.
        alone = self._trials.users()
        for user_id in alone.intersection(user_ids):
            self._tasks.refresh_alone(user_id, BULK_QUEUE)
        if alone:
            user_ids = [user_id for user_id in user_ids if user_id not in alone]
        others: list[str] = []
        if whole or len(user_ids) >= MANY:
            pages = self._listed_pages(self._backlog.note(user_ids), others)
        else:
            pages = (Page(user_ids=chunk) for chunk in self._chunks(user_ids))
        for page in pages:
            still_alive()
            if self._backlog.pages_left() < PAGES_AHEAD:
                self._backlog.add_page(page)
                self._tasks.refresh_page()
            else:
                # Backpressure: the pages are made faster than they are read, and must not
                # accumulate in Redis.
                self._do(page)
        return [user_id for user_id in others if user_id not in alone]

    def next_page(self) -> bool:
        """Read the next page of the queue; return False if the queue is empty.

        Raises `StoreUnavailable`; the page is enqueued again.
        """
        page = self._backlog.take_page()
        if page is not None:
            self._do(page)
        return page is not None

    def _do(self, page: Page) -> None:
        try:
            if page.listed:
                self._refresher.refresh_listed(page.listed)
            else:
                self._refresher.refresh(page.user_ids)
        except BaseException:
            # Otherwise the users of the page would wait until they are overdue.
            self._backlog.add_page(page)
            raise

    def _listed_pages(self, notes: Mapping[str, Note], others: list[str]) -> Iterator[Page]:
        listing, ready, seen = Listing(), list[ListedUser](), set[str]()
        for objects in self._source.objects():
            listing.add(objects)
            _sort(listing, objects[-1].key, notes, ready, others)
            while len(ready) >= self._page_users:
                page = ready[: self._page_users]
                del ready[: self._page_users]
                seen.update(user.user_id for user in page)
                yield Page(listed=page)
        # After the last page every user is complete: no key is greater than this code point.
        _sort(listing, chr(0x10FFFF), notes, ready, others)
        seen.update(user.user_id for user in ready)
        # Users that the LIST does not show have no files; reading them removes their rows.
        ready += [ListedUser(user_id, note, False, None) for user_id, note in notes.items() if user_id not in seen]
        others += map(bundle_id, listing.bundles)
        for chunk in self._chunks(ready):
            yield Page(listed=chunk)

    def _chunks(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        for start in range(0, len(items), self._page_users):
            yield list(items[start : start + self._page_users])


def _sort(
    listing: Listing, last_key: str, notes: Mapping[str, Note], ready: list[ListedUser], others: list[str]
) -> None:
    """Move the users which the LIST shows completely up to `last_key` to `ready` or `others`."""
    for user_id, (has_csv, image) in listing.take_complete(last_key).items():
        note = notes.get(user_id)
        if note:
            ready.append(ListedUser(user_id, note, has_csv, *((image.key, image.etag) if image else (None, ""))))
        elif has_csv:
            others.append(user_id)
