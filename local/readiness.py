"""Wait until the servers and Rowdrop are ready, and report the reason if they are not."""

import json
import time
from collections.abc import Callable, Iterable

from local.configuration import PORTS, Configuration
from local.errors import CannotRun
from local.ports import is_free
from local.processes import Supervisor
from local.progress import Report
from local.servers import MinioServer, RedisServer, http_get, tail

_SERVER_WAIT_S = 120.0
_PORTS_WAIT_S = 30.0
_QUIET_S = 60.0
_POLL_S = 0.1
_ASKED = 8


def wait_for_servers(
    supervisor: Supervisor, redis: RedisServer | None, minio: MinioServer | None, report: Report
) -> None:
    """Return once the servers that Rowdrop runs are ready.

    Pass None for an external server.  Raises `CannotRun` with the end of a server's log if the
    server stopped, or is not ready after 120 s.
    """
    if redis:
        _wait_for("redis", redis.is_ready, supervisor, report)
    if minio:
        _wait_for("minio", minio.is_ready, supervisor, report)


def wait_for_ports(ports: Iterable[int]) -> None:
    """Return once all ports are in use, or after 30 s.

    A timeout is not an error here: `wait_for_app` reports the programs that are not ready.
    """
    deadline = time.monotonic() + _PORTS_WAIT_S
    left = set(ports)
    while left := {port for port in left if is_free(port)}:
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)


def wait_for_app(supervisor: Supervisor, configuration: Configuration, with_sample: bool, report: Report) -> None:
    """Return once the API is ready, and `with_sample` also once a row of the sample is published.

    There is no timeout.  After 60 s the function reports once what is missing, with the end of the
    relevant log, and continues to wait.
    """
    port = configuration.port("API_PORT")
    token = configuration.credentials.any_token
    started = time.monotonic()
    told = False
    while (missing := _missing(port, token, with_sample)) is not None:
        waited = time.monotonic() - started
        if waited > _QUIET_S and not told:
            told = True
            report(_complaint(supervisor, missing, waited))
        report(f"Waiting until Rowdrop is ready: {waited:.0f} s …")
        time.sleep(1 if told else _POLL_S)


def ports_of(configuration: Configuration) -> list[int]:
    """Return the ports on which Rowdrop's processes and servers listen in this run."""
    return [configuration.port(name) for name in PORTS if name in configuration.values]


def _wait_for(name: str, is_ready: Callable[[], bool], supervisor: Supervisor, report: Report) -> None:
    started = time.monotonic()
    # If another server holds the port, `is_ready` succeeds but our program does not stay RUNNING.
    while not (is_ready() and _state(name, supervisor) == "RUNNING"):
        waited = time.monotonic() - started
        if waited > _SERVER_WAIT_S or (waited > 5 and _state(name, supervisor) not in {"STARTING", "RUNNING"}):
            raise CannotRun(f"{name} does not start:\n{tail(supervisor.log(name))}")
        if waited > 2:
            report(f"Waiting for {name}: {waited:.0f} s …")
        time.sleep(_POLL_S)


def _state(name: str, supervisor: Supervisor) -> str | None:
    return (supervisor.states() or {}).get(name)


def _missing(port: int, token: str, with_sample: bool) -> str | None:
    status, body = http_get(port, "/health/ready", token)
    if status != 200:
        # An empty body means that there was no response.
        return f"GET /health/ready: {body.decode(errors='replace') or 'no answer'}"
    # Several processes share the port, and each must load its own snapshot.  Each request reaches
    # one of them, so several requests are sent to reach all with high probability.
    if any(http_get(port, "/health/live")[0] != 200 for _ in range(_ASKED)):
        return "GET /health/live: not every API process has loaded its snapshot yet"
    if with_sample:
        status, body = http_get(port, "/data", token)
        rows = json.loads(body) if status == 200 else []
        if not any(str(row["user_id"]).startswith("sample-") for row in rows):
            return f"GET /data shows no row of the sample (status {status})"
    return None


def _complaint(supervisor: Supervisor, missing: str, waited: float) -> str:
    """Return a report of what is missing, with the end of the relevant logs.

    Those are the logs of all programs that do not run, or the API's log if all run.
    """
    states = supervisor.states() or {}
    down = {name: state for name, state in states.items() if state != "RUNNING"}
    lines = [f"Not ready after {waited:.0f} s.  {missing}"]
    for name in down or {"api": ""}:
        lines.append(f"  {name} {down.get(name, '')}: end of {supervisor.log(name)}")
        lines.append(tail(supervisor.log(name)))
    return "\n".join([*lines, "Still waiting.  Ctrl-C stops Rowdrop."])
