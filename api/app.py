"""The WSGI application and its routes.

All dependencies are arguments. `api.wsgi` reads the environment and creates them.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import falcon
from falcon.media import JSONHandler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.browsers import BrowserGuard
from api.data import DataResource, UserResource
from api.docs import DocsResource
from api.errors import ErrorsResource
from api.files import FileResource, FilesResource
from api.filters import WrongParameter
from api.guard import AccessGuard
from api.health import LiveResource, ReadyResource
from api.image import ImageResource
from api.index import IndexResource
from api.openapi import OpenApiResource
from api.refreshes import RefreshDesk
from api.refusals import as_problem, on_fault, on_outage, on_store_outage, on_wrong_parameter, to_json
from api.stats import StatsResource
from api.tasks import RebuildDesk, TaskResource, TasksResource
from api.transfers import Transfers
from api.view import CurrentView
from shared.object_store import StoreUnavailable
from shared.unpacks import Unpacks


class Parts(NamedTuple):
    """The dependencies of the routes.

    `transfers` moves objects of the source bucket, `copies` the image copies in the output bucket.
    `max_upload_bytes` is the largest size of a file in a PUT request.
    """

    current: CurrentView
    rebuilds: RebuildDesk
    refreshes: RefreshDesk
    transfers: Transfers
    copies: Transfers
    unpacks: Unpacks
    max_upload_bytes: int
    sweep_interval_s: float


def create_app(
    parts: Parts, browsers: BrowserGuard, guard: AccessGuard, clock: Callable[[], float] = time.time
) -> "falcon.App[falcon.Request, falcon.Response]":
    """Return the WSGI application; `clock` returns Unix seconds."""
    app = falcon.App()
    # The order matters: a request of another site is refused before its token is checked.
    app.add_middleware(browsers)
    app.add_middleware(guard)
    app.req_options.strip_url_path_trailing_slash = True
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = JSONHandler(dumps=to_json)
    _add_refusals(app)
    _add_routes(app, parts, clock)
    return app


def _add_refusals(app: "falcon.App[falcon.Request, falcon.Response]") -> None:
    app.set_error_serializer(as_problem)
    # falcon calls the handler of the most specific class, regardless of this order.
    app.add_error_handler(Exception, on_fault)
    app.add_error_handler(WrongParameter, on_wrong_parameter)
    app.add_error_handler(RedisError, on_outage)
    app.add_error_handler(OperationalError, on_outage)
    app.add_error_handler(StoreUnavailable, on_store_outage)


def _add_routes(app: "falcon.App[falcon.Request, falcon.Response]", parts: Parts, clock: Callable[[], float]) -> None:
    current = parts.current
    app.add_route("/", IndexResource())
    app.add_route("/openapi.json", OpenApiResource())
    app.add_route("/docs", DocsResource())
    app.add_route("/data", DataResource(current, parts.rebuilds, clock))
    app.add_route("/data/{user_id}", UserResource(current, parts.refreshes))
    app.add_route("/data/{user_id}/image", ImageResource(current, parts.transfers, parts.copies))
    app.add_route("/stats", StatsResource(current, clock))
    app.add_route("/files", FilesResource(parts.transfers))
    app.add_route("/files/{name:path}", FileResource(parts.transfers, parts.max_upload_bytes))
    app.add_route("/tasks", TasksResource(parts.rebuilds, parts.unpacks))
    app.add_route("/tasks/{task_id}", TaskResource(parts.rebuilds, parts.unpacks))
    app.add_route("/errors", ErrorsResource(current))
    app.add_route("/health/live", LiveResource(current))
    app.add_route("/health/ready", ReadyResource(current, parts.sweep_interval_s, clock))
