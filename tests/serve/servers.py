"""Real HTTP servers on loopback that answer, redirect, lie, drip and break off as a test asks."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A running server and what it was asked."""

    port: int
    answers: dict[str, Answer]
    """By path."""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    """Method, path with query, headers by lower-case names, body."""

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Name something on this server."""
        return f"http://{host}:{self.port}{path}"


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server for as long as the block does."""
    server = Server(0, {})

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", "0"))
            body = self.rfile.read(length)
            named = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append((self.command, self.path, named, body))
            try:
                server.answers[self.path.partition("?")[0]](self)
            except (ConnectionError, ssl.SSLError):
                self.close_connection = True  # The client has heard enough.

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that refuse a certificate are meant."""

    with Quiet(("127.0.0.1", 0), Answers) as http:
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def saying(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with a body; underscores in the names of headers become dashes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"content-length": str(len(body))} | named).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def redirecting(to: str, status: int = 302) -> Answer:
    """Send the client elsewhere."""
    return saying(b"", status, location=to)
