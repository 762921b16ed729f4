"""A web server that answers as badly as it is told to."""

import dataclasses
import hashlib
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar


@dataclasses.dataclass
class Answer:
    """How one request is answered.

    Attributes:
        status: of an error; None: the file is sent.
        cut_after: bytes of the body after which the connection is closed; None: it is whole.
        gate: waited for when ``cut_after`` bytes (none: 0) are sent, before the rest is.
        ranges: whether a Range is heeded.
        heeds_if_range: whether an If-Range is.
        shift: by how much the range begins too late.
        length: whether Content-Length is sent.
    """

    status: int | None = None
    cut_after: int | None = None
    gate: threading.Event | None = None
    ranges: bool = True
    heeds_if_range: bool = True
    shift: int = 0
    length: bool = True


class FileServer(ThreadingHTTPServer):
    """Serves ``files`` and keeps account.

    Attributes:
        files: contents by name.
        etag: of all files; None: not sent.
        answers: for the next requests; when they are used up, requests are answered properly.
        requests: the headers of each request, in order.
        sent: bytes of the body sent for each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"1"'
        self.answers: deque[Answer] = deque()
        self.requests: list[dict[str, str]] = []
        self.sent: list[int] = []

    def add(self, content: bytes, stem: str = "weights") -> str:
        """Serves the content under a name with its hash, which is returned."""
        name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
        self.files[name] = content
        return name

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/{name}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range of each request."""
        return [headers.get("range") for headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        answer = server.answers.popleft() if server.answers else Answer()
        headers = {key.lower(): value for key, value in self.headers.items()}
        index = len(server.requests)
        server.requests.append(headers)
        server.sent.append(0)
        content = server.files.get(self.path.rpartition("/")[2])
        if answer.status or content is None:
            self.send_error(answer.status or 404)
            return

        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        fresh = headers.get("if-range") in (None, server.etag) or not answer.heeds_if_range
        if asked and answer.ranges and fresh:
            start = int(asked[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start += answer.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if answer.length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag is not None:
            self.send_header("ETag", server.etag)
        self.end_headers()
        try:
            if answer.gate is not None:
                self._send(index, body[: answer.cut_after or 0])
                answer.gate.wait(60)
                self._send(index, body[answer.cut_after or 0 :])
            else:
                self._send(index, body[: answer.cut_after])
        except ConnectionError:  # the client has gone
            pass

    def _send(self, index: int, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent[index] += len(data)

    def log_message(self, *args: object) -> None:
        pass


S = TypeVar("S", bound=ThreadingHTTPServer)


@contextmanager
def served(server: S) -> Iterator[S]:
    """Runs a server while it is needed."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
