"""Downloads into the cache: each file once, complete and verified, or not at all."""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

import jaxcnn
from jaxcnn.errors import CheckpointError, UserError
from jaxcnn.io.cache import cache_folder

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    fcntl = None

# Seconds to wait before each retry after the connection broke.
_PAUSES = (1.0, 2.0, 4.0, 8.0)
# Seconds without a byte after which a connection counts as broken.
_TIMEOUT = 30.0
_CHUNK = 2**20
# Its groups are the file's name and the digits of the hash.
_URL = re.compile(r"https?://[^?#]*/([^/\\?#]*-([0-9a-f]{8,64})\.[^-/\\?#]+)([?#].*)?")


class _BrokenError(Exception):
    """The connection broke, or was never made; the part received so far is kept.

    Args:
        reason: what went wrong, as a phrase for brackets.
        connected: whether part of the file was being received.
    """

    def __init__(self, reason: str, connected: bool):
        super().__init__(reason)
        self.connected = connected


def download(url: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Download a file whose name ends in the first digits of its sha256, or find it in the cache.

    A cached file is used without contacting the server. A new one is written to ``NAME.part``,
    and renamed only when it is complete, has the right hash and is flushed to disk. If the
    connection breaks, the missing part is requested again, a few times within this call and then
    by the next call. If several processes want the same file, one downloads it and the others
    wait. Proxies are taken from the environment (``https_proxy``). A progress bar is shown if
    stderr is a terminal.

    Args:
        url: ``http`` or ``https``; the file's name is ``NAME-HEX.EXTENSION``, with 8 or more
            hexadecimal digits.
        folder: of the cache; None: :func:`cache_folder`.

    Returns:
        The path of the file, ``folder/NAME-HEX.EXTENSION``.

    Raises:
        CheckpointError: if the downloaded file has another hash; it is deleted.
        UserError: if the URL is not of this form, or the server, the network or the disk fails.

    Example::

        path = download("https://download.pytorch.org/models/resnet18-f37072fd.pth")
    """
    found = _URL.fullmatch(url)
    if not found:
        raise UserError(
            f"{url} must be http(s)://.../NAME-HEX.EXTENSION, where HEX is the start of the file's "
            f"sha256, so that the download can be verified; download it by other means and give "
            f"its path."
        )
    name, digits = found[1], found[2]
    path = (cache_folder() if folder is None else Path(folder)) / name
    part = path.with_name(f"{name}.part")
    try:
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(f"{name}.lock")) as lock:
            try:
                if not path.is_file():  # another process may have fetched it while we waited
                    _fetch(url, part, lock)
                    _verify(url, part, digits)
                    os.replace(part, path)
            finally:
                with contextlib.suppress(OSError):
                    if part.stat().st_size == 0:
                        part.unlink()
                if not part.exists():
                    with contextlib.suppress(OSError):  # Windows deletes no file that is open
                        os.unlink(lock.name)
    except OSError as error:  # of the disk: those of the network have been converted
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"There is no space left in {path.parent} for {name}; make room, or choose another "
                f"folder with JAXCNN_CACHE (the part received so far is kept in {part.name})."
            ) from error
        raise UserError(
            f"{path.parent} cannot be used for downloads ({error.strerror}); choose another folder "
            f"with JAXCNN_CACHE."
        ) from error
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Hold a lock that ends, at the latest, with the process; yield the locked file."""
    while True:
        with open(path, "a+b", buffering=0) as file:
            _lock(file)
            # The previous holder may have deleted the file, and a third process may hold a lock
            # on a new one: only a lock on the file at this path counts.
            try:
                current = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                current = False
            if current:
                yield file
                return


def _lock(file: BinaryIO) -> None:
    reported = not _terminal()
    while not _try_lock(file):
        if not reported:
            print(f"Waiting for another process, which holds {file.name}.", file=sys.stderr)
            reported = True
        time.sleep(0.1)


def _try_lock(file: BinaryIO) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            # A byte far beyond the end, because on Windows nobody can read locked bytes.
            file.seek(2**30)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _fetch(url: str, part: Path, lock: BinaryIO) -> None:
    """Complete the part, over as many connections as it takes, and flush it to disk."""
    # Unbuffered, so that a full disk raises where a chunk is written and nowhere else.
    with open(part, "ab", buffering=0) as file:
        farthest = file.seek(0, os.SEEK_END)
        connected, pauses = False, iter(_PAUSES)
        while True:
            try:
                _receive(url, file, lock)
                break
            except _BrokenError as error:
                connected = connected or error.connected
                if not connected:
                    raise UserError(
                        f"{url} cannot be reached ({error}); check the network and its proxy, or "
                        f"put the file into {part.parent} yourself."
                    ) from error
                size = file.seek(0, os.SEEK_END)
                if size > farthest:
                    farthest, pauses = size, iter(_PAUSES)
                pause = next(pauses, None)
                if pause is None:
                    raise UserError(
                        f"The connection for {url} broke repeatedly ({error}); {size:,} bytes are "
                        f"kept, and the next call continues from there."
                    ) from error
                time.sleep(pause)
        os.fsync(file.fileno())


def _receive(url: str, file: BinaryIO, lock: BinaryIO) -> None:
    """Request the rest of the part and append it; start over if the part is of another file."""
    size = file.seek(0, os.SEEK_END)
    lock.seek(0)
    validator = lock.read().decode("latin-1")
    headers = {"User-Agent": f"jaxcnn/{jaxcnn.__version__}"}
    if size:
        headers["Range"] = f"bytes={size}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and size:
            if error.headers.get("Content-Range") == f"bytes */{size}":
                return  # the part was complete already
            file.truncate(0)
            return _receive(url, file, lock)
        if error.code >= 500:  # the server's problem, which may be temporary
            raise _BrokenError(f"HTTP status {error.code} {error.reason}", False) from error
        raise UserError(
            f"{url} was refused with HTTP status {error.code} {error.reason}; check the address, "
            f"or put the file into {os.path.dirname(file.name)} yourself."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _BrokenError(_reason(reason), False) from error
    with response:
        if response.status == 206 and size:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            same_file = _validator(response.headers) in ("", validator) or not validator
            if not start or int(start[1]) != size or not same_file:
                file.truncate(0)
                return _receive(url, file, lock)
        else:
            if size:
                file.truncate(0)
                size = 0
            lock.truncate(0)
            lock.write(_validator(response.headers).encode("latin-1"))
        _append(response, file, size)


def _validator(headers: Message) -> str:
    """What identifies this version of the file in If-Range; or an empty string."""
    tag = headers.get("ETag", "")
    if tag and not tag.startswith("W/"):  # a weak one does not guarantee every byte
        return tag
    return headers.get("Last-Modified", "")


def _append(response: http.client.HTTPResponse, file: BinaryIO, size: int) -> None:
    path = Path(file.name)
    missing = response.length  # None: the server does not say
    free = shutil.disk_usage(path.parent).free
    if missing is not None and free < missing:
        raise UserError(
            f"{path.stem} needs {missing / 1e6:,.1f} MB more and {path.parent} has "
            f"{free / 1e6:,.1f} MB left; make room, or choose another folder with JAXCNN_CACHE."
        )
    received = 0
    with tqdm(
        total=None if missing is None else size + missing,
        initial=size,
        desc=path.stem,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        disable=not _terminal(),
    ) as bar:
        while True:
            try:
                # At most one read of the socket: received bytes are never lost to a timeout.
                chunk = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(_reason(error), True) from error
            if not chunk:
                break
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
            received += len(chunk)
            bar.update(len(chunk))
    if missing is not None and received < missing:
        raise _BrokenError(f"{missing - received:,} bytes were still missing", True)


def _verify(url: str, part: Path, digits: str) -> None:
    with open(part, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(digits):
        part.unlink()
        raise CheckpointError(
            f"The file from {url} has a sha256 that starts with {actual[: len(digits)]} instead of "
            f"{digits}, and was deleted; try again, and if this happens again, look for something "
            f"that changes it on the way (a proxy, or a login page of the network)."
        )


def _terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _reason(error: object) -> str:
    """What went wrong, as a phrase for brackets."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
