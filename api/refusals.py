"""Answers that say no, all in one shape of JSON: what went wrong, and how to ask better."""

import json
from collections.abc import MutableMapping
from typing import Any, NoReturn

import falcon
from falcon import Request, Response

from api.filters import WrongParameter

RETRY_AFTER_S = 2
WRITES_REFUSED = (
    "other machines can reach this API and no API_TOKEN is set, so every write is refused.  "
    "Set API_TOKEN, or a BIND_ADDRESS that only this machine reaches."
)


class WrongParameterAnswer(falcon.HTTPBadRequest):
    """400, with the name of the parameter and what is allowed."""

    def __init__(self, wrong: WrongParameter) -> None:
        super().__init__(title="Wrong parameter", description=str(wrong))
        self.wrong = wrong

    def to_dict(self, obj_type: type[MutableMapping[str, Any]] = dict) -> MutableMapping[str, Any]:
        """The answer's body."""
        answer = super().to_dict(obj_type)
        answer["parameter"], answer["allowed"] = self.wrong.name, self.wrong.allowed
        return answer


def nothing_yet() -> falcon.HTTPServiceUnavailable:
    """503: no output.csv was read so far."""
    return falcon.HTTPServiceUnavailable(
        title="Nothing is published yet",
        description="No output.csv could be read so far; /health/ready says why.",
        retry_after=RETRY_AFTER_S,
    )


def no_such_task(task_id: str) -> falcon.HTTPNotFound:
    """404: this id was never given, or is forgotten."""
    return falcon.HTTPNotFound(
        title="No such task",
        description=f"There is no task {task_id[:40]!r}, or it was finished more than a week ago.",
    )


def lost() -> falcon.HTTPServiceUnavailable:
    """503: a rebuild that was queued is known no more."""
    return falcon.HTTPServiceUnavailable(
        title="The task was lost",
        description="Redis was emptied meanwhile, and a sweep puts right what that may have lost; ask once more.",
        retry_after=RETRY_AFTER_S,
    )


def on_wrong_parameter(request: Request, response: Response, error: WrongParameter, params: dict[str, Any]) -> NoReturn:
    """Error handler: a query string that cannot be understood."""
    raise WrongParameterAnswer(error)


def on_outage(request: Request, response: Response, error: Exception, params: dict[str, Any]) -> NoReturn:
    """Error handler: Redis is away, and the request cannot do without."""
    raise falcon.HTTPServiceUnavailable(
        title="Redis does not answer",
        description="What is published can still be read at /data and /stats; try this again later.",
        retry_after=RETRY_AFTER_S,
    )


def as_json(request: Request, response: Response, error: falcon.HTTPError) -> None:
    """Error serializer: JSON, whatever was asked for."""
    answer = error.to_dict()
    answer.setdefault("description", "GET / lists what can be asked.")
    response.content_type = falcon.MEDIA_JSON
    response.data = to_json(answer).encode()


def to_json(answer: object) -> str:
    """A small answer, for people as well as for programs."""
    return json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
