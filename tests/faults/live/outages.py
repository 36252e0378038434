"""MinIO and Redis killed, emptied, frozen, full, cut off; the source bucket gone, or its keys revoked."""

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


# -- MinIO -------------------------------------------------------------------------------------------------------------
def minio_killed(stage: Stage) -> None:
    """Under 8 writers, again and again."""
    _kill_minio(stage, safe=True)


def minio_killed_without_copies(stage: Stage) -> None:
    """The same where MinIO keeps no copies of events on its disk."""
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
    stage.finding.figures |= {"rounds": str(rounds), "events lost and healed": healed.decode()}


# -- Redis -------------------------------------------------------------------------------------------------------------
def _redis_fault(stage: Stage, fault: Callable[[Live, Callable[[], None]], None], *, proxied: bool = False) -> None:
    """Play `fault`, which gets a function that looks at what clients are answered meanwhile."""
    with stage.rowdrop(proxied=proxied) as live, stage.traffic(live, users=200, per_second=60) as (traffic, eyes):
        workers = {name: live.pids(name) for name in ("worker", "worker-2", "worker-bulk")}
        time.sleep(2)

        def clients() -> None:
            status, took = timed_post(live)
            stage.finding.expect(f"POST is answered {status} after {took:.1f} s", holds=status == 503 and took < POST_S)
            stage.finding.figures["POST"] = f"{status} in {took:.1f} s"

        fault(live, clients)
        back = time.monotonic()
        _goes_on(stage, live, back)
        stage.converge(live, traffic, REDIS_BACK_S, back)
        stage.finding.expect("workers were started anew", holds=workers == {name: live.pids(name) for name in workers})
        _gets(stage, eyes)


def _goes_on(stage: Stage, live: Live, back: float) -> None:
    """Drops are answered by rows again."""
    name = f"after-{stage.seed}"
    live.put(f"{name}.csv", b"first_name,last_name,birthts\nAfter,It,1\n")
    try:
        until(lambda: name in live.rows(), CONSUMING_S, "a drop is answered by a row again")
        stage.finding.figures["consuming again"] = f"{time.monotonic() - back:.1f} s"
    except NotInTime as error:
        stage.finding.failures.append(str(error))


def _gets(stage: Stage, eyes: Eyes) -> None:
    stage.finding.expect(f"GETs were answered {dict(eyes.answers)}", holds=set(eyes.answers) == {200})
    stage.finding.figures["GETs"] = f"{eyes.answers[200]} times 200"


def redis_killed(stage: Stage) -> None:
    """kill -9, and a start with what its file has."""

    def fault(live: Live, clients: Callable[[], None]) -> None:
        live.redis_server.kill()
        clients()
        time.sleep(3)
        live.redis_server.start()

    _redis_fault(stage, fault)


def redis_restarted_empty(stage: Stage) -> None:
    """kill -9, and a start without its file."""

    def fault(live: Live, clients: Callable[[], None]) -> None:
        live.redis_server.kill()
        clients()
        for file in (live.redis_server.folder / "data").rglob("*"):
            if file.is_file():
                file.unlink()
        live.redis_server.start()

    _redis_fault(stage, fault)


def redis_emptied(stage: Stage) -> None:
    """FLUSHALL, several times, under load."""

    def fault(live: Live, _: Callable[[], None]) -> None:
        for _round in range(5):
            live.redis.flushall()
            time.sleep(0.7)

    _redis_fault(stage, fault)


def redis_frozen(stage: Stage) -> None:
    """SIGSTOP for 30 seconds."""

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
    """Its memory is full: it answers, and refuses writes."""

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
    """For 20 seconds, answers of Redis are cut half-way, and now and then all connections."""

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


# -- the source --------------------------------------------------------------------------------------------------------
def _source_fault(
    stage: Stage,
    fault: Callable[[Live], Callable[[], None]],
    *,
    bound_s: float = 120.0,
) -> None:
    """Play `fault` while drops are pending; it returns how to bring the source back."""
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
        stage.finding.expect(f"{len(gone)} rows left: {sorted(gone)[:3]}", holds=not gone)
        status, said = live.get("/health/ready")
        told = status == 503 and b"cannot be read" in said
        stage.finding.expect(f"/health/ready does not say why: {said!r}", holds=told)
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
    """The bucket has another name for a while."""

    def fault(live: Live) -> Callable[[], None]:
        here, away = _folder_of_the_source(live), _folder_of_the_source(live).with_name("away")
        here.rename(away)

        def mend() -> None:
            away.rename(here)

        return mend

    _source_fault(stage, fault)


def source_removed(stage: Stage) -> None:
    """The bucket is removed by its owner, and restored from a copy: MinIO has forgotten its notification rules."""

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
    """The workers' keys are no good for the source any more."""

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
        minio_killed, "every acknowledged object in the output 60 s after it is back", ("care of events",)
    ),
    "kill -9 of MinIO without copies on disk": Scenario(minio_killed_without_copies, "the same", ("sweeps",)),
    "kill -9 of Redis": Scenario(redis_killed, "consuming in 30 s, right in 90 s", ("sweeps",)),
    "Redis restarted empty": Scenario(redis_restarted_empty, "the same", ("sweeps",)),
    "FLUSHALL": Scenario(redis_emptied, "the same", ("sweeps",), short=True),
    "Redis frozen": Scenario(redis_frozen, "the same", ("time-outs",)),
    "Redis out of memory": Scenario(redis_out_of_memory, "the same", ("care of events",)),
    "connections cut half-way": Scenario(connections_cut, "the same", ("reconnecting",)),
    "src-data renamed": Scenario(source_renamed, "not one row leaves; goes on by itself", ("absence",)),
    "src-data removed": Scenario(source_removed, "the same", ("absence",)),
    "keys revoked": Scenario(keys_revoked, "the same", ("absence",)),
}
