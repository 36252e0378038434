"""How gunicorn serves the API.  The address comes from the command line (`--bind`)."""

import gc

worker_class = "gthread"
workers = 2
threads = 4
preload_app = True  # the libraries' memory is shared by the workers
control_socket_disable = True
keepalive = 15
graceful_timeout = 5
accesslog = None
errorlog = "-"


def when_ready(server: object) -> None:
    """Keep the collector's hands off what was imported before the forks, so that it stays shared."""
    gc.collect()
    gc.freeze()


def post_worker_init(worker: object) -> None:
    """Threads and connections do not survive a fork, so each worker begins its own."""
    from api.wsgi import follower  # noqa: PLC0415  imported by now, and never by the arbiter's reading of this file

    follower.start()


def worker_exit(server: object, worker: object) -> None:
    """Leave, so that nobody waits for what this process shows."""
    from api.wsgi import follower  # noqa: PLC0415

    follower.stop()
