"""The ASGI application and its routes.

All dependencies are arguments. `api.asgi` reads the environment and creates them.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import falcon
import falcon.asgi
from falcon.media import JSONHandler, MultipartFormHandler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.answers.formats import CONTENT_TYPES
from api.answers.html_page import PAGE_HEADERS, render_problem_page
from api.answers.quotes import QuoteReader
from api.answers.table_answers import TableAnswers
from api.controllers.bundle_drop_controller import BundleDropController, BundleReader
from api.controllers.completion_waiter import CompletionWaiter
from api.controllers.drop_controller import DropController
from api.controllers.event_controller import EventController
from api.controllers.rebuild_controller import RebuildController
from api.controllers.receipt_controller import ReceiptController
from api.controllers.refresh_controller import RefreshController
from api.description.docs import DocsResource
from api.description.index import IndexResource
from api.description.openapi import OpenApiResource
from api.description.page_files import PageFileResource, load_page_files
from api.query.negotiation import prefers_html
from api.query.parameters import InvalidParameter
from api.resources.data import ChangesResource, DataResource, UserResource
from api.resources.errors import ErrorsResource
from api.resources.events import EventsResource
from api.resources.files import MAX_FORM_FILES, FileResource, FilesResource
from api.resources.health import LiveResource, ReadyResource, describe_lasting_status
from api.resources.image import ImageResource
from api.resources.stats import StatsResource
from api.resources.tasks import TasksResource
from api.snapshot.changes import ChangeFeed
from api.snapshot.view import View, ViewProvider
from api.web.bodies import BodyReader, encode_json
from api.web.error_handlers import (
    handle_invalid_parameter,
    handle_redis_outage,
    handle_store_outage,
    handle_unexpected_error,
)
from api.web.problem_kinds import PROBLEM_MEDIA_TYPE
from api.web.problems import build_error_body
from api.web.thread_pool import ThreadPool
from api.web.transfers import Transfers
from shared.object_store import StoreUnavailable
from shared.progress.rebuilds import Rebuilds
from shared.progress.receipts import Receipt, Receipts
from shared.progress.sweep_record import SweepRecord
from shared.progress.unpacks import Unpacks
from shared.settings import PageLink

_App: TypeAlias = "falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]"


class Dependencies(NamedTuple):
    """The dependencies of the routes.

    `source_transfers` moves objects of the source bucket, `copy_transfers` image copies and the
    bundle catalog in the output bucket. `compute_pool` runs what takes more than about 2 ms,
    `redis_pool` what waits for Redis. `max_upload_bytes` is the largest size of a file in a PUT
    request. `page_links` are links to other servers, for the page. `is_stopping` returns True when
    answers without an end have to end.
    """

    get_view: ViewProvider
    rebuild_controller: RebuildController
    refresh_controller: RefreshController
    event_controller: EventController
    waiter: CompletionWaiter
    source_transfers: Transfers
    copy_transfers: Transfers
    rebuilds: Rebuilds
    unpacks: Unpacks
    sweeps: SweepRecord
    receipts: Receipts
    compute_pool: ThreadPool
    redis_pool: ThreadPool
    max_upload_bytes: int
    sweep_interval_s: float
    page_links: tuple[PageLink, ...] = ()
    is_stopping: Callable[[], bool] = lambda: False


def create_app(
    dependencies: Dependencies,
    cross_site: CrossSiteMiddleware,
    auth: AuthMiddleware,
    clock: Callable[[], float] = time.time,
) -> _App:
    """Return the ASGI application; `clock` returns Unix seconds."""
    app = falcon.asgi.App()
    # The order matters: a request of another site is refused before its token is checked.
    app.add_middleware(cross_site)
    app.add_middleware(auth)
    app.req_options.strip_url_path_trailing_slash = True
    form_handler = MultipartFormHandler()
    form_handler.parse_options.max_body_part_count = MAX_FORM_FILES
    app.req_options.media_handlers[falcon.MEDIA_MULTIPART] = form_handler
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = JSONHandler(dumps=encode_json)
    _add_error_handlers(app)
    _add_routes(app, dependencies, clock)
    return app


def _add_error_handlers(app: _App) -> None:
    app.set_error_serializer(_serialize_problem)
    # falcon calls the handler of the most specific class, regardless of this order.
    app.add_error_handler(Exception, handle_unexpected_error)
    app.add_error_handler(InvalidParameter, handle_invalid_parameter)
    app.add_error_handler(RedisError, handle_redis_outage)
    app.add_error_handler(OperationalError, handle_redis_outage)
    app.add_error_handler(StoreUnavailable, handle_store_outage)


def _serialize_problem(
    request: falcon.asgi.Request, response: falcon.asgi.Response, error: falcon.HTTPError
) -> None:
    """Serialize an HTTP error as a problem document, or as a page for a browser."""
    body = build_error_body(error)
    response.set_header("Cache-Control", "no-store")
    if prefers_html(request.get_header("Accept")):
        response.content_type = CONTENT_TYPES["html"]
        response.set_headers(PAGE_HEADERS)
        response.data = render_problem_page(body["title"], body["detail"])
    else:
        response.content_type = PROBLEM_MEDIA_TYPE
        response.data = encode_json(body).encode()


def _add_routes(app: _App, dependencies: Dependencies, clock: Callable[[], float]) -> None:
    async def read_receipts(user_id: str) -> tuple[list[Receipt], bool]:
        return await dependencies.redis_pool.run(dependencies.receipts.read_user, user_id)

    bundles = BundleReader(
        dependencies.source_transfers,
        dependencies.copy_transfers,
        read_receipts,
        dependencies.unpacks,
        dependencies.redis_pool,
    )
    receipts = ReceiptController(
        dependencies.get_view,
        dependencies.source_transfers,
        read_receipts,
        bundles,
        dependencies.compute_pool,
    )
    _add_description_routes(app, dependencies)
    _add_row_routes(app, dependencies, receipts, clock)
    _add_file_routes(app, dependencies, receipts, bundles)
    _add_pipeline_routes(app, dependencies, clock)


def _add_description_routes(app: _App, dependencies: Dependencies) -> None:
    page_files = load_page_files()
    app.add_route("/", IndexResource(page_files))
    app.add_route("/page/{version}/{name}", PageFileResource(page_files))
    app.add_route("/openapi.json", OpenApiResource(dependencies.page_links))
    app.add_route("/docs", DocsResource())


def _add_row_routes(
    app: _App, dependencies: Dependencies, receipts: ReceiptController, clock: Callable[[], float]
) -> None:
    get_view = dependencies.get_view
    answers = TableAnswers(get_view, clock, dependencies.compute_pool)
    app.add_route("/data", DataResource(answers, dependencies.rebuild_controller))
    app.add_route(
        "/data/{user_id}", UserResource(get_view, dependencies.refresh_controller, receipts)
    )
    app.add_route(
        "/data/{user_id}/image",
        ImageResource(get_view, dependencies.source_transfers, dependencies.copy_transfers),
    )
    app.add_route("/changes", ChangesResource(_make_change_feed(dependencies, clock)))
    app.add_route("/stats", StatsResource(answers))


def _add_file_routes(
    app: _App, dependencies: Dependencies, receipts: ReceiptController, bundles: BundleReader
) -> None:
    get_view = dependencies.get_view
    app.add_route(
        "/files",
        FilesResource(dependencies.source_transfers, dependencies.max_upload_bytes),
    )
    app.add_route(
        "/files/{name:path}",
        FileResource(
            dependencies.source_transfers,
            DropController(get_view, dependencies.refresh_controller, dependencies.compute_pool),
            BundleDropController(get_view, dependencies.waiter, bundles),
            receipts,
            dependencies.max_upload_bytes,
        ),
    )


def _add_pipeline_routes(app: _App, dependencies: Dependencies, clock: Callable[[], float]) -> None:
    get_view = dependencies.get_view
    tasks = TasksResource(
        get_view,
        dependencies.rebuilds,
        dependencies.unpacks,
        dependencies.sweeps,
        dependencies.redis_pool,
    )
    app.add_route("/tasks", tasks)
    app.add_route("/tasks/{task_id}", tasks, suffix="task")
    app.add_route("/events", EventsResource(dependencies.event_controller, BodyReader()))
    app.add_route(
        "/errors",
        ErrorsResource(
            get_view, QuoteReader(dependencies.source_transfers), dependencies.compute_pool
        ),
    )
    app.add_route("/health/live", LiveResource(get_view))
    ready = ReadyResource(get_view, dependencies.sweep_interval_s, clock, dependencies.compute_pool)
    app.add_route("/health/ready", ready)
    app.add_route("/metrics", ready, suffix="metrics")


def _make_change_feed(dependencies: Dependencies, clock: Callable[[], float]) -> ChangeFeed:
    def describe_status(view: View) -> object:
        return describe_lasting_status(view, dependencies.sweep_interval_s, clock())

    return ChangeFeed(dependencies.get_view, describe_status, dependencies.is_stopping)
