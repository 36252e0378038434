"""Answers that depend only on the table, the request's head and the date, each computed once.

A version of the table keeps them.  The first request with a head goes through the framework. The
next one with the same head gets the same bytes before the framework sees it.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, NamedTuple

from falcon.asgi import Request, Response

from api.query.filters import DAY_S, compute_utc_date
from api.snapshot.table import SnapshotTable
from api.snapshot.view import ViewProvider
from api.web.conditional import HeaderPairs, apply_etag
from api.web.connections import SMALL_BODY_BYTES, AsgiApp
from api.web.problems import build_not_ready_problem
from api.web.thread_pool import ThreadPool

_REPEATED_PATHS = frozenset({"/data", "/stats"})
_ENTRY_BYTES = 2_000
"""The weight of a cached answer in addition to its key and its body."""
_HEADER_BYTES = 150
"""The memory of a header in a key, in addition to its characters."""

_Key = tuple[object, ...]


class Answer(NamedTuple):
    """A complete answer. A client that has its ETag gets only the `vary` headers, with a 304."""

    etag: str
    headers: HeaderPairs
    body: bytes
    vary: HeaderPairs = ()


class TableAnswers:
    """The answers from the current table.

    `clock` returns Unix seconds; its UTC date determines the ages.
    """

    def __init__(
        self, get_view: ViewProvider, clock: Callable[[], float], compute_pool: ThreadPool
    ) -> None:
        self._get_view = get_view
        self._clock = clock
        self._compute_pool = compute_pool
        self._tasks = dict[tuple[SnapshotTable, _Key], asyncio.Task[Answer]]()

    async def respond(
        self,
        request: Request,
        response: Response,
        build: Callable[[SnapshotTable, Request, date], Answer],
    ) -> None:
        """Respond with the cached answer, or with a new one that `build` computes in a thread.

        Raises a 503 before the first publish, and what `build` raises.
        """
        table = self._get_view().table
        if table is None:
            raise build_not_ready_problem()
        now = self._clock()
        key = (
            request.path,
            request.query_string,
            request.get_header("Accept"),
            request.get_header("Accept-Encoding"),
            now // DAY_S,
        )
        answer: Answer | None = table.cache.get(key)
        if answer is None:
            answer = await self._compute_once(key, table, request, build, compute_utc_date(now))
        if not apply_etag(request, response, answer.etag, answer.vary):
            response.set_headers(answer.headers)
            response.data = answer.body

    async def _compute_once(
        self,
        key: _Key,
        table: SnapshotTable,
        request: Request,
        build: Callable[[SnapshotTable, Request, date], Answer],
        today: date,
    ) -> Answer:
        """Compute and cache an answer; concurrent requests with the same key share the computation.

        After a publish, many clients send the same request.
        """

        async def compute() -> Answer:
            answer = await self._compute_pool.run(build, table, request, today)
            table.cache.put(key, answer, _weigh(table, key, answer.body))
            return answer

        task = self._tasks.get((table, key))
        if task is None:
            task = asyncio.create_task(compute())
            self._tasks[table, key] = task
            task.add_done_callback(lambda _: self._tasks.pop((table, key)))
        # The task continues when one of its clients leaves.
        return await asyncio.shield(task)


def repeat_answers(
    app: AsgiApp,
    limit_app: Callable[[AsgiApp], AsgiApp],
    get_view: ViewProvider,
    clock: Callable[[], float],
) -> AsgiApp:
    """Return an application that repeats the answers 200 and 304 of `app` to equal heads.

    `limit_app` adds the limits of connections to `app` and to the large bodies that are repeated.
    The access rules look at nothing but the head, so a head that was allowed is allowed again.
    `clock` returns Unix seconds.
    """
    limited_app = limit_app(app)

    async def repeating_app(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
        table = get_view().table
        is_repeated = scope.get("path") in _REPEATED_PATHS and scope.get("method") == "GET"
        if table is None or not is_repeated:
            await limited_app(scope, receive, send)
            return
        # A look-up compares hashes first, so its time tells nothing about a similar token.
        key = (
            scope["path"],
            scope["query_string"],
            scope["http_version"],
            clock() // DAY_S,
            *scope["headers"],
        )
        answer: AsgiApp | None = table.cache.get(key)
        if answer is not None:
            await answer(scope, receive, send)
            return
        sent: list[dict[str, Any]] = []

        async def send_and_record(message: dict[str, Any]) -> None:
            sent.append(message)
            await send(message)

        await limited_app(scope, receive, send_and_record)
        if len(sent) == 2 and sent[0]["status"] in {200, 304}:
            body = sent[1].get("body", b"")
            answer = _make_answer(sent)
            # The limits cost a tenth of a small answer, which is sent before its client can wait.
            table.cache.put(
                key,
                answer if len(body) <= SMALL_BODY_BYTES else limit_app(answer),
                _weigh(table, key, body),
            )

    return repeating_app


def _make_answer(messages: Sequence[dict[str, Any]]) -> AsgiApp:
    async def send_messages(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
        for message in messages:
            await send(message)

    return send_messages


def _weigh(table: SnapshotTable, key: _Key, body: bytes) -> int:
    # A client chooses the key: up to 64 kB of headers for an answer of a few bytes.
    key_bytes = 0
    for part in key:
        if isinstance(part, str | bytes):
            key_bytes += len(part)
        elif isinstance(part, tuple):
            key_bytes += _HEADER_BYTES + sum(map(len, part))
    # The table holds its JSON in any case.
    return _ENTRY_BYTES + key_bytes + (0 if body is table.json else len(body))
