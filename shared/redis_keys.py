"""Every key of Rowdrop in Redis, declared once. Pure.

Each line names the type, what the key holds, who writes it and who reads it. "Pipeline" means the
listener, the workers and the publisher: these may access every key. The ACL rules of the
other processes are built from these constants (`worker.commands.provisioning.server_users`). The
scripts in `shared/lua/` receive every key as an argument.

All keys but the event list, and two of earlier releases, begin with `rowdrop:`, so that a Redis
can be shared with other applications. The keys of the pipeline's state depend on each other. They
begin with the version of the whole set: processes of two releases run side by side during an
upgrade, and must not read each other's values. If another key changes its form, it gets a new name.

No script takes a value apart: each version token, ETag or time is a field of its own.

Celery and Flower add keys of their own: the queues of `shared.task_queue`, `unacked*`,
`flower:unacked*`, `_kombu.*`, `celeryev*` and `*.pidbox`. The health check of the container writes
`health`.
"""

KEY_PREFIX = "rowdrop:"
"""Begins all keys, except those named above."""
STATE_VERSION = "3"
"""Version of the pipeline's state. A new one, if one of its values changes its form, resets it."""
STATE_PREFIX = f"{KEY_PREFIX}v{STATE_VERSION}:"
"""Begins the keys of the pipeline's state."""

CAUSES = ("event", "sweep", "rebuild", "bundle", "unpack")
"""Why a user is marked. "bundle": its bundle was unpacked or removed. "unpack": it is a bundle."""
MAX_DEAD_LETTERS = 1000
"""Entries that `DEAD_LETTERS` keeps, the newest."""

# -- events in -------------------------------------------------------------------------------------
FAST_EVENTS = "events:fast"
"""List: events that MinIO sent and no listener has processed. MinIO's setting names it."""
SAFE_EVENTS_OF_0_3 = "events:safe"
"""List: second copies of events, by a MinIO with the two targets of release 0.3. The watchdog moves
them to the other list."""
DEAD_LETTERS = "rowdrop:dead_letters"
"""List: events that could not be decoded, with their reasons. Written by MARK, read by the API."""
EVENTS_AVAILABLE = "rowdrop:events_available"
"""String: "no" if MinIO's events do not reach this Redis. Set by init and watchdog, deleted only by
init, read by watchdog and API."""
PROBE = "rowdrop:probe"
"""String, 60 s: the last probe key that arrived as an event. Written by the listener, read by
init."""
PROBE_OF_VERSION_1 = "probe"
"""The same, written by a listener of release 0.2. During an upgrade `init` runs beside that
listener, and would otherwise conclude that no event reaches Redis."""
IGNORED_KEYS = "rowdrop:ignored_keys"
"""Hash: key -> reason and time of ignored objects. Written by listener and sweep, read by the
API."""
IGNORED_COUNT = "rowdrop:ignored_count"
"""String: number of ignored keys. Written by listener and sweep, read by the API."""

# -- user states -----------------------------------------------------------------------------------
CHANGE_VERSIONS = f"{STATE_PREFIX}change_versions"
"""Hash: dirty user -> change version. Written and read by the pipeline; the API reads it too."""
READ_VERSIONS = f"{STATE_PREFIX}read_versions"
"""Hash: dirty user -> read version, which is that of its pending result if it has one. Pipeline
only."""
DIRTY_SINCE = {cause: f"{STATE_PREFIX}dirty_since:{cause}" for cause in CAUSES}
"""Sorted set per cause: user -> when it was first marked (Unix seconds). Pipeline; the API reads
them."""
ACTIVE_READS = f"{STATE_PREFIX}active_reads"
"""Hash: read ID -> users of a read in progress. Written by workers; orphans are read by the
watchdog."""
SUSPECT_USERS = f"{STATE_PREFIX}suspect_users"
"""Set: users that may have stray image copies. Written by watchdog and workers, read by BEGIN
READ."""
ISOLATED_USERS = f"{STATE_PREFIX}isolated_users"
"""Set: the isolated users. Written and read by the pipeline."""
ISOLATED_PREFIX = f"{STATE_PREFIX}isolated:"
"""Hash per isolated user: its attempts at the current file version. Pipeline only."""
SILENT_DRIFT = f"{STATE_PREFIX}silent_drift"
"""Set: users that a sweep marked and no event named, until they are published. Written by sweep and
publisher, read by the publisher."""
PAGES = f"{STATE_PREFIX}pages"
"""List: bulk work, up to 1,000 marked users per entry. Written and read by workers and watchdog."""

# -- publishing ------------------------------------------------------------------------------------
PENDING_RESULTS = f"{STATE_PREFIX}pending_results"
"""Hash: user -> pending result, as JSON. Written by SUBMIT RESULTS, read by the publisher."""
PENDING_CHANGE_VERSIONS = f"{STATE_PREFIX}pending_change_versions"
"""Hash: user -> change version that its pending result was read after. Pipeline only."""
WAKE_LIVE = f"{STATE_PREFIX}wake:live"
"""List: wakes the publisher, because a user with an event has a pending result. Pipeline only."""
WAKE_BULK = f"{STATE_PREFIX}wake:bulk"
"""List: wakes the publisher for all other pending results. Pipeline only."""
WRITER_LEASE = "rowdrop:writer_lease"
"""String with a TTL: token of the publisher that may write. Written by it, read by the watchdog."""
LAST_PUBLISH = f"{STATE_PREFIX}last_publish"
"""Hash: what was published last. Written by publisher and sweep, read by the pipeline and the
API."""
PUBLISH_DONE_CHANNEL = "rowdrop:publish_done"
"""Channel: tells API processes to check output.csv. Sent by publisher and API, received by the
API."""

# -- loss signals and sweeps -----------------------------------------------------------------------
TRUST_STATE = f"{STATE_PREFIX}trust_state"
"""Hash: `state`, verified with the `run_id` of Redis, or verifying with the `sweep_token`; absent:
suspect. Written by the pipeline, read by it and the API."""
LOSS_SIGNALS = f"{STATE_PREFIX}loss_signals"
"""Set: kinds of loss signals since the last sweep began. Written by the pipeline, read by the
API."""
LOSS_SIGNALS_IN_SWEEP = f"{STATE_PREFIX}loss_signals:in_sweep"
"""Set: kinds of loss signals that a sweep handles, until one commits. Pipeline; the API reads
it."""
LAST_SWEEP = f"{STATE_PREFIX}last_sweep"
"""Hash: the last committed sweep. Written by COMMIT SWEEP, read by the pipeline, the API and
bench."""
SWEEP_HISTORY = "rowdrop:sweep_history"
"""List: the newest fifty sweeps, as JSON, the newest first. Written by the sweep, read by the
API."""
SWEEP_LEASE = "rowdrop:sweep_lease"
"""String, 60 s: token of the running sweep. Written by it, read by watchdog and bench."""
SWEEP_REQUESTED = "rowdrop:sweep_requested"
"""String, 120 s: cause of the enqueued sweep. Written by watchdog and sweep, read by the
watchdog."""

# -- bundles ---------------------------------------------------------------------------------------
CATALOG_VERSION = f"{STATE_PREFIX}catalog_version"
"""Hash: `version` and `etag` of the bundle catalog, renewed after each change. Pipeline only."""
UNPACK_PREFIX = "rowdrop:unpack:"
"""Hash per ID, 7 days: record of unpacking one version of a bundle. Workers; read by the API."""
UNPACK_IDS = "rowdrop:unpack_ids"
"""Sorted set: ID -> start time (Unix seconds) of the newest thousand. Workers; read by the API."""
UNPACKS_PUBLISHING = "rowdrop:unpacks_publishing"
"""Set: IDs of visible bundles with users that may still be unpublished. Pipeline only."""
UNPACK_LEASE = "rowdrop:unpack_lease"
"""String, 60 s: token of the process that unpacks. Written by it, read by watchdog and sweep."""
UNPACK_ATTEMPTS = "rowdrop:unpack_attempts"
"""Hash: ID -> attempts that did not end normally. Written and read by unpack and sweep."""
PREVIOUS_VERSIONS = "rowdrop:previous_versions"
"""Hash: bundle -> digests of earlier versions with users that are not marked yet. Unpack only."""

# -- requests and records --------------------------------------------------------------------------
REBUILD_PREFIX = "rowdrop:rebuild:"
"""Hash per ID, 7 days: record of one rebuild. Written by rebuild and API, read by the API."""
REBUILD_QUEUED = "rowdrop:rebuild_queued"
"""String: ID of the queued rebuild. Written by API and rebuild, read by the watchdog."""
REBUILD_RUNNING = "rowdrop:rebuild_running"
"""String: ID of the running rebuild. Written by the rebuild, read by watchdog and API."""
REBUILD_IDS = "rowdrop:rebuild_ids"
"""Sorted set: ID -> request time (Unix seconds) of the newest fifty. Written by API and command
line, read by the API."""
REBUILD_LEASE = "rowdrop:rebuild_lease"
"""String, 60 s: token of the process that enqueues a rebuild's users. Written by it, read by the
watchdog."""
REFRESH_REQUEST_PREFIX = "rowdrop:refresh_request:"
"""String per request, 900 s: the requested user is marked. Written by workers, read by the API."""

RECEIPTS = "rowdrop:receipts"
"""Hash: user -> its newest receipts, as JSON. Written by the publisher, read by the API."""
RECEIPT_TIMES = "rowdrop:receipt_times"
"""Sorted set: user -> time of its newest receipt (Unix seconds). Publisher only."""
READ_TIMES = "rowdrop:read_times"
"""Hash: user -> when its pending result was read (Unix seconds). Workers and publisher only."""

# -- the operator's view ---------------------------------------------------------------------------
COUNTERS = "rowdrop:counters"
"""Hash: counters for the operator; `since` is when counting began. Pipeline; the API reads it."""
SOURCE_FAILURE = "rowdrop:source_failure"
"""String, 60 s: why the source bucket could not be read. Written by workers, read by the API."""
SCHEMA_VERSION = "rowdrop:schema_version"
"""String: version of this set of keys. Written and read by UPGRADE SCHEMA."""
API_PROCESSES = f"{STATE_PREFIX}api:processes"
"""Hash: API process -> its last heartbeat (Redis time). Written and read by the API."""
API_POLLS = f"{STATE_PREFIX}api:polls"
"""Hash: API process -> start of its last complete check (Redis time). Written and read by the
API."""

STATE_KEYS = (
    CHANGE_VERSIONS, READ_VERSIONS, *DIRTY_SINCE.values(), ACTIVE_READS, SUSPECT_USERS,
    ISOLATED_USERS, SILENT_DRIFT, PAGES, PENDING_RESULTS, PENDING_CHANGE_VERSIONS, WAKE_LIVE,
    WAKE_BULK, LAST_PUBLISH, TRUST_STATE, LOSS_SIGNALS, LOSS_SIGNALS_IN_SWEEP, LAST_SWEEP,
    CATALOG_VERSION, API_PROCESSES, API_POLLS,
)  # fmt: skip
"""The keys of the pipeline's state, without the records of isolated users."""
