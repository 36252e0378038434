"""Invalid and ambiguous HTTP on real sockets: each case has one status, immediately."""

import socket

from api.web.connections import REQUEST_TIMEOUT_S
from tests.api_process import ApiEnvironment, ApiProcess

LOCAL = b"Host: localhost\r\n"
FOREIGN = LOCAL + b"Origin: http://evil.example\r\n"
CASES = {
    b"GET /data HTTP/1.1\r\n" + LOCAL: 200,
    b"GET /data HTTP/1.1\r\n": 400,
    b"GET /data HTTP/1.0\r\n": 200,
    b"GET /data HTTP/1.1\r\nHost:\r\n": 200,
    # The absolute form. Its host and `Host` must be the same (RFC 9112, 3.2).
    b"GET http://localhost/data HTTP/1.1\r\n" + LOCAL: 200,
    b"GET HTTPS://LOCALHOST:8080/d%61ta?limit=1 HTTP/1.1\r\nHost: localhost:8080\r\n": 200,
    b"GET http://localhost HTTP/1.1\r\n" + LOCAL: 200,
    b"GET http://localhost?x=1 HTTP/1.1\r\n" + LOCAL: 400,
    b"GET http://localhost/data HTTP/1.1\r\nHost: evil.example\r\n": 421,
    b"GET http://evil.example/data HTTP/1.1\r\nHost: evil.example\r\n": 421,
    b"GET http://evil.example/data HTTP/1.1\r\n" + LOCAL: 404,
    b"GET http://evil.example%2fdata HTTP/1.1\r\n" + LOCAL: 404,
    b"GET http://a@localhost/data HTTP/1.1\r\n" + LOCAL: 404,
    b"POST http://192.0.2.1/data HTTP/1.1\r\nHost: 192.0.2.1\r\n": 403,
    b"POST http://evil.example/data HTTP/1.1\r\n" + LOCAL + b"Origin: http://evil.example\r\n": 403,
    b"GET http:///data HTTP/1.1\r\n" + LOCAL: 404,
    b"GET http://localhost/data HTTP/1.1\r\n": 400,
    b"GET ftp://localhost/data HTTP/1.1\r\n" + LOCAL: 404,
    # Bare LF.
    b"GET /data HTTP/1.1\nHost: localhost\n\n": 400,
    b"GET /data HTTP/1.1\r\nHost: localhost\nX: 1\r\n": 400,
    b"GET /data HTTP/1.1\r\n" + LOCAL + b"X: 1\n": 400,
    # Without `Host`, the origin "null" is another site.
    b"POST /data HTTP/1.0\r\nOrigin: null\r\n": 403,
    b"POST /data HTTP/1.1\r\nHost:\r\nOrigin: null\r\n": 403,
    # Only OPTIONS is a preflight.
    b"OPTIONS /data HTTP/1.1\r\n" + FOREIGN + b"Access-Control-Request-Method: GET\r\n": 204,
    b"OPTIONS /data HTTP/1.1\r\n" + FOREIGN + b"Access-Control-Request-Method: POST\r\n": 403,
    b"POST /data HTTP/1.1\r\n" + FOREIGN + b"Access-Control-Request-Method: GET\r\n": 403,
    # Credentials are checked before the body arrives.
    b"PUT /files/a.csv HTTP/1.1\r\nHost: 192.0.2.1\r\nContent-Length: 1000000\r\n": 403,
    # Framing.
    b"GET /data HTTP/1.1\r\n" + LOCAL + b"Content-Length: +5\r\n": 400,
    b"GET /data HTTP/1.1\r\n" + LOCAL + b"Content-Length: 5\r\nContent-Length: 6\r\n": 400,
    b"GET /data HTTP/1.1\r\n" + LOCAL + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n": 400,
    b"GET /data HTTP/1.1\r\n" + LOCAL + b"X:\r\n folded\r\n": 400,
    b"GET /data HTTP/2.0\r\n" + LOCAL: 400,
    b"PRI * HTTP/2.0\r\n": 400,
    b"GET /data\r\n": 400,
}


def exchange(api: ApiProcess, head: bytes) -> bytes:
    """Return the head of the answer."""
    with socket.create_connection(("127.0.0.1", api.port), REQUEST_TIMEOUT_S / 2) as client:
        client.sendall(head + b"\r\n")
        received = b""
        while b"\r\n\r\n" not in received:
            part = client.recv(65_536)
            assert part, received
            received += part
    return received.partition(b"\r\n\r\n")[0]


def test_api_server_answers_each_head_with_one_status(api_environment: ApiEnvironment) -> None:
    """With every origin and every reader allowed, which permits the most."""
    environment = {**api_environment.api.environment, "CORS_ORIGINS": "*", "PUBLIC_READ": "true"}
    with ApiProcess(environment, api_environment.api.log) as api:
        heads = {case: exchange(api, case) for case in CASES}
    assert {case: int(head.split()[1]) for case, head in heads.items()} == CASES
    assert not [head for head in heads.values() if b"gunicorn" in head.lower()]
    assert "Traceback" not in api_environment.api.log.read_text()
