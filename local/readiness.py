"""Wait until the servers and Rowdrop are ready, and report the reason if they are not."""

import json
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from urllib.parse import urlsplit

from local.configuration import DEFAULT_PORTS, Configuration
from local.errors import StartupError
from local.ports import is_port_free
from local.processes import Supervisor
from local.progress import Reporter
from local.servers import MinioServer, RedisServer, http_get, read_log_tail
from local.signals import raise_if_stop_requested

_SERVER_TIMEOUT_S = 120.0
_PORTS_TIMEOUT_S = 30.0
_WARN_AFTER_S = 60.0
_EXTERNAL_SERVER_TIMEOUT_S = 5.0
_POLL_S = 0.1
_LIVE_CHECK_COUNT = 8


def wait_for_servers(
    supervisor: Supervisor, redis: RedisServer | None, minio: MinioServer | None, report: Reporter
) -> None:
    """Return once the servers that Rowdrop runs are ready.

    Pass None for an external server.  Raises `StartupError` with the end of a server's log if the
    server stopped, or is not ready after 120 s.
    """
    if redis:
        _wait_for_server("redis", redis.is_ready, supervisor, report)
    if minio:
        _wait_for_server("minio", minio.is_ready, supervisor, report)


def check_external_servers(configuration: Configuration) -> None:
    """Connect to each server that Rowdrop does not start.

    Raises `StartupError` with the setting to correct if a server does not answer within 5 s.
    """
    if not configuration.owns_redis:
        redis = configuration.event_redis
        address = f"{redis.host}:{redis.port}"
        _check_connection("Redis", "REDIS_URL", address, redis.host, redis.port)
    if not configuration.owns_minio:
        endpoint = configuration.values["MINIO_ENDPOINT"]
        url = urlsplit(endpoint)
        # `rowdrop init` refuses an address that is not valid, and says why.
        with suppress(ValueError):
            port = url.port or {"https": 443}.get(url.scheme, 80)
            if url.hostname:
                _check_connection("MinIO", "MINIO_ENDPOINT", endpoint, url.hostname, port)


def wait_for_ports(ports: Iterable[int]) -> None:
    """Return once all ports are in use, or after 30 s.

    A timeout is not an error here: `wait_for_app` reports the programs that are not ready.
    """
    deadline = time.monotonic() + _PORTS_TIMEOUT_S
    free_ports = set(ports)
    while free_ports := {port for port in free_ports if is_port_free(port)}:
        if time.monotonic() > deadline:
            return
        raise_if_stop_requested()
        time.sleep(_POLL_S)


def wait_for_app(
    supervisor: Supervisor, configuration: Configuration, with_sample: bool, report: Reporter
) -> None:
    """Return once the API is ready, and `with_sample` also once a row of the sample is published.

    There is no timeout.  After 60 s the function reports once what is missing, with the end of the
    relevant log, and continues to wait.
    """
    port = configuration.port("API_PORT")
    token = configuration.credentials.any_token
    started_at = time.monotonic()
    has_warned = False
    while (missing := _find_missing(port, token, with_sample)) is not None:
        waited_s = time.monotonic() - started_at
        if waited_s > _WARN_AFTER_S and not has_warned:
            has_warned = True
            report(_format_warning(supervisor, missing, waited_s))
        report(f"Waiting until Rowdrop is ready: {waited_s:.0f} s …")
        raise_if_stop_requested()
        time.sleep(1 if has_warned else _POLL_S)


def list_ports(configuration: Configuration) -> list[int]:
    """Return the ports on which Rowdrop's processes and servers listen in this run."""
    return [configuration.port(name) for name in DEFAULT_PORTS if name in configuration.values]


def _check_connection(server: str, setting: str, address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=_EXTERNAL_SERVER_TIMEOUT_S).close()
    except OSError as error:
        raise StartupError(
            f"{server} does not answer at {address} ({setting}): correct {setting}, "
            f"or unset it to use the {server} that ./run.sh starts."
        ) from error


def _wait_for_server(
    name: str, is_ready: Callable[[], bool], supervisor: Supervisor, report: Reporter
) -> None:
    started_at = time.monotonic()
    # If another server holds the port, `is_ready` succeeds but our program does not stay RUNNING.
    while not (is_ready() and _get_state(name, supervisor) == "RUNNING"):
        waited_s = time.monotonic() - started_at
        if waited_s > _SERVER_TIMEOUT_S or (
            waited_s > 5 and _get_state(name, supervisor) not in {"STARTING", "RUNNING"}
        ):
            log_tail = read_log_tail(supervisor.get_log_path(name))
            raise StartupError(f"{name} does not start:\n{log_tail}")
        if waited_s > 2:
            report(f"Waiting for {name}: {waited_s:.0f} s …")
        raise_if_stop_requested()
        time.sleep(_POLL_S)


def _get_state(name: str, supervisor: Supervisor) -> str | None:
    return (supervisor.get_states() or {}).get(name)


def _find_missing(port: int, token: str, with_sample: bool) -> str | None:
    status, body = http_get(port, "/health/ready", token)
    if status != 200:
        # An empty body means that there was no response.
        return f"GET /health/ready: {body.decode(errors='replace') or 'no answer'}"
    # Several processes share the port, and each must load its own snapshot.  Each request reaches
    # one of them, so several requests are sent to reach all with high probability.
    if any(http_get(port, "/health/live")[0] != 200 for _ in range(_LIVE_CHECK_COUNT)):
        return "GET /health/live: not every API process has loaded its snapshot yet"
    if with_sample:
        status, body = http_get(port, "/data", token)
        rows = json.loads(body) if status == 200 else []
        if not any(str(row["user_id"]).startswith("sample-") for row in rows):
            return f"GET /data shows no row of the sample (status {status})"
    return None


def _format_warning(supervisor: Supervisor, missing: str, waited_s: float) -> str:
    """Return a report of what is missing, with the end of the relevant logs.

    Those are the logs of all programs that should run and do not, or the API's log if all run.
    """
    states = supervisor.get_states() or {}
    # STOPPED is the state of programs that were never started: external servers, and Flower.
    not_running = {
        name: state for name, state in states.items() if state not in {"RUNNING", "STOPPED"}
    }
    lines = [f"Not ready after {waited_s:.0f} s.  {missing}"]
    for name, state in (not_running or {"api": ""}).items():
        log_path = supervisor.get_log_path(name)
        lines += [f"  {name} {state}: end of {log_path}", read_log_tail(log_path)]
    return "\n".join([*lines, "Still waiting.  Ctrl-C stops Rowdrop."])
