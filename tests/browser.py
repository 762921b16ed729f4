"""Opening a page in a real, headless Chromium, through its DevTools protocol."""

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--no-first-run", "--remote-debugging-pipe"),
)
PATIENCE = 120  # seconds


@dataclasses.dataclass
class Page:
    """What happened when a page was opened.

    Attributes:
        requests: the addresses that it asked for, without its own and data within it.
        errors: what the console shows as errors.
        images: the ``naturalWidth`` of each image: 0 if it is broken.
        values: of the expressions that were asked for.
    """

    requests: list[str]
    errors: list[str]
    images: list[int]
    values: list[Any]


def open_page(path: pathlib.Path, tmp_path: pathlib.Path, *expressions: str) -> Page:
    """Open a file, and evaluate JavaScript expressions in it.

    Skips the test where there is no Chromium, or fails it under JAXCNN_REQUIRE_BROWSER=1.
    """
    if CHROMIUM is None:
        if os.environ.get("JAXCNN_REQUIRE_BROWSER") == "1":
            pytest.fail("Chromium is not installed (apt-get install chromium)")
        pytest.skip("Chromium is not installed")
    address = path.resolve().as_uri()
    with _devtools(tmp_path / "profile") as browser:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Log", "Runtime", "Page"):
            browser.call(f"{domain}.enable", session)
        browser.call("Page.navigate", session, url=address)
        browser.wait_for("Page.loadEventFired")
        values = [browser.evaluate(session, expression) for expression in expressions]
        decoded = "Promise.all(Array.from(document.images, i => i.decode().catch(() => 0)))"
        images = browser.evaluate(
            session, f"{decoded}.then(() => Array.from(document.images, i => i.naturalWidth))"
        )
        browser.call("Browser.close")
        requests = [
            parameters["request"]["url"]
            for method, parameters in browser.events
            if method == "Network.requestWillBeSent"
        ]
        errors = [
            json.dumps(parameters)
            for method, parameters in browser.events
            if method == "Runtime.exceptionThrown"
            or (method == "Log.entryAdded" and parameters["entry"]["level"] == "error")
            or (method == "Runtime.consoleAPICalled" and parameters["type"] == "error")
        ]
    foreign = [url for url in requests if url != address and not url.startswith("data:")]
    return Page(foreign, errors, images, values)


class _DevTools:
    """Messages are JSON that ends with a zero byte."""

    def __init__(self, reading: int, writing: int):
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._reading, self._writing = reading, writing
        self._buffer, self._number = b"", 0
        self._answers: dict[int, dict[str, Any]] = {}

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while self._number not in self._answers:
            self._receive()
        answer = self._answers.pop(self._number)
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, session: str, expression: str) -> Any:
        answer = self.call(
            "Runtime.evaluate",
            session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        return answer["result"].get("value")

    def wait_for(self, method: str) -> None:
        while not any(name == method for name, _ in self.events):
            self._receive()

    def _receive(self) -> None:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reading], [], [], max(0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            received = os.read(self._reading, 1 << 16)
            assert received, "Chromium has ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        content = json.loads(message)
        if "id" in content:
            self._answers[content["id"]] = content
        else:
            self.events.append((content["method"], content["params"]))


@contextlib.contextmanager
def _devtools(profile: pathlib.Path) -> Iterator[_DevTools]:
    """Start Chromium, which reads commands from file descriptor 3 and answers on 4."""
    commands, writing = os.pipe()
    reading, answers = os.pipe()
    # The shell gives the pipes their numbers.
    redirections = f"3<&{commands} 4>&{answers}"
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {redirections}', "bash"]
        + [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(commands, answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        yield _DevTools(reading, writing)
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
