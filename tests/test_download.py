"""Downloads from a local server that breaks connections, sends wrong data and refuses."""

import fcntl
import os
import pathlib
import pty
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time

import pytest
from file_server import Answer, FileServer, served

from jaxcnn.convert import CheckpointError
from jaxcnn.errors import UserError
from jaxcnn.io import download
from jaxcnn.io.cache import cache_folder

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0, 0.0))
    with served(FileServer()) as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JAXCNN_CACHE", str(folder))
    return folder


def fetch(server, name) -> pathlib.Path:
    return download.download(server.url(name))


def refused(server, name, match) -> str:
    with pytest.raises(UserError, match=match) as caught:
        fetch(server, name)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- success


def test_file_is_downloaded_once_without_leftovers(server, cache):
    name = server.add(CONTENT)
    path = fetch(server, name)
    assert path == cache / name and path.read_bytes() == CONTENT
    assert fetch(server, name) == path
    assert len(server.requests) == 1 and names(cache) == [name]
    assert server.requests[0]["user-agent"].startswith("jaxcnn/")


def test_cached_file_needs_no_server_and_no_writable_cache(cache):
    cache.mkdir()
    (cache / "weights-00000000.pth").write_bytes(b"verified when downloaded")
    cache.chmod(0o500)  # root can write nevertheless, so check that nothing was written
    before = cache.stat().st_mtime_ns
    path = download.download("http://127.0.0.1:1/weights-00000000.pth")
    assert path.read_bytes() == b"verified when downloaded"
    assert names(cache) == [path.name] and cache.stat().st_mtime_ns == before


def test_query_is_not_part_of_the_name(server, cache):
    name = server.add(CONTENT)
    server.files[f"{name}?x=1-2.y"] = CONTENT
    assert download.download(f"{server.url(name)}?x=1-2.y").name == name


def test_file_without_content_length_is_complete(server, cache):
    server.answers.append(Answer(length=False))
    assert fetch(server, server.add(CONTENT)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"JAXCNN_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"JAXCNN_CACHE": "~/a"}, "/home/me/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/jaxcnn"),
        ({"JAXCNN_CACHE": "", "XDG_CACHE_HOME": "relative"}, "/home/me/.cache/jaxcnn"),
        ({}, "/home/me/.cache/jaxcnn"),
    ],
)
def test_cache_folder_follows_environment(environ, expected, monkeypatch):
    for key in ("JAXCNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {"HOME": "/home/me", **environ}.items():
        monkeypatch.setenv(key, value)
    assert cache_folder() == pathlib.Path(expected)


def test_progress_bar_is_shown_on_terminals_only(server, cache, monkeypatch, capsys):
    name = server.add(CONTENT)
    shutil.rmtree(fetch(server, name).parent)
    assert capsys.readouterr() == ("", "")
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 120))
    with open(reader, "rb", buffering=0) as screen:
        with open(writer, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            fetch(server, name)
            shown = b""
            while b"300k/300k" not in shown and select.select([screen], [], [], 5)[0]:
                shown += screen.read(10_000)
    assert name.encode() in shown and b"100%" in shown and b"300k/300k" in shown


# --- resuming


def test_broken_connection_resumes_within_a_call(server, cache):
    name = server.add(CONTENT)
    server.answers += [Answer(cut_after=100_000), Answer(cut_after=50_000)]
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert sum(server.sent) == len(CONTENT) and names(cache) == [name]


def test_next_call_requests_only_missing_bytes_after_retries_end(server, cache):
    name = server.add(CONTENT)
    server.answers += [Answer(cut_after=100_000)] + [Answer(cut_after=0)] * 3
    message = refused(server, name, "broke repeatedly")
    assert "100,000 bytes are kept" in message and "next call" in message
    assert names(cache) == [f"{name}.lock", f"{name}.part"]
    before = len(server.requests)
    assert before == 4
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.ranges[before:] == ["bytes=100000-"]
    assert server.requests[before]["if-range"] == server.etag
    assert server.sent[before:] == [200_000] and names(cache) == [name]


def test_progress_resets_the_retries(server, cache):
    server.answers += [Answer(cut_after=10_000)] * 20
    assert fetch(server, server.add(CONTENT)).read_bytes() == CONTENT
    assert len(server.requests) == 21


def test_retries_end_without_progress_and_ranges(server, cache):
    name = server.add(CONTENT)
    server.answers += [Answer(cut_after=10_000, ranges=False)] * 50
    refused(server, name, "broke repeatedly")
    assert len(server.requests) == 4


def test_silent_server_counts_as_broken_connection(server, cache, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
    name, gate = server.add(CONTENT), threading.Event()
    server.answers.append(Answer(cut_after=100_000, gate=gate))
    try:
        assert fetch(server, name).read_bytes() == CONTENT
    finally:
        gate.set()
    assert server.ranges == [None, "bytes=100000-"]


def test_temporary_server_error_is_retried(server, cache):
    name = server.add(CONTENT)
    server.answers += [Answer(cut_after=100_000), Answer(status=503)]
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=100000-"]


def leave_part(server, cache, content: bytes, size: int = 100_000) -> None:
    """Leave the start of a file, as a broken download does."""
    name = server.add(content)
    server.answers += [Answer(cut_after=size)] + [Answer(status=404)]
    refused(server, name, "404")
    assert (cache / f"{name}.part").read_bytes() == content[:size]
    server.requests.clear()
    server.sent.clear()


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (Answer(ranges=False), 1),  # sends the whole file, with status 200
        (Answer(shift=1), 2),
        (Answer(status=416), 2),
    ],
)
def test_server_without_resume_restarts_the_download(answer, requests, server, cache):
    leave_part(server, cache, CONTENT)
    name = server.add(CONTENT)
    server.answers.append(answer)
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-", None][:requests] and names(cache) == [name]


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_part_of_another_version_is_not_resumed(heeds_if_range, server, cache):
    leave_part(server, cache, CONTENT)
    name, new_name = server.add(CONTENT), server.add(OTHER)
    # The old part now has the name of a file with another content.
    for suffix in (".part", ".lock"):
        (cache / f"{name}{suffix}").rename(cache / f"{new_name}{suffix}")
    server.etag = '"2"'
    server.answers.append(Answer(heeds_if_range=heeds_if_range))
    assert fetch(server, new_name).read_bytes() == OTHER
    assert server.requests[0]["if-range"] == '"1"'
    assert server.ranges == (["bytes=100000-"] if heeds_if_range else ["bytes=100000-", None])


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_strong_etag_only_the_hash_is_checked(etag, server, cache):
    server.etag = etag
    leave_part(server, cache, CONTENT)
    assert fetch(server, server.add(CONTENT)).read_bytes() == CONTENT
    assert server.ranges == ["bytes=100000-"] and "if-range" not in server.requests[0]


def test_complete_part_is_not_downloaded_again(server, cache):
    name = server.add(CONTENT)
    cache.mkdir()
    (cache / f"{name}.part").write_bytes(CONTENT)
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.sent == [0] and names(cache) == [name]


# --- errors


def test_wrong_hash_raises_and_leaves_no_file(server, cache):
    name = server.add(CONTENT)
    server.files[name] = OTHER
    with pytest.raises(CheckpointError, match="sha256"):
        fetch(server, name)
    message = refused(server, name, "sha256")
    assert server.url(name) in message and "try again" in message
    assert names(cache) == []


def test_wrong_part_is_detected_and_downloaded_again(server, cache):
    name = server.add(CONTENT)
    cache.mkdir()
    (cache / f"{name}.part").write_bytes(OTHER[:1000])
    refused(server, name, "sha256")
    assert names(cache) == []
    assert fetch(server, name).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "words"), [(404, "check the address"), (403, "check the address"), (500, "")]
)
def test_http_error_raises_with_status(status, words, server, cache):
    name = server.add(CONTENT)
    server.answers.append(Answer(status=status))
    message = refused(server, name, f"HTTP status {status}")
    assert words in message and str(cache) in message
    assert len(server.requests) == 1 and names(cache) == []


def test_refused_connection_raises(cache):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/weights-00000000.pth"
        with pytest.raises(UserError, match=r"cannot be reached \(Connection refused\)"):
            download.download(url)
    assert names(cache) == []


def test_unknown_host_raises(cache):
    with pytest.raises(UserError, match="cannot be reached") as caught:
        download.download("http://nowhere.invalid/weights-00000000.pth")
    assert str(cache) in str(caught.value)


def test_server_timeout_raises(cache, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/weights-00000000.pth"
        with pytest.raises(UserError, match=r"cannot be reached \(timed out\)"):
            download.download(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/weights.pth",
        "https://example.org/weights-1234567.pth",
        "https://example.org/weights-0123456G.pth",
        "ftp://example.org/weights-01234567.pth",
        "file:///tmp/weights-01234567.pth",
        "weights-01234567.pth",
        "https://example.org/..\\weights-01234567.pth",
    ],
)
def test_url_without_hash_raises(url, cache):
    with pytest.raises(UserError, match="NAME-HEX"):
        download.download(url)
    assert not cache.exists()


@pytest.mark.parametrize("host", ["127.0.0.1:port", "[::1", "a..b"])
def test_invalid_host_raises(host, cache):
    with pytest.raises(UserError, match="cannot be reached"):
        download.download(f"http://{host}/weights-01234567.pth")


def test_too_little_disk_space_raises_before_writing(server, cache, monkeypatch):
    usage = shutil.disk_usage(cache.parent)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = refused(server, server.add(CONTENT), "needs 0.3 MB")
    assert str(cache) in message and "JAXCNN_CACHE" in message and names(cache) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_raises(server, cache):
    name = server.add(CONTENT)
    cache.mkdir()
    (cache / f"{name}.part").symlink_to("/dev/full")
    message = refused(server, name, "no space left")
    assert str(cache) in message and not (cache / name).exists()
    (cache / f"{name}.part").unlink(missing_ok=True)
    assert fetch(server, name).read_bytes() == CONTENT


def test_short_write_raises_and_resumes(server, cache):
    name = server.add(CONTENT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 1, limits[1]))
    try:
        refused(server, name, r"cannot be used for downloads \(File too large\)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=299999-"]


def test_unwritable_cache_raises(server, cache):
    cache.write_text("a file is in the way")
    assert str(cache) in refused(server, server.add(CONTENT), "choose another folder")
    assert server.requests == []


# --- several processes

CALL = """
import sys
from jaxcnn.io.download import download
print("ready", flush=True)
print(download(sys.argv[1]).stat().st_size, flush=True)
"""


def start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CALL, url], stdout=subprocess.PIPE, text=True)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def test_two_processes_download_once(server, cache):
    name, gate = server.add(CONTENT), threading.Event()
    part = cache / f"{name}.part"
    server.answers.append(Answer(cut_after=100_000, gate=gate))
    with start(server.url(name)) as first, start(server.url(name)) as second:
        # One downloads and the other waits for the lock.
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        wait_for(lambda: part.exists() and part.stat().st_size == 100_000)
        time.sleep(0.3)
        assert len(server.requests) == 1
        gate.set()
        assert [p.communicate(timeout=60)[0] for p in (first, second)] == ["300000\n"] * 2
        assert first.returncode == second.returncode == 0
    assert server.sent == [len(CONTENT)] and names(cache) == [name]


def test_download_of_a_killed_process_is_resumed(server, cache):
    name, gate = server.add(CONTENT), threading.Event()
    part = cache / f"{name}.part"
    server.answers.append(Answer(cut_after=100_000, gate=gate))
    with start(server.url(name)) as process:
        wait_for(lambda: part.exists() and part.stat().st_size == 100_000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    gate.set()
    assert names(cache) == [f"{name}.lock", f"{name}.part"]
    assert fetch(server, name).read_bytes() == CONTENT
    assert server.ranges[1:] == ["bytes=100000-"] and server.sent[1:] == [200_000]
    assert names(cache) == [name]


def test_concurrent_threads_download_once(server, cache):
    name = server.add(CONTENT)
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server, name))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [cache / name] * 8
    assert server.sent == [len(CONTENT)] and names(cache) == [name]


def test_lock_on_deleted_file_does_not_count(tmp_path, monkeypatch):
    path, tries, entered = tmp_path / "lock", [], threading.Event()
    try_lock = download._try_lock
    monkeypatch.setattr(download, "_try_lock", lambda file: tries.append(0) or try_lock(file))

    def enter() -> None:
        with download._locked(path):
            entered.set()

    waiting = threading.Thread(target=enter)
    with download._locked(path):
        waiting.start()
        wait_for(lambda: len(tries) >= 2)
        path.unlink()
        successor = open(path, "w")
        fcntl.flock(successor, fcntl.LOCK_EX)
    with successor:
        before = len(tries)
        wait_for(lambda: entered.is_set() or len(tries) >= before + 3)
        assert not entered.is_set()
    waiting.join()
    assert entered.is_set()
