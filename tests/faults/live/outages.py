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

from tests.faults.live.rowdrop import Live, NotInTime, until
from tests.faults.live.scenario import Scenario, Stage
from tests.faults.live.watching import Eyes, timed_post
from worker.minio_users import POLICY_PREFIX

MINIO_BACK_S, REDIS_BACK_S, CONSUMING_S, POST_S = 60.0, 90.0, 30.0, 5.0


# -- MinIO -----------------------------------------------------------------------------------------
def minio_killed(stage: Stage) -> None:
    """Kill MinIO several times under 8 writers."""
    _kill_minio(stage, safe=True)


def minio_killed_without_copies(stage: Stage) -> None:
    """Kill MinIO several times while it keeps no copies of events on its disk."""
    _kill_minio(stage, safe=False)


def _kill_minio(stage: Stage, *, safe: bool) -> None:
    rounds = 6 if stage.long else 2
    slowest = 0.0
    with stage.rowdrop(safe=safe) as live:
        for number in range(rounds):
            stage.seed += number
            with stage.traffic(live, users=400, writers=8, per_second=4_000) as (traffic, _):
                time.sleep(4)
                live.minio_server.kill()
                time.sleep(1)
                live.minio_server.start()
                live.minio_server.wait_ready()
                back = time.monotonic()
                stage.converge(live, traffic, MINIO_BACK_S, back)
            slowest = max(slowest, stage.finding.converged_s or 0)
        healed = live.redis.hget("counters", "lost_and_healed") or b"0"
    stage.finding.figures |= {"rounds": str(rounds), "silent repairs": healed.decode()}


# -- Redis -----------------------------------------------------------------------------------------
def _redis_fault(stage: Stage, fault: Callable[[Live, Callable[[], None]], None], *, proxied: bool = False) -> None:
    """Run `fault` under traffic, and check that Rowdrop recovers from it.

    `fault` gets a function that checks the response to a client during the fault.
    """
    with stage.rowdrop(proxied=proxied) as live, stage.traffic(live, users=200, per_second=60) as (traffic, eyes):
        workers = {name: live.pids(name) for name in ("worker", "worker-2", "worker-bulk")}
        time.sleep(2)

        def clients() -> None:
            status, took = timed_post(live)
            stage.finding.expect(
                f"POST: expected 503 within the limit, found {status} after {took:.1f} s",
                holds=status == 503 and took < POST_S,
            )
            stage.finding.figures["POST"] = f"{status} in {took:.1f} s"

        fault(live, clients)
        back = time.monotonic()
        _goes_on(stage, live, back)
        stage.converge(live, traffic, REDIS_BACK_S, back)
        stage.finding.expect(
            "expected the same worker processes after the fault, found restarted ones",
            holds=workers == {name: live.pids(name) for name in workers},
        )
        _gets(stage, eyes)


def _goes_on(stage: Stage, live: Live, back: float) -> None:
    """Check that a new drop gets a row."""
    name = f"after-{stage.seed}"
    live.put(f"{name}.csv", b"first_name,last_name,birthts\nAfter,It,1\n")
    try:
        until(lambda: name in live.rows(), CONSUMING_S, "a new drop has a row")
        stage.finding.figures["new drop has a row after"] = f"{time.monotonic() - back:.1f} s"
    except NotInTime as error:
        stage.finding.failures.append(str(error))


def _gets(stage: Stage, eyes: Eyes) -> None:
    stage.finding.expect(
        f"GET: expected only status 200, found these numbers by status: {dict(eyes.answers)}",
        holds=set(eyes.answers) == {200},
    )
    stage.finding.figures["GETs"] = f"{eyes.answers[200]} responses with status 200"


def redis_killed(stage: Stage) -> None:
    """Kill Redis, and restart it with its data file."""

    def fault(live: Live, clients: Callable[[], None]) -> None:
        live.redis_server.kill()
        clients()
        time.sleep(3)
        live.redis_server.start()

    _redis_fault(stage, fault)


def redis_restarted_empty(stage: Stage) -> None:
    """Kill Redis, and restart it without its data file."""

    def fault(live: Live, clients: Callable[[], None]) -> None:
        live.redis_server.kill()
        clients()
        for file in (live.redis_server.folder / "data").rglob("*"):
            if file.is_file():
                file.unlink()
        live.redis_server.start()

    _redis_fault(stage, fault)


def redis_emptied(stage: Stage) -> None:
    """Empty Redis (FLUSHALL) several times under load."""

    def fault(live: Live, _: Callable[[], None]) -> None:
        for _round in range(5):
            live.redis.flushall()
            time.sleep(0.7)

    _redis_fault(stage, fault)


def redis_frozen(stage: Stage) -> None:
    """Freeze Redis (SIGSTOP) for 30 seconds."""

    def fault(live: Live, clients: Callable[[], None]) -> None:
        server = psutil.Process(live.redis_server.pid)
        server.send_signal(signal.SIGSTOP)
        try:
            clients()
            time.sleep(30)
        finally:
            server.send_signal(signal.SIGCONT)

    _redis_fault(stage, fault)


def redis_out_of_memory(stage: Stage) -> None:
    """Fill the memory of Redis, so that it responds but refuses writes."""

    def fault(live: Live, clients: Callable[[], None]) -> None:
        live.redis.config_set("maxmemory", 1)
        try:
            time.sleep(2)
            clients()
            time.sleep(10)
        finally:
            live.redis.config_set("maxmemory", 0)

    _redis_fault(stage, fault)


def connections_cut(stage: Stage) -> None:
    """Cut replies of Redis half-way for 20 seconds, and now and then all connections."""

    def fault(live: Live, _: Callable[[], None]) -> None:
        assert live.proxy
        until_ = time.monotonic() + 20
        while time.monotonic() < until_:
            live.proxy.cut_after = 40
            time.sleep(0.3)
            live.proxy.cut_after = None
            time.sleep(0.5)
            live.proxy.cut_all()
        stage.finding.figures["answers cut"] = str(live.proxy.cuts)

    _redis_fault(stage, fault, proxied=True)


# -- the source ------------------------------------------------------------------------------------
def _source_fault(
    stage: Stage,
    fault: Callable[[Live], Callable[[], None]],
    *,
    bound_s: float = 120.0,
) -> None:
    """Run `fault` while drops are pending, and check that no row disappears.

    `fault` returns a function that restores the source bucket.
    """
    with stage.rowdrop() as live, stage.traffic(live, users=60, per_second=40) as (traffic, _):
        workers = "worker", "worker-2", "worker-bulk"
        time.sleep(3)
        for name in workers:
            live.signal(name, signal.SIGSTOP)
        time.sleep(1)
        traffic.stop()
        before = live.rows()
        mend = fault(live)
        for name in workers:
            live.signal(name, signal.SIGCONT)
        live.sweep()
        gone = _rows_that_leave(live, set(before), 20)
        stage.finding.expect(
            f"expected no row to disappear, found {len(gone)} rows gone: {sorted(gone)[:3]}", holds=not gone
        )
        status, said = live.get("/health/ready")
        told = status == 503 and b"cannot be read" in said
        stage.finding.expect(f"/health/ready: expected 503 and the reason, found {said!r}", holds=told)
        mend()
        back = time.monotonic()
        stage.converge(live, traffic, bound_s, back)
        _goes_on(stage, live, time.monotonic())


def _rows_that_leave(live: Live, users: set[str], for_s: float) -> set[str]:
    gone: set[str] = set()
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        rows = live.rows()
        if rows:
            gone |= users - rows.keys()
        time.sleep(0.5)
    return gone


def source_renamed(stage: Stage) -> None:
    """Rename the bucket for a while."""

    def fault(live: Live) -> Callable[[], None]:
        here, away = _folder_of_the_source(live), _folder_of_the_source(live).with_name("away")
        here.rename(away)

        def mend() -> None:
            away.rename(here)

        return mend

    _source_fault(stage, fault)


def source_removed(stage: Stage) -> None:
    """Remove the bucket, and restore it from a copy.

    MinIO has deleted the notification rules together with the bucket.
    """

    def fault(live: Live) -> Callable[[], None]:
        here, copy = _folder_of_the_source(live), live.folder / "copy"
        shutil.copytree(here, copy)
        force: dict[str, str | list[str] | tuple[str]] = {"x-minio-force-delete": "true"}
        live.minio._execute("DELETE", live.source.bucket, headers=force)

        def mend() -> None:
            copy.rename(here)

        return mend

    _source_fault(stage, fault)


def keys_revoked(stage: Stage) -> None:
    """Revoke the workers' permission to read the source bucket."""

    def fault(live: Live) -> Callable[[], None]:
        resources = [f"arn:aws:s3:::{live.output.bucket}", f"arn:aws:s3:::{live.output.bucket}/*"]
        statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": resources}
        live.admin.policy_add("output-only", policy={"Version": "2012-10-17", "Statement": [statement]})
        worker = live.credentials.minio["worker"].name
        live.admin.policy_set("output-only", user=worker)

        def mend() -> None:
            live.admin.policy_set(f"{POLICY_PREFIX}worker", user=worker)

        return mend

    _source_fault(stage, fault)


def _folder_of_the_source(live: Live) -> Path:
    return live.minio_server.folder / "data" / live.source.bucket


SCENARIOS = {
    "kill -9 of MinIO": Scenario(
        minio_killed, "every acknowledged object is in the output 60 s after MinIO is back", ("care of events",)
    ),
    "kill -9 of MinIO without copies on disk": Scenario(minio_killed_without_copies, "the same", ("sweeps",)),
    "kill -9 of Redis": Scenario(
        redis_killed, "a new drop has a row after 30 s, every row is right after 90 s", ("sweeps",)
    ),
    "Redis restarted empty": Scenario(redis_restarted_empty, "the same", ("sweeps",)),
    "FLUSHALL": Scenario(redis_emptied, "the same", ("sweeps",), short=True),
    "Redis frozen": Scenario(redis_frozen, "the same", ("time-outs",)),
    "Redis out of memory": Scenario(redis_out_of_memory, "the same", ("care of events",)),
    "connections cut half-way": Scenario(connections_cut, "the same", ("reconnecting",)),
    "src-data renamed": Scenario(
        source_renamed, "no row disappears, and work resumes without intervention", ("absence",)
    ),
    "src-data removed": Scenario(source_removed, "the same", ("absence",)),
    "keys revoked": Scenario(keys_revoked, "the same", ("absence",)),
}
