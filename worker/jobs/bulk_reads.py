"""Bulk work of sweeps and rebuilds: pages of a thousand users, which never delay events.

For a large number of users, one LIST makes the pages. It starts after the users' version tokens
were taken and shows which users have a CSV and which image. So a user costs one request instead of
four.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from shared.formats.source_keys import make_bundle_id, parse_bundle_id
from shared.object_store import ObjectStore
from shared.task_queue import BULK_QUEUE, TaskQueue
from worker.reading.refresher import Refresher
from worker.source.listing import Listing
from worker.state.read_attempts import ReadAttempts
from worker.state.user_states import UserStates, VersionTokens
from worker.state.work_queues import ListedUser, Page, WorkQueues

MIN_USERS_FOR_LIST = 500
"""From this many users on, one LIST of the whole bucket is cheaper than requests per user."""
MAX_PAGE_USERS = 1000
"""Users per page."""
MAX_QUEUED_PAGES = 4
"""Maximum pages in the queue; `BulkReads.enqueue` reads further pages itself."""

_T = TypeVar("_T")


class PageBuilder:
    """Divides marked users into pages of at most `max_page_users` users."""

    def __init__(
        self, source: ObjectStore, users: UserStates, max_page_users: int = MAX_PAGE_USERS
    ) -> None:
        self._source = source
        self._users = users
        self._max_page_users = max_page_users

    def build_pages(self, user_ids: Sequence[str]) -> Iterator[Page]:
        """Yield pages of these users, without what files they have."""
        for chunk in self._split_pages(user_ids):
            yield Page(user_ids=chunk)

    def build_listed_pages(
        self, user_ids: Sequence[str], unmarked_ids: list[str], renew_lease: Callable[[], None]
    ) -> Iterator[Page]:
        """Yield pages of these users with what a LIST shows of them.

        IDs that the LIST shows and that are not marked are added to `unmarked_ids`: users with a
        CSV, and bundles. `renew_lease` is called for every page of the LIST, because a large bucket
        may have many for one page of users. Raises `StoreUnavailable`.
        """
        # Before the LIST: a change after it gives the user another version.
        version_tokens = self._users.begin_read(user_ids)
        listing = Listing()
        listed_users = list[ListedUser]()
        seen = set[str]()
        for objects in self._source.list_objects():
            renew_lease()
            listing.add_objects(objects)
            _collect_complete_users(
                listing, objects[-1].key, version_tokens, listed_users, unmarked_ids
            )
            while len(listed_users) >= self._max_page_users:
                page = listed_users[: self._max_page_users]
                del listed_users[: self._max_page_users]
                seen.update(user.user_id for user in page)
                yield Page(listed_users=page)
        # After the last page every user is complete: no key is greater than this code point.
        _collect_complete_users(listing, chr(0x10FFFF), version_tokens, listed_users, unmarked_ids)
        seen.update(user.user_id for user in listed_users)
        # Users that the LIST does not show have no files; reading them removes their rows.
        listed_users += [
            ListedUser(user_id, tokens, False, None)
            for user_id, tokens in version_tokens.items()
            if user_id not in seen
        ]
        unmarked_ids += map(make_bundle_id, listing.bundles)
        for chunk in self._split_pages(listed_users):
            yield Page(listed_users=chunk)

    def _split_pages(self, items: Sequence[_T]) -> Iterator[list[_T]]:
        for start in range(0, len(items), self._max_page_users):
            yield list(items[start : start + self._max_page_users])


class BulkReads:
    """Enqueues pages of users and reads them."""

    def __init__(
        self,
        page_builder: PageBuilder,
        refresher: Refresher,
        work_queues: WorkQueues,
        attempts: ReadAttempts,
        tasks: TaskQueue,
    ) -> None:
        self._page_builder = page_builder
        self._refresher = refresher
        self._work_queues = work_queues
        self._attempts = attempts
        self._tasks = tasks

    def enqueue(
        self, user_ids: Sequence[str], renew_lease: Callable[[], None], *, list_bucket: bool = False
    ) -> list[str]:
        """Enqueue these users to be read as bulk work.

        All of them must be marked before. `renew_lease` is called for every page, to renew the
        caller's lease. `list_bucket`: LIST the bucket even for a few users. Returns what a LIST
        showed besides `user_ids`: users with a CSV, and bundle IDs. Raises `StoreUnavailable`.
        """
        self.enqueue_bundles(user_ids)
        user_ids = [user_id for user_id in user_ids if parse_bundle_id(user_id) is None]
        # An isolated user gets a message of its own: in a page, a poison file would take up to 999
        # other users with it.
        isolated = self._attempts.isolated_ids()
        for user_id in isolated.intersection(user_ids):
            self._tasks.refresh_isolated(user_id, BULK_QUEUE)
        user_ids = [user_id for user_id in user_ids if user_id not in isolated]
        unmarked_ids: list[str] = []
        if list_bucket or len(user_ids) >= MIN_USERS_FOR_LIST:
            pages = self._page_builder.build_listed_pages(user_ids, unmarked_ids, renew_lease)
        else:
            pages = self._page_builder.build_pages(user_ids)
        for page in pages:
            renew_lease()
            if self._work_queues.count_pages() < MAX_QUEUED_PAGES:
                self._work_queues.add_page(page)
                self._tasks.refresh_page()
            else:
                # Backpressure: the pages are made faster than they are read, and must not
                # accumulate in Redis.
                self._read_page(page)
        return [user_id for user_id in unmarked_ids if user_id not in isolated]

    def enqueue_bundles(self, ids: Iterable[str]) -> None:
        """Enqueue the first bundle among these IDs; its task enqueues the next waiting one."""
        key = next((key for key in map(parse_bundle_id, ids) if key is not None), None)
        if key is not None:
            self._tasks.unpack(key)

    def read_next_page(self) -> bool:
        """Read the next page of the queue; return False if the queue is empty.

        Raises `StoreUnavailable`; the page is enqueued again.
        """
        page = self._work_queues.take_page()
        if page is not None:
            self._read_page(page)
        return page is not None

    def _read_page(self, page: Page) -> None:
        """Read the users of one page; put the page back if a server is unavailable."""
        try:
            if page.listed_users:
                self._refresher.refresh_listed(page.listed_users)
            else:
                self._refresher.refresh(page.user_ids)
        except BaseException:
            # Otherwise the users of the page would wait until they are overdue.
            self._work_queues.add_page(page)
            raise


def _collect_complete_users(
    listing: Listing,
    last_key: str,
    version_tokens: Mapping[str, VersionTokens],
    listed_users: list[ListedUser],
    unmarked_ids: list[str],
) -> None:
    """Remove from the listing the users that a LIST up to `last_key` shows completely.

    Those that are marked are added to `listed_users`, the others with a CSV to `unmarked_ids`.
    """
    for user_id, (has_csv, image) in listing.pop_complete_users(last_key).items():
        tokens = version_tokens.get(user_id)
        if tokens:
            image_key = image.key if image else None
            image_etag = image.etag if image else ""
            listed_users.append(ListedUser(user_id, tokens, has_csv, image_key, image_etag))
        elif has_csv:
            unmarked_ids.append(user_id)
