"""The queues of work: pages of bulk work, and Celery's queues."""

import json
from typing import Any, NamedTuple

from redis import Redis

from shared.redis_keys import PAGES
from worker.state.user_states import VersionTokens


class ListedUser(NamedTuple):
    """Version tokens of a user, and what a LIST that began after they were read shows of its files.

    `has_csv`: whether there is a CSV. `image_key`: key of the image that counts, None without one.
    """

    user_id: str
    version_tokens: VersionTokens
    has_csv: bool
    image_key: str | None
    image_etag: str = ""


class Page(NamedTuple):
    """A page of bulk work: marked users.

    They are in `listed_users` if a LIST has shown which files they have.
    """

    user_ids: list[str] = []  # noqa: RUF012  never changed
    listed_users: list[ListedUser] = []  # noqa: RUF012

    def to_json(self) -> str:
        """Encode the page for Redis."""
        listed_users = [
            [
                user_id,
                version_tokens.change_version.decode(),
                version_tokens.read_version.decode(),
                *files,
            ]
            for user_id, version_tokens, *files in self.listed_users
        ]
        return json.dumps([list(self.user_ids), listed_users], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: bytes) -> "Page":
        """Decode what `to_json` returned."""
        user_ids, listed_users = json.loads(text)
        return cls(
            user_ids,
            [
                ListedUser(
                    user_id, VersionTokens(change_version.encode(), read_version.encode()), *files
                )
                for user_id, change_version, read_version, *files in listed_users
            ],
        )


class WorkQueues:
    """The pages that wait for a worker, and the lengths of Celery's queues.

    Every method raises `redis.exceptions.RedisError` if Redis is unavailable.
    """

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client

    def add_page(self, page: Page) -> None:
        """Enqueue a page for `take_page`."""
        self._redis.rpush(PAGES, page.to_json())

    def take_page(self) -> Page | None:
        """Dequeue the next page, None if the queue is empty.

        If the worker loses it, its users are still dirty and become overdue.
        """
        page = self._redis.lpop(PAGES)
        return Page.from_json(page) if page else None

    def count_pages(self) -> int:
        """Return the number of pages that no worker has dequeued."""
        return int(self._redis.llen(PAGES))

    def count_messages(self, queue: str) -> int:
        """Return the number of messages in a Celery queue."""
        return int(self._redis.llen(queue))
