"""Endpoint `/events`: the webhook to which a store sends the events of the source bucket."""

import falcon
from falcon.asgi import Request, Response

from api.controllers.event_controller import EventController
from api.query.parameters import parse_single_values
from api.web.bodies import BodyReader


class EventsResource:
    """Endpoint `/events`."""

    def __init__(self, controller: EventController, body_reader: BodyReader) -> None:
        self._controller = controller
        self._body_reader = body_reader

    async def on_post(self, request: Request, response: Response) -> None:
        """Accept the events of a store. They are processed later, like those of MinIO's target."""
        parse_single_values(request.params, ())
        received = await self._controller.receive(await self._body_reader.read(request))
        response.status = falcon.HTTP_202
        response.media = received._asdict()
        response.set_header("Cache-Control", "no-store")
