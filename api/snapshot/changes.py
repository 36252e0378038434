"""Follow the changes of a process's view: which version of the table and of the status it has.

Streams wait for one task per process, which compares versions. So an idle stream costs nothing but
its heartbeats.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import NamedTuple

from api.snapshot.view import View, ViewProvider

MAX_STREAMS = 250
"""Streams of one process: half of its connections stay free for requests."""
HEARTBEAT_S = 15.0
"""Seconds without a change after which a stream sends a sign of life."""
COMPARE_INTERVAL_S = 0.02
"""Seconds between two comparisons of the view, which only look whether it is the same object."""


class ViewVersions(NamedTuple):
    """Two texts that change whenever the table changes, and whenever the status does.

    `table` is `none` before the first publish.
    """

    table: str
    status: str


class ChangeFeed:
    """The streams of one process.

    `describe_status` returns what a view says to readers, apart from times and ages. Its
    `repr` is compared.
    `is_stopping` returns True when the process has to end its streams.
    """

    def __init__(
        self,
        get_view: ViewProvider,
        describe_status: Callable[[View], object],
        is_stopping: Callable[[], bool],
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._get_view = get_view
        self._describe_status = describe_status
        self._is_stopping = is_stopping
        self._max_streams = max_streams
        self._stream_count = 0
        self._compared_view: View | None = None
        self._versions = ViewVersions("", "")
        self._change = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether the process has as many streams as it may have."""
        return self._stream_count >= self._max_streams

    async def follow(self, heartbeat_s: float = HEARTBEAT_S) -> AsyncGenerator[ViewVersions | None]:
        """Yield the current versions, then the new ones after each change, and None as heartbeat.

        Changes in quick succession are one change. Ends when the process stops.
        """
        self._stream_count += 1
        try:
            self._compare()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._compare_until_unused())
            seen: ViewVersions | None = None
            while not self._is_stopping():
                versions = self._versions
                yield None if versions == seen else versions
                seen = versions
                if versions == self._versions:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._change.wait(), heartbeat_s)
        finally:
            self._stream_count -= 1

    async def _compare_until_unused(self) -> None:
        while self._stream_count and not self._is_stopping():
            self._compare()
            await asyncio.sleep(COMPARE_INTERVAL_S)
        self._wake_streams()

    def _compare(self) -> None:
        view = self._get_view()
        if view is self._compared_view:
            return
        self._compared_view = view
        table_version = "none" if view.table is None else view.table.etag
        status = repr(self._describe_status(view)).encode()
        versions = ViewVersions(table_version, hashlib.sha256(status).hexdigest()[:16])
        if versions != self._versions:
            self._versions = versions
            self._wake_streams()

    def _wake_streams(self) -> None:
        # Streams keep the event that they wait for; later ones wait for the next.
        self._change.set()
        self._change = asyncio.Event()
