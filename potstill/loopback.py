"""Pages served on loopback, to a browser on this machine, until Ctrl-C.

In: a handler of requests. Out: a server that answers under this machine's names alone. What is
served may ask for a token, which the printed address has: other users of the machine have none.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import SplitResult, parse_qs, urlsplit

import typer

from potstill.endpoint import HOST
from potstill.errors import BackendUnavailableError

logger = logging.getLogger(__name__)

NAMES = frozenset({"localhost", HOST})
"""Under others a web page could read what is served, by DNS rebinding."""
HTML = "text/html; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer. A page's own policy, which names its script, stands in the page."""


class LoopbackHandler(BaseHTTPRequestHandler):
    """Answers requests under this machine's names, and logs nothing above DEBUG."""

    timeout = 30
    """Seconds for which a connection may say nothing."""

    def parse_request(self) -> bool:
        """Read a request's head; refuse it under a name that is not this machine's."""
        if not super().parse_request():
            return False
        host = self.headers.get("Host", "")
        if (host.rpartition(":")[0] or host) in NAMES:
            return True
        self.send_error(421)
        return False

    @property
    def url(self) -> SplitResult:
        """The request's target; empty for one that is none."""
        try:
            return urlsplit(self.path)
        except ValueError:
            return urlsplit("")

    def has_token(self, token: str) -> bool:
        """Return whether the request's address has a token, or answer 401."""
        given = parse_qs(self.url.query).get("token", [""])[0]
        if hmac.compare_digest(given.encode(errors="replace"), token.encode()):
            return True
        self.send_error(401, "the address has no token", "Open the address that was printed.")
        return False

    def send(
        self, text: str, content_type: str = HTML, status: int = 200, policy: str | None = None
    ) -> None:
        """Answer with a text.

        Args:
            policy: What the page may do, besides what its own policy says; None: that decides.
        """
        content = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        if policy is not None:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)

    def end_headers(self) -> None:
        """End the head, errors' too, with the headers of every answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log a request for whoever debugs."""
        logger.debug(format, *args)


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def listen(handler: type[LoopbackHandler], port: int) -> ThreadingHTTPServer:
    """Return a server on loopback that has begun to listen.

    Args:
        port: 0 takes a free one.

    Raises:
        BackendUnavailableError: The address cannot be listened on.
    """
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise BackendUnavailableError(
            f"the address cannot be listened on: {error.strerror}",
            where=f"{HOST}:{port}",
            hint="--port names another one",
        ) from error


def serve_until_interrupted(server: ThreadingHTTPServer, query: str = "") -> None:
    """Print the page's address and serve it until Ctrl-C.

    Args:
        query: What follows the path, such as `?token=…`.
    """
    address = f"{HOST}:{server.server_port}"
    typer.echo(f"http://{address}/{query} until Ctrl-C")
    forward = f"ssh -L {server.server_port}:{address} THIS_MACHINE"
    typer.echo(f"from another machine, the same address after: {forward}", err=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("", err=True)
