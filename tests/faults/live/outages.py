"""Scenarios: outages of MinIO, of Redis and of the source bucket.

The servers are killed, emptied, frozen, full or cut off. The source bucket is missing, or the
credentials for it are revoked.
"""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from shared.redis_keys import COUNTERS
from tests.faults.live.observer import TrafficObserver, measure_post
from tests.faults.live.rowdrop import LiveRowdrop, WaitTimeout, wait_until
from tests.faults.live.scenario import Scenario, ScenarioRun
from worker.commands.provisioning.minio_users import POLICY_PREFIX

MINIO_RECOVERY_LIMIT_S = 60.0
REDIS_RECOVERY_LIMIT_S = 90.0
CONSUMING_LIMIT_S = 30.0
POST_LIMIT_S = 5.0
KOMBU_ERROR = "AttributeError: 'NoneType' object has no attribute 'hostname'"


# -- MinIO -----------------------------------------------------------------------------------------
def run_minio_killed(run: ScenarioRun) -> None:
    """Kill MinIO several times under 8 writers."""
    rounds = 6 if run.long else 2
    slowest = 0.0
    with run.start_rowdrop() as live:
        for number in range(rounds):
            run.seed += number
            with run.start_traffic(live, users=400, writers=8, per_second=4_000) as (traffic, _):
                time.sleep(4)
                live.minio_server.kill()
                time.sleep(1)
                live.minio_server.start()
                live.minio_server.wait_ready()
                recovered_at = time.monotonic()
                run.wait_until_correct(live, traffic, MINIO_RECOVERY_LIMIT_S, recovered_at)
            slowest = max(slowest, run.finding.converged_s or 0)
        silent_repairs = live.redis.hget(COUNTERS, "silent_repairs") or b"0"
    run.finding.figures |= {"rounds": str(rounds), "silent repairs": silent_repairs.decode()}


# -- Redis -----------------------------------------------------------------------------------------
def _run_redis_fault(
    run: ScenarioRun,
    apply_fault: Callable[[LiveRowdrop, Callable[[], None]], None],
    *,
    proxied: bool = False,
) -> None:
    """Run `apply_fault` under traffic, and check that Rowdrop recovers from it.

    `apply_fault` gets a function that checks the response to a client during the fault.
    """
    with (
        run.start_rowdrop(proxied=proxied) as live,
        run.start_traffic(live, users=200, per_second=60) as (traffic, observer),
    ):
        workers = _list_leaders(live)
        errors_before = _count_kombu_errors(live)
        time.sleep(2)

        def check_clients() -> None:
            status, elapsed_s = measure_post(live)
            run.finding.check(
                f"POST: expected 503 within the limit, found {status} after {elapsed_s:.1f} s",
                holds=status == 503 and elapsed_s < POST_LIMIT_S,
            )
            run.finding.figures["POST"] = f"{status} in {elapsed_s:.1f} s"

        apply_fault(live, check_clients)
        recovered_at = time.monotonic()
        _check_drops_are_published(run, live, recovered_at)
        run.wait_until_correct(live, traffic, REDIS_RECOVERY_LIMIT_S, recovered_at)
        is_known = _count_kombu_errors(live) > errors_before
        _check_same_workers(run, live, workers, bulk_may_restart=is_known)
        _check_gets(run, observer)


def _list_leaders(live: LiveRowdrop) -> list[int]:
    """Return the PIDs of the workers, without the pool of the bulk worker.

    A process of the pool that has used much memory ends after its task, in normal operation, too.
    """
    return [live.list_pids(name)[0] for name in ("worker", "worker-2", "worker-bulk")]


def _count_kombu_errors(live: LiveRowdrop) -> int:
    log = live.supervisor.folder / "logs" / "worker-bulk.log"
    return log.read_text("utf-8", "replace").count(KOMBU_ERROR)


def _check_same_workers(
    run: ScenarioRun, live: LiveRowdrop, workers: list[int], *, bulk_may_restart: bool
) -> None:
    """Check that no worker was restarted, except the bulk worker by the known error of kombu.

    A connection that closes while a message is unacknowledged leaves `Channel.connection` empty,
    and `QoS.restore_unacked` of kombu reads the host name from it. Supervisor starts the worker
    again within a second. The finding names it.
    """
    now = _list_leaders(live)
    is_known = bulk_may_restart and now[:2] == workers[:2]
    if is_known and now != workers:
        run.finding.figures["worker-bulk restarted"] = f"by kombu's {KOMBU_ERROR}"
    run.finding.check(
        "expected the same worker processes after the fault, found restarted ones",
        holds=now == workers or is_known,
    )


def _check_drops_are_published(run: ScenarioRun, live: LiveRowdrop, recovered_at: float) -> None:
    """Check that a new drop gets a row."""
    name = f"after-{run.seed}"
    live.put_object(f"{name}.csv", b"first_name,last_name,birthts\nAfter,It,1\n")
    try:
        wait_until(lambda: name in live.read_rows(), CONSUMING_LIMIT_S, "a new drop has a row")
        run.finding.figures["new drop has a row after"] = f"{time.monotonic() - recovered_at:.1f} s"
    except WaitTimeout as error:
        run.finding.failures.append(str(error))


def _check_gets(run: ScenarioRun, observer: TrafficObserver) -> None:
    run.finding.check(
        "GET: expected only status 200, "
        f"found these numbers by status: {dict(observer.status_counts)}",
        holds=set(observer.status_counts) == {200},
    )
    run.finding.figures["GETs"] = f"{observer.status_counts[200]} responses with status 200"


def run_redis_killed(run: ScenarioRun) -> None:
    """Kill Redis, and restart it with its data file."""

    def apply_fault(live: LiveRowdrop, check_clients: Callable[[], None]) -> None:
        live.redis_server.kill()
        check_clients()
        time.sleep(3)
        live.redis_server.start()

    _run_redis_fault(run, apply_fault)


def run_redis_restarted_empty(run: ScenarioRun) -> None:
    """Kill Redis, and restart it without its data file."""

    def apply_fault(live: LiveRowdrop, check_clients: Callable[[], None]) -> None:
        live.redis_server.kill()
        check_clients()
        for file in (live.redis_server.folder / "data").rglob("*"):
            if file.is_file():
                file.unlink()
        live.redis_server.start()

    _run_redis_fault(run, apply_fault)


def run_redis_flushed(run: ScenarioRun) -> None:
    """Empty Redis (FLUSHALL) several times under load."""

    def apply_fault(live: LiveRowdrop, _: Callable[[], None]) -> None:
        for _round in range(5):
            live.redis.flushall()
            time.sleep(0.7)

    _run_redis_fault(run, apply_fault)


def run_redis_frozen(run: ScenarioRun) -> None:
    """Freeze Redis (SIGSTOP) for 30 seconds."""

    def apply_fault(live: LiveRowdrop, check_clients: Callable[[], None]) -> None:
        server = psutil.Process(live.redis_server.pid)
        server.send_signal(signal.SIGSTOP)
        try:
            check_clients()
            time.sleep(30)
        finally:
            server.send_signal(signal.SIGCONT)

    _run_redis_fault(run, apply_fault)


def run_redis_out_of_memory(run: ScenarioRun) -> None:
    """Fill the memory of Redis, so that it responds but refuses writes."""

    def apply_fault(live: LiveRowdrop, check_clients: Callable[[], None]) -> None:
        live.redis.config_set("maxmemory", 1)
        try:
            time.sleep(2)
            check_clients()
            time.sleep(10)
        finally:
            live.redis.config_set("maxmemory", 0)

    _run_redis_fault(run, apply_fault)


def run_connections_cut(run: ScenarioRun) -> None:
    """Cut replies of Redis half-way for 20 seconds, and now and then all connections."""

    def apply_fault(live: LiveRowdrop, _: Callable[[], None]) -> None:
        assert live.proxy
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            live.proxy.cut_after_bytes = 40
            time.sleep(0.3)
            live.proxy.cut_after_bytes = None
            time.sleep(0.5)
            live.proxy.cut_all()
        run.finding.figures["answers cut"] = str(live.proxy.cut_count)

    _run_redis_fault(run, apply_fault, proxied=True)


# -- the source ------------------------------------------------------------------------------------
def _run_source_fault(
    run: ScenarioRun,
    apply_fault: Callable[[LiveRowdrop], Callable[[], None]],
    *,
    bound_s: float = 120.0,
) -> None:
    """Run `apply_fault` while drops are pending, and check that no row disappears.

    `apply_fault` returns a function that restores the source bucket.
    """
    with (
        run.start_rowdrop() as live,
        run.start_traffic(live, users=60, per_second=40) as (traffic, _),
    ):
        workers = "worker", "worker-2", "worker-bulk"
        time.sleep(3)
        for name in workers:
            live.send_signal(name, signal.SIGSTOP)
        time.sleep(1)
        traffic.stop()
        before = live.read_rows()
        restore = apply_fault(live)
        for name in workers:
            live.send_signal(name, signal.SIGCONT)
        live.request_sweep()
        removed_rows = _find_removed_rows(live, set(before), 20)
        run.finding.check(
            "expected no row to disappear, "
            f"found {len(removed_rows)} rows gone: {sorted(removed_rows)[:3]}",
            holds=not removed_rows,
        )
        status, body = live.get_from_api("/health/ready")
        is_reported = status == 503 and b"cannot be read" in body
        run.finding.check(
            f"/health/ready: expected 503 and the reason, found {body!r}", holds=is_reported
        )
        restore()
        recovered_at = time.monotonic()
        run.wait_until_correct(live, traffic, bound_s, recovered_at)
        _check_drops_are_published(run, live, time.monotonic())


def _find_removed_rows(live: LiveRowdrop, users: set[str], for_s: float) -> set[str]:
    removed_rows: set[str] = set()
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        rows = live.read_rows()
        if rows:
            removed_rows |= users - rows.keys()
        time.sleep(0.5)
    return removed_rows


def run_source_renamed(run: ScenarioRun) -> None:
    """Rename the bucket for a while."""

    def apply_fault(live: LiveRowdrop) -> Callable[[], None]:
        source_folder = _get_source_folder(live)
        moved_folder = _get_source_folder(live).with_name("away")
        source_folder.rename(moved_folder)

        def restore() -> None:
            moved_folder.rename(source_folder)

        return restore

    _run_source_fault(run, apply_fault)


def run_source_removed(run: ScenarioRun) -> None:
    """Remove the bucket, and restore it from a copy.

    MinIO has deleted the notification rules together with the bucket.
    """

    def apply_fault(live: LiveRowdrop) -> Callable[[], None]:
        source_folder = _get_source_folder(live)
        copy = live.folder / "copy"
        shutil.copytree(source_folder, copy)
        force: dict[str, str | list[str] | tuple[str]] = {"x-minio-force-delete": "true"}
        live.minio._execute("DELETE", live.source.bucket, headers=force)

        def restore() -> None:
            copy.rename(source_folder)

        return restore

    _run_source_fault(run, apply_fault)


def run_keys_revoked(run: ScenarioRun) -> None:
    """Revoke the workers' permission to read the source bucket."""

    def apply_fault(live: LiveRowdrop) -> Callable[[], None]:
        resources = [f"arn:aws:s3:::{live.output.bucket}", f"arn:aws:s3:::{live.output.bucket}/*"]
        statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": resources}
        live.admin.policy_add(
            "output-only", policy={"Version": "2012-10-17", "Statement": [statement]}
        )
        worker = live.credentials.minio["worker"].name
        live.admin.policy_set("output-only", user=worker)

        def restore() -> None:
            live.admin.policy_set(f"{POLICY_PREFIX}worker", user=worker)

        return restore

    _run_source_fault(run, apply_fault)


def _get_source_folder(live: LiveRowdrop) -> Path:
    return live.minio_server.folder / "data" / live.source.bucket


SCENARIOS = {
    "kill -9 of MinIO": Scenario(
        run_minio_killed,
        ("event delivery",),
    ),
    "kill -9 of Redis": Scenario(
        run_redis_killed,
        ("sweeps",),
    ),
    "Redis restarted empty": Scenario(run_redis_restarted_empty, ("sweeps",)),
    "FLUSHALL": Scenario(run_redis_flushed, ("sweeps",), in_short_form=True),
    "Redis frozen": Scenario(run_redis_frozen, ("time-outs",)),
    "Redis out of memory": Scenario(run_redis_out_of_memory, ("sweeps",)),
    "connections cut half-way": Scenario(run_connections_cut, ("reconnecting",)),
    "src-data renamed": Scenario(run_source_renamed, ("absence",)),
    "src-data removed": Scenario(run_source_removed, ("absence",)),
    "keys revoked": Scenario(run_keys_revoked, ("absence",)),
}
