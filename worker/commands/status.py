"""Read the state of the running Rowdrop: published files, pending work, readiness and errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from redis import Redis
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

from shared.csv_reader.decoding import quote_line
from shared.formats import rejects_csv
from shared.formats.object_names import OUTPUT_KEY, REJECTS_KEY
from shared.formats.records import Reject
from shared.object_store import (
    NotModified,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoreUnavailable,
)
from shared.progress.pipeline_errors import MAX_QUOTED_BYTES, list_errors, select_quotable
from shared.progress.pipeline_status import (
    read_pipeline_status,
)
from shared.progress.unpacks import MAX_LISTED_BUNDLES, Unpacks, select_visible
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from shared.text import format_time
from worker.services.server_errors import describe_cause

if TYPE_CHECKING:
    from shared.formats.output_csv import OutputCsv
    from shared.suspicious import SuspiciousRows


@dataclass(frozen=True)
class ApiAddress:
    """Where the API answers. `host` is the header `Host`, if it is not that of `url`."""

    url: str
    host: str = ""
    token: str = field(default="", repr=False)


class ApiReadiness(NamedTuple):
    """What the API answered to GET /health/ready; `ready` is None if it did not answer."""

    ready: bool | None
    reasons: list[str]
    warnings: list[str]


def request_readiness(address: ApiAddress) -> ApiReadiness:
    """Ask the API whether Rowdrop is ready. An API that does not answer is a reason."""
    headers = {"Host": address.host} if address.host else {}
    if address.token:
        headers["Authorization"] = f"Bearer {address.token}"
    http = PoolManager(timeout=Timeout(connect=2, read=5), retries=False)
    try:
        response = http.request("GET", f"{address.url}/health/ready", headers=headers)
        if response.status in {200, 503}:
            body = response.json()
            return ApiReadiness(body["ready"], body["reasons"], body["warnings"])
    except HTTPError as error:
        reason = f"the API at {address.url} does not answer ({describe_cause(error)})"
        return ApiReadiness(None, [reason], [])
    except (ValueError, KeyError, TypeError):
        reason = f"the server at {address.url} is not an API of Rowdrop"
        return ApiReadiness(None, [reason], [])
    reason = f"the API at {address.url} refuses the request with status {response.status}"
    if response.status in {401, 403}:
        reason += ": set API_TOKEN to one of its tokens"
    return ApiReadiness(None, [reason], [])


@dataclass
class PublishedTables:
    """The published files, which are read again only if they have changed."""

    output: "OutputCsv | None" = None
    rejects: Mapping[str, Reject] = field(default_factory=dict)
    output_etag: str | None = None
    rejects_etag: str | None = None
    suspicious_rows: "SuspiciousRows | None" = None

    def refresh(self, store: ObjectStore) -> None:
        """Read the files that have changed, or are missing now. Raises `StoreUnavailable`.

        A rejects.csv that is not valid counts as unchanged: the publisher replaces it.
        """
        try:
            stored = store.get(OUTPUT_KEY, if_none_match=self.output_etag)
            from shared.formats.output_csv import OutputCsv, read_table  # noqa: PLC0415  slow
            from shared.suspicious import CHECKED_COLUMNS, find_suspicious_rows  # noqa: PLC0415

            self.output = OutputCsv.repair(stored.body)
            self.output_etag = stored.etag
            self.suspicious_rows = find_suspicious_rows(
                read_table(self.output.body, CHECKED_COLUMNS)
            )
        except NotModified:
            pass
        except ObjectNotFound:
            self.output = None
            self.output_etag = None
            self.suspicious_rows = None
        try:
            stored = store.get(REJECTS_KEY, if_none_match=self.rejects_etag)
            self.rejects = rejects_csv.decode_rejects(stored.body)
            self.rejects_etag = stored.etag
        except (NotModified, rejects_csv.InvalidRejectsCsv):
            pass
        except ObjectNotFound:
            self.rejects = {}
            self.rejects_etag = None

    def has_row(self, user_id: str) -> bool:
        """Return whether a user has a row in output.csv."""
        return self.output is not None and self.output.find_line_start(user_id) is not None


class StatusReader:
    """Reads the status from the servers and the API, repeatedly.

    Every method raises `StoreUnavailable` or `RedisError` if a server is unavailable.
    """

    def __init__(
        self, source: ObjectStore, output: ObjectStore, client: Redis, api: ApiAddress
    ) -> None:
        self._source = source
        self._output = output
        self._redis: Any = client
        self._api = api
        self._tables = PublishedTables()

    def read_status(self) -> dict[str, Any]:
        """Return the status as JSON fields; times are in ISO 8601 and UTC."""
        self._tables.refresh(self._output)
        pipeline = read_pipeline_status(self._redis)
        readiness = request_readiness(self._api)
        output = self._tables.output
        suspicious_rows = self._tables.suspicious_rows
        held_count = sum(
            reject.keeps_bundle_version or self._tables.has_row(user_id)
            for user_id, reject in self._tables.rejects.items()
        )
        return {
            "ready": readiness.ready,
            "reasons": readiness.reasons,
            "warnings": readiness.warnings,
            "api": self._api.url,
            "rows": None if output is None else output.row_count,
            "rejected": len(self._tables.rejects) - held_count,
            "held": held_count,
            "suspicious": suspicious_rows.entry_count if suspicious_rows is not None else 0,
            "ignored": pipeline.ignored_count,
            "ignored_members": self._count_ignored_members(),
            "dead_letters": len(pipeline.dead_letters),
            "events_waiting": pipeline.waiting_events,
            "dirty_users": dict(pipeline.dirty_counts),
            "queues": {name: self._redis.llen(name) for name in (EVENTS_QUEUE, BULK_QUEUE)},
            "last_publish_at": format_time(pipeline.last_publish_at),
            "last_sweep": pipeline.last_sweep and pipeline.last_sweep.to_json(),
            "trust_state": pipeline.trust_state,
            "loss_signals": dict(pipeline.loss_signals),
        }

    def _count_ignored_members(self) -> int:
        newest = Unpacks(self._redis).list_newest(MAX_LISTED_BUNDLES)
        return sum(status.ignored for status in select_visible(newest))

    def list_errors(self) -> tuple[list[dict[str, Any]], int]:
        """Return one entry per error, and the number of ignored keys, which may be more.

        The entries are those of the API's route /errors, with quotes.
        """
        self._tables.refresh(self._output)
        pipeline = read_pipeline_status(self._redis)
        rejects = list(self._tables.rejects.values())
        suspicious_rows = self._tables.suspicious_rows
        errors = list(list_errors(rejects, self._tables.has_row, suspicious_rows, pipeline))
        for entry, reject in select_quotable(errors, self._tables.rejects):
            if quote := self._read_quote(reject):
                entry["quote"] = quote
        return errors, pipeline.ignored_count

    def _read_quote(self, reject: Reject) -> str:
        """Return the beginning of the rejected line; "" if the file is not available."""
        try:
            stored = self._source.get(reject.key, max_bytes=MAX_QUOTED_BYTES)
        # The rest of the list is complete without quotes.
        except (ObjectNotFound, ObjectUnreadable, StoreUnavailable):
            return ""
        return quote_line(stored.body, reject.line or 1) if stored.etag == reject.etag else ""
