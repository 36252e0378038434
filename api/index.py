"""GET /: what can be asked here."""

from typing import Any

from falcon import Request, Response

from api.files import A_KEY, A_PAGE
from api.filters import A_TRUTH, AN_AGE
from api.question import A_FORMAT, A_NUMBER, A_SEARCH, AN_ORDER, SOME_FIELDS
from api.waiting import A_WAIT

_FILTERS = {"is_image_exists": A_TRUTH, "min_age": AN_AGE, "max_age": AN_AGE}
_PAGING = {"limit": A_NUMBER, "offset": A_NUMBER}
_ROWS = _FILTERS | {"q": A_SEARCH, "sort": AN_ORDER, "fields": SOME_FIELDS} | _PAGING | {"format": A_FORMAT}


def _route(method: str, path: str, description: str, parameters: dict[str, str] | None = None) -> dict[str, Any]:
    return {"method": method, "path": path, "description": description, "parameters": parameters or {}}


ROUTES = (
    _route("GET", "/data", "The published rows: a JSON array of users, or another format.", _ROWS),
    _route("GET", "/data/{user_id}", "One user's row."),
    _route("POST", "/data/{user_id}", "Read one user's files anew; with wait as above.", {"wait": A_WAIT}),
    _route("GET", "/data/{user_id}/image", "The image of the row, if it is PNG, JPEG, GIF or WebP."),
    _route("GET", "/files", "The files in the source bucket.", {"prefix": A_KEY, "after": A_KEY, "limit": A_PAGE}),
    _route("GET", "/files/{name}", "A file."),
    _route("PUT", "/files/{name}", "Drop a file; its row follows."),
    _route("DELETE", "/files/{name}", "Delete a file; its row follows."),
    _route("GET", "/stats", "Count, average age and average birth date of the rows.", _FILTERS),
    _route(
        "POST", "/data", "Read every user's files anew; with wait, answer when that is published.", {"wait": A_WAIT}
    ),
    _route("GET", "/tasks/{task_id}", "How far such a rebuild is."),
    _route("GET", "/errors", "Files that could not be used, keys that are ignored, events not understood.", _PAGING),
    _route("GET", "/health/live", "200 when the routes above that start with GET can be answered."),
    _route("GET", "/health/ready", "200 when the pipeline keeps up and nothing is known to be lost; else the reasons."),
)


class IndexResource:
    """The list of routes."""

    def on_get(self, request: Request, response: Response) -> None:
        """Every route, with a sentence and its parameters."""
        response.media = {"service": "Rowdrop", "routes": ROUTES}

    on_head = on_get
