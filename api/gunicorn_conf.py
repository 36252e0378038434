"""How gunicorn serves the API.  The address comes from the command line (`--bind`)."""

import gc

worker_class = "api.connections.Worker"
workers = 2
threads = 4  # for answers from memory; others have threads of their own (api/connections.py)
preload_app = True  # the libraries' memory is shared by the workers
control_socket_disable = True
keepalive = 15
worker_connections = 500  # in one process; one more takes the place of whoever has said nothing for longest
limit_request_line = 8190
limit_request_fields = 64
graceful_timeout = 5
accesslog = None
errorlog = "-"

FIRST_LOOK_S = 10.0


def when_ready(server: object) -> None:
    """Keep the collector's hands off what was imported before the forks, so that it stays shared."""
    gc.collect()
    gc.freeze()


def post_worker_init(worker: object) -> None:
    """Begin this worker's threads and connections, which would not survive a fork.

    It takes requests only when it has something to answer them with, so that one that replaces another is not noticed;
    with MinIO away it does not wait for ever.
    """
    from api.wsgi import follower  # noqa: PLC0415  imported by now, and never by the arbiter's reading of this file

    follower.start(FIRST_LOOK_S)


def worker_exit(server: object, worker: object) -> None:
    """Leave, so that nobody waits for what this process shows."""
    from api.wsgi import follower  # noqa: PLC0415

    follower.stop()
