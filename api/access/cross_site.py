"""Protection against pages of other sites that send requests through a user's browser.

Three checks, none of which affects a program such as curl:

- `Host` must be an allowed name. Otherwise a page could point a name of its own to this server (DNS
  rebinding) and read everything. An IP address cannot be rebound, so it is always allowed.
- A request that comes from another site (`Sec-Fetch-Site`, or `Origin`) is refused, unless it
  follows a link. So a page of another site can neither write nor probe which data exists.
- Pages of an origin in `CORS_ORIGINS` may read and write. `*` lets every page read, and none write.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import ip_address

import falcon
from falcon import HTTP_204
from falcon.asgi import Request, Response

from api.access.access_rules import READ_METHODS, parse_host_name
from api.web.problems import Problem

_TRUSTED_FETCH_SITES = frozenset({"same-origin", "none"})
_EXPOSED_HEADERS = (
    "ETag, Link, Location, Retry-After, Content-Disposition, X-Total-Count, X-Ignored-Count, "
    "X-Table-Version, X-Row-Offset"
)
_CORS_METHODS = "GET, HEAD, POST, PUT, DELETE"
_CORS_REQUEST_HEADERS = "Authorization, Content-Type, If-Match, If-None-Match, Range"
_PREFLIGHT_MAX_AGE_S = "600"
"""Seconds for which browsers may cache the answer to a preflight request."""

SECURITY_HEADERS = (
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("server", "rowdrop"),  # otherwise gunicorn adds its name
)
"""Headers of every answer. An HTML page replaces the policy by its own, for what it loads."""


class CrossSiteMiddleware:
    """Falcon middleware that runs before all other middleware.

    `allowed_hosts`: host names in addition to the loopback ones. `*.example.org` allows all names
    below `example.org`, `*` allows every name.
    `cors_origins`: origins such as `https://example.org:8443`. Their pages may read and write. With
    `*` the pages of every origin may read.
    """

    def __init__(
        self, allowed_hosts: Collection[str] = (), cors_origins: Collection[str] = ()
    ) -> None:
        # The cache is bounded, because clients choose the values of `Host`.
        matcher = _HostMatcher(allowed_hosts)
        self._is_allowed_host: Callable[[str], bool] = lru_cache(256)(matcher.allows)
        self._allowed_origins = frozenset(origin.lower() for origin in cors_origins)

    async def process_request(self, request: Request, response: Response) -> None:
        """Accept the request or answer a CORS preflight request.

        Raises a 400 without `Host`, a 421 for a host name that is not allowed, and a 403 for a
        request of another site.
        """
        host = request.get_header("Host", default="")
        is_http_10 = request.scope["http_version"] == "1.0"
        if not is_http_10 and request.get_header("Host") is None:
            raise falcon.HTTPBadRequest(
                description="HTTP/1.1 requires the header Host (RFC 9112, 3.2)."
            )
        if not self._is_allowed_host(host):
            raise falcon.HTTPError(421, description=_HOST_NOT_ALLOWED.format(host[:80]))
        origin = request.get_header("Origin")
        site = request.get_header("Sec-Fetch-Site")
        if origin is not None or site is not None:
            self._check_site(request, response, origin, site)

    async def process_response(
        self, request: Request, response: Response, resource: object, succeeded: bool
    ) -> None:
        """Set the security headers of the answer."""
        resource_policy = response.get_header("Content-Security-Policy")
        response.set_headers(SECURITY_HEADERS)
        if resource_policy:
            response.set_header("Content-Security-Policy", resource_policy)
        elif response.status_code == 304:
            # A browser replaces the headers of the page that it has by those of the 304.
            response.delete_header("Content-Security-Policy")
        # The CORS headers depend on the origin, so shared caches need one copy per origin.
        if self._allowed_origins - {"*"}:
            response.append_header("Vary", "Origin")

    def _check_site(
        self, request: Request, response: Response, origin: str | None, site: str | None
    ) -> None:
        # Browsers set both headers, and no script can change them. `Sec-Fetch-Site` takes
        # precedence, as behind a proxy the own origin may differ from `Host`.
        if origin and self._is_allowed_origin(origin.lower(), request):
            self._add_cors_headers(origin, request, response)
            return
        is_own_page = site is None and _is_same_origin(origin, request)
        if site in _TRUSTED_FETCH_SITES or is_own_page or _is_link_navigation(request):
            return
        raise Problem("cross-site", _ORIGIN_NOT_ALLOWED.format((origin or "another site")[:80]))

    def _is_allowed_origin(self, origin: str, request: Request) -> bool:
        if origin in self._allowed_origins:
            return True
        method = request.method
        if method == "OPTIONS":  # other methods are no preflight, so the header proves nothing
            method = request.get_header("Access-Control-Request-Method") or method
        return "*" in self._allowed_origins and method in READ_METHODS

    def _add_cors_headers(self, origin: str, request: Request, response: Response) -> None:
        allowed_origin = origin if origin.lower() in self._allowed_origins else "*"
        response.set_header("Access-Control-Allow-Origin", allowed_origin)
        response.set_header("Access-Control-Expose-Headers", _EXPOSED_HEADERS)
        if request.method == "OPTIONS" and request.get_header("Access-Control-Request-Method"):
            response.set_header("Access-Control-Allow-Methods", _CORS_METHODS)
            response.set_header("Access-Control-Allow-Headers", _CORS_REQUEST_HEADERS)
            response.set_header("Access-Control-Max-Age", _PREFLIGHT_MAX_AGE_S)
            response.status = HTTP_204
            response.complete = True


class _HostMatcher:
    def __init__(self, allowed: Collection[str]) -> None:
        names = {name.lower() for name in allowed}
        self._allows_any = "*" in names
        self._allowed_names = names | {"localhost"}
        wildcard_suffixes = (name[1:] for name in names if name.startswith("*."))
        self._allowed_suffixes = (".localhost", *wildcard_suffixes)

    def allows(self, host: str) -> bool:
        """Return whether a `Host` header is allowed.

        HTTP/1.0 requests without the header are allowed: every browser sends it.
        """
        if self._allows_any or not host:
            return True
        name = parse_host_name(host)
        if name is None:
            return False
        return (
            name in self._allowed_names
            or name.endswith(self._allowed_suffixes)
            or _is_ip_address(name)
        )


def _is_ip_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_same_origin(origin: str | None, request: Request) -> bool:
    """Return whether the origin is this API, for browsers that send no `Sec-Fetch-Site`.

    The scheme is not compared: behind a proxy that terminates TLS, the page has https and this
    request http. `Host` is one of this API's names: it was checked before.
    """
    if origin is None:
        return True
    host = request.get_header("Host", default="").lower()
    # The origin `null` of a sandboxed page has no host: it must not equal a missing `Host`.
    return bool(host) and origin.partition("://")[2].lower() == host


def _is_link_navigation(request: Request) -> bool:
    # Only a top-level navigation: a page that embeds this API in a frame or image is refused.
    if request.method not in {"GET", "HEAD"} or request.get_header("Origin") is not None:
        return False
    return (
        request.get_header("Sec-Fetch-Mode") == "navigate"
        and request.get_header("Sec-Fetch-Dest", default="document") == "document"
    )


_HOST_NOT_ALLOWED = (
    "{!r} is not a host name of this API. Add it to ALLOWED_HOSTS, "
    "or use an address such as 127.0.0.1."
)
_ORIGIN_NOT_ALLOWED = (
    "A page of {!r} may not use this API. If the page is yours, add its origin to CORS_ORIGINS."
)
