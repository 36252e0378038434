"""The routes.  Everything they need is an argument; the environment is read elsewhere."""

import time
from collections.abc import Callable

import falcon
from falcon.media import JSONHandler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.browsers import BrowserGuard
from api.data import DataResource, UserResource
from api.errors import ErrorsResource
from api.filters import WrongParameter
from api.guard import WriteGuard
from api.health import LiveResource, ReadyResource
from api.index import IndexResource
from api.refusals import as_problem, on_fault, on_outage, on_wrong_parameter, to_json
from api.stats import StatsResource
from api.tasks import RebuildDesk, TaskResource
from api.view import CurrentView


def create_app(
    current: CurrentView,
    desk: RebuildDesk,
    guard: WriteGuard,
    browsers: BrowserGuard,
    sweep_interval_s: float,
    clock: Callable[[], float] = time.time,
) -> "falcon.App[falcon.Request, falcon.Response]":
    """The WSGI application that serves `current()`; `clock` gives Unix seconds."""
    app = falcon.App()
    app.add_middleware(browsers)
    app.add_middleware(guard)
    app.req_options.strip_url_path_trailing_slash = True
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = JSONHandler(dumps=to_json)
    app.set_error_serializer(as_problem)
    app.add_error_handler(Exception, on_fault)
    app.add_error_handler(WrongParameter, on_wrong_parameter)
    app.add_error_handler(RedisError, on_outage)
    app.add_error_handler(OperationalError, on_outage)
    app.add_route("/", IndexResource())
    app.add_route("/data", DataResource(current, desk, clock))
    app.add_route("/data/{user_id}", UserResource(current))
    app.add_route("/stats", StatsResource(current, clock))
    app.add_route("/tasks/{task_id}", TaskResource(desk))
    app.add_route("/errors", ErrorsResource(current))
    app.add_route("/health/live", LiveResource(current))
    app.add_route("/health/ready", ReadyResource(current, sweep_interval_s, clock))
    return app
