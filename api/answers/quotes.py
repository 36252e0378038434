"""Quotes of rejected CSVs, for clients that may read files.

A reason contains nothing of the file. A quote is not stored anywhere: it is read from the file in
the source bucket, which must still be the rejected one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from api.snapshot.caches import LruCache
from api.web.problems import Problem
from api.web.transfers import Transfers
from shared.csv_reader.decoding import quote_line
from shared.formats.records import Reject
from shared.object_store import StoreUnavailable
from shared.progress.pipeline_errors import MAX_QUOTED_BYTES, select_quotable

QUOTES_S = 1.0
"""Seconds for all reads of one response; then the rest has no quote."""
MAX_CACHED_QUOTES = 1000


class QuoteReader:
    """Reads the lines to which rejects refer. `transfers` reads the source bucket."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._cache = LruCache(MAX_CACHED_QUOTES)

    async def add_quotes(
        self, entries: Sequence[dict[str, Any]], rejects: Mapping[str, Reject]
    ) -> None:
        """Add `quote`, the beginning of the rejected line, to entries of `/errors`.

        `rejects` are those by user ID. An entry gets none if it names no line, or if the file is a
        member of a bundle, has changed since, or cannot be read now.
        """
        try:
            async with asyncio.timeout(QUOTES_S):
                # One after the other: the reads must not take all threads of other requests.
                for entry, reject in select_quotable(entries, rejects):
                    if quote := await self._read_quote(reject):
                        entry["quote"] = quote
        except (TimeoutError, StoreUnavailable, Problem):
            # The reasons are complete without quotes.
            return

    async def _read_quote(self, reject: Reject) -> str:
        cache_key = reject.key, reject.etag
        quote: str | None = self._cache.get(cache_key)
        if quote is None:
            head = await self._transfers.fetch_head(reject.key, reject.etag, MAX_QUOTED_BYTES)
            quote = quote_line(head, reject.line or 1)
            self._cache.put(cache_key, quote, 1)
        return quote
