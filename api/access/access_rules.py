"""The access rules of the API. Pure: no server, no clock, no web framework.

A request is *local* if only this machine can have sent it. The address of the peer does not prove
that: in a container every client has the address of the gateway. So four conditions must hold:

- the API is published on a loopback address,
- no other host name is allowed (`ALLOWED_HOSTS` is empty),
- `Host` is a loopback name or address,
- neither a header nor HTTP/1.0 shows that a proxy forwarded the request.

A local read needs no token. A local write needs one only if the operator has set a write token.
Every other request needs a token, except reads if `PUBLIC_READ` is true.

`POST /events` has a rule of its own: it needs `EVENTS_TOKEN`, which permits nothing else, from
every client. The middleware `api.access.auth` applies these rules to each request.
"""

import binascii
import hmac
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import NamedTuple

from shared.settings import Settings
from shared.tokens import Token, TokenKind

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that only read. Every other method is a write."""

# A host name, an IPv4 address or a bracketed IPv6 address, with an optional final dot and port.
_HOST_HEADER = re.compile(
    r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::[0-9]*)?", re.IGNORECASE | re.ASCII
)
_LOOPBACK_IPV4 = IPv4Network("127.0.0.0/8")
_LOOPBACK_IPV6 = IPv6Address("::1")
_BEARER_SCHEME = "bearer"
_BASIC_SCHEME = "basic"


class AccessOutcome(Enum):
    """Whether a request is allowed, and why not."""

    ALLOWED = auto()
    TOKEN_MISSING = auto()
    TOKEN_WRONG = auto()
    TOKEN_READ_ONLY = auto()
    NO_TOKEN_SET = auto()
    """The request needs a token, and none is configured that the client could send."""


ANYONE = "anyone"
"""The actor of a read that is only allowed because of `PUBLIC_READ`."""
LOCAL = "local"
"""The actor of a request that needs no token because it is local."""


class AccessDecision(NamedTuple):
    """An outcome and the client that it applies to.

    `actor` is the name of the token that was sent, `LOCAL`, or `ANYONE`. Empty if unknown.
    """

    outcome: AccessOutcome
    actor: str = ""

    @property
    def may_see_contents(self) -> bool:
        """Whether answers may contain what files contain: quotes, paths of members, earlier ETags.

        What everyone can read contains none of these.
        """
        return self.outcome is AccessOutcome.ALLOWED and self.actor != ANYONE

    @property
    def is_by_token(self) -> bool:
        """Whether the request was allowed because of its token."""
        return self.outcome is AccessOutcome.ALLOWED and not self.is_without_token

    @property
    def is_without_token(self) -> bool:
        """Whether the request was allowed, and needed no token."""
        return self.outcome is AccessOutcome.ALLOWED and self.actor in {ANYONE, LOCAL}


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The rules by which requests are allowed. The defaults are those of the settings."""

    bind_address: str = "127.0.0.1"
    allowed_hosts: Sequence[str] = ()
    public_read: bool = False
    tokens: tuple[Token, ...] = ()
    events_token: str = ""
    """The only token that `POST /events` accepts. Without it no event is accepted."""
    compare_tokens: Callable[[bytes, bytes], bool] = hmac.compare_digest
    """Compares two tokens in constant time: the latency must not reveal a token."""

    @classmethod
    def from_settings(cls, settings: Settings) -> "AccessRules":
        """Return the rules that the settings define."""
        return cls(
            settings.bind_address,
            settings.allowed_hosts,
            settings.public_read,
            tuple(token for token in settings.all_tokens if token.kind is not TokenKind.EVENTS),
            settings.events_token,
        )

    @property
    def is_local_only(self) -> bool:
        """Whether the settings limit the API to clients on this machine."""
        return is_loopback_address(self.bind_address) and not self.allowed_hosts

    def is_local(self, host: str | None, headers: Iterable[str], protocol: str) -> bool:
        """Return whether only this machine can have sent a request.

        `host` is the `Host` header, `headers` the names of all headers, `protocol` the HTTP
        version.
        """
        return self._explain_remote(host, headers, protocol) is None

    def decide(
        self,
        method: str,
        host: str | None,
        headers: Iterable[str],
        authorization: str | None,
        protocol: str = "HTTP/1.1",
    ) -> AccessDecision:
        """Return whether a request is allowed, and the name of its actor.

        `authorization` is the value of the header, None if it is absent. A wrong token is refused
        even where no token is needed. If no valid token exists, the outcome is `NO_TOKEN_SET`.
        """
        is_write = method not in READ_METHODS
        tokenless = self._decide_without_token(is_write, self.is_local(host, headers, protocol))
        if authorization is None:
            return tokenless
        token = self._find_token(authorization)
        if token is None:
            # If no token is configured, another one cannot help: 403 instead of 401.
            no_token_set = tokenless.outcome is AccessOutcome.NO_TOKEN_SET
            return tokenless if no_token_set else AccessDecision(AccessOutcome.TOKEN_WRONG)
        if is_write and not token.may_write:
            return AccessDecision(AccessOutcome.TOKEN_READ_ONLY, token.name)
        return AccessDecision(AccessOutcome.ALLOWED, token.name)

    def explain_token_need(
        self, method: str, host: str | None, headers: Iterable[str], protocol: str
    ) -> str | None:
        """Return why a request needs a token, with the setting that is the cause; else None.

        The arguments are those of `decide`.
        """
        is_write = method not in READ_METHODS
        if not is_write and self.public_read:
            return None
        cause = self._explain_remote(host, headers, protocol)
        if cause is None and is_write and self._has_operator_token():
            cause = "API_TOKEN or API_TOKENS is set for this Rowdrop"
        action = "A write" if is_write else "This request"
        return cause and f"{action} needs a token, because {cause}."

    def decide_events(self, authorization: str | None) -> AccessDecision:
        """Return whether a request may send events: only with `events_token`, even if it is local.

        Some stores can only send the user and the password in a URL, so the token may also be the
        password of the Basic scheme. The user is ignored.
        """
        if not self.events_token:
            return AccessDecision(AccessOutcome.NO_TOKEN_SET)
        if authorization is None:
            return AccessDecision(AccessOutcome.TOKEN_MISSING)
        value = _parse_bearer(authorization) or _parse_basic_password(authorization) or b""
        if not self.compare_tokens(self.events_token.encode(), value):
            return AccessDecision(AccessOutcome.TOKEN_WRONG)
        return AccessDecision(AccessOutcome.ALLOWED, "EVENTS_TOKEN")

    def list_warnings(self) -> list[str]:
        """Return one log line for each rule that the operator may not have intended."""
        if self.is_local_only:
            return []
        sentences = []
        if not self._has_token(for_write=True):
            refused = "every write"
            remedy = "Set API_TOKEN"
            if not self._has_token(for_write=False) and not self.public_read:
                refused = "every write and every read except /health/live"
                remedy = "Set API_TOKEN (for reads only: READ_TOKENS or PUBLIC_READ=true)"
            sentences.append(
                f"{self._describe_exposure()} and no API_TOKEN is set: {refused} is refused. "
                f"{remedy}, or use a loopback BIND_ADDRESS without ALLOWED_HOSTS."
            )
        if self.public_read:
            sentences.append(
                f"{self._describe_exposure()} and PUBLIC_READ is true: "
                "every client that reaches the API can read all rows and files without a token."
            )
        return sentences

    def _explain_remote(
        self, host: str | None, headers: Iterable[str], protocol: str
    ) -> str | None:
        """Return a clause that says why a request is not local; None if it is."""
        causes = []
        if self.allowed_hosts:
            causes.append("ALLOWED_HOSTS is set")
        if not is_loopback_address(self.bind_address):
            causes.append("BIND_ADDRESS is no loopback address")
        if causes:
            return f"{' and '.join(causes)} for this Rowdrop, so no client is local"
        if not is_loopback_host(host or ""):
            return "the header Host has no loopback name or address, such as 127.0.0.1"
        # A proxy that is configured with only an upstream address sends HTTP/1.0, that address as
        # `Host`, and no forwarding header. HTTP/1.0 is then its only trace.
        if protocol == "HTTP/1.0":
            return "HTTP/1.0 is taken as a sign of a proxy"
        if any(map(is_proxy_header, headers)):
            return "a header such as X-Forwarded-For shows that a proxy sent it"
        return None

    def _describe_exposure(self) -> str:
        if self.allowed_hosts:
            return f"BIND_ADDRESS is {self.bind_address}, ALLOWED_HOSTS is set"
        return f"BIND_ADDRESS is {self.bind_address}"

    def _decide_without_token(self, is_write: bool, is_local: bool) -> AccessDecision:
        # A token of the operator protects local writes as well, the generated one does not.
        if is_local and not (is_write and self._has_operator_token()):
            return AccessDecision(AccessOutcome.ALLOWED, LOCAL)
        if not is_write and self.public_read:
            return AccessDecision(AccessOutcome.ALLOWED, ANYONE)
        if self._has_token(for_write=is_write):
            return AccessDecision(AccessOutcome.TOKEN_MISSING)
        return AccessDecision(AccessOutcome.NO_TOKEN_SET)

    def _has_token(self, *, for_write: bool) -> bool:
        return any(token.may_write or not for_write for token in self.tokens)

    def _has_operator_token(self) -> bool:
        return any(token.kind is TokenKind.WRITE for token in self.tokens)

    def _find_token(self, authorization: str) -> Token | None:
        value = _parse_bearer(authorization)
        if value is None:
            return None
        # Compare with every token, even after a match: the latency must not reveal which of them is
        # similar to the one that was sent.
        matches = [
            token for token in self.tokens if self.compare_tokens(token.value.encode(), value)
        ]
        return matches[0] if matches else None


def _parse_bearer(authorization: str) -> bytes | None:
    """Return the token of a header with the Bearer scheme, or None for another scheme."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != _BEARER_SCHEME:
        return None
    # A header may contain characters that cannot be encoded. They must not raise: the token is
    # just wrong.
    return credentials.strip(" ").encode(errors="backslashreplace")


def _parse_basic_password(authorization: str) -> bytes | None:
    """Return the password of a header with the Basic scheme (RFC 7617), or None if it has none."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != _BASIC_SCHEME:
        return None
    try:
        user_and_password = b64decode(credentials.strip(" "), validate=True)
    except (binascii.Error, ValueError):
        return None
    return user_and_password.partition(b":")[2]


def parse_host_name(host: str) -> str | None:
    """Return the name or address in a `Host` header, in lower case without the port.

    IPv6 addresses keep their brackets. Return None if the header has another form.
    """
    match = _HOST_HEADER.fullmatch(host)
    return match[1].lower() if match else None


def is_loopback_host(host: str) -> bool:
    """Return whether a `Host` header is a loopback name or address."""
    name = parse_host_name(host)
    if name is None:
        return False
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name)


@lru_cache(256)
def is_loopback_address(address: str) -> bool:
    """Return whether an IP address is loopback. An IPv6 address may have brackets."""
    try:
        ip = ip_address(address.strip("[]"))
    except ValueError:
        return False
    return ip in _LOOPBACK_IPV4 or ip == _LOOPBACK_IPV6


def is_proxy_header(header_name: str) -> bool:
    """Return whether a header of this name shows that a proxy forwarded the request.

    Such headers are `Via` (RFC 9110), `CDN-Loop` (RFC 8586), every name with "Forwarded" or
    "Original" in it (RFC 7239, `X-Forwarded-For`, `X-Original-Host`), and every name that ends with
    "IP" (`X-Real-IP`, `True-Client-IP`, `CF-Connecting-IP`).
    """
    name = header_name.upper().replace("_", "-")
    if name in {"VIA", "CDN-LOOP"} or name.endswith("IP"):
        return True
    return "FORWARDED" in name or "ORIGINAL" in name
