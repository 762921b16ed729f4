"""Paths in buckets, ``gs://`` and ``s3://``, through fsspec (gcsfs, s3fs).

A bucket is not a disk. An object appears completely or not at all, and is replaced the same way;
but there are no folders (a folder is a prefix of names), nothing can be appended to an object, and
a "folder" of several objects cannot be renamed or written in one step. What needs such a step says
so with an object that is written last (see :mod:`jaxcnn.training.checkpoint_folder`).

Everything that can go wrong is an ``OSError`` with a ``strerror``, as it is on a disk.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils.epath.gpath import PosixGPath

from jaxcnn.errors import UserError, missing_package, one_sentence

# The package for a kind of URL; it is an extra of this one by the name of the second.
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_CONNECT_SECONDS, _SILENCE_SECONDS = 20, 30  # until a request is given up, and tried again
_REFUSED = (errno.EACCES, errno.EPERM)


class BucketPath(PosixGPath):
    """A path in a bucket, with the methods of ``pathlib.Path`` that this package uses.

    Raises:
        OSError: by all methods that reach the bucket.

    Example::

        path = BucketPath("gs://bucket/runs/a") / "config.json"
        path.write_bytes(b"{}")
    """

    @classmethod
    def named(cls, url: str) -> "BucketPath":
        """The path of a URL; the UserError comes here, and not at the first use."""
        path = cls(url)
        package, extra = _PACKAGES[path._uri_scheme]
        if importlib.util.find_spec(package) is None:
            raise missing_package(url, package, extra)
        if not path.bucket:
            raise UserError(f"{url} names no bucket; give {path._uri_scheme}://BUCKET/FOLDER.")
        return path

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self.parts[2] if len(self.parts) > 2 else ""

    @property
    def _fs(self) -> Any:
        return _file_system(self._uri_scheme)

    def exists(self) -> bool:
        """Whether there is such an object, or one whose name goes on after a slash."""
        with _translated(self):
            return self._fs.exists(str(self))

    def is_dir(self) -> bool:
        """Whether there are objects whose names go on after a slash."""
        with _translated(self):
            return self._fs.isdir(str(self))

    def is_file(self) -> bool:
        """Whether there is such an object."""
        with _translated(self):
            return self._fs.isfile(str(self))

    def mkdir(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a bucket has no folders."""

    def resolve(self, strict: bool = False) -> "BucketPath":
        """The path itself."""
        return self

    def read_bytes(self) -> bytes:
        """The content of an object."""
        with _translated(self):
            return self._fs.cat_file(str(self))

    def read_range(self, start: int, end: int) -> bytes:
        """The bytes of an object from ``start`` to before ``end``."""
        with _translated(self):
            return self._fs.cat_file(str(self), start=start, end=end)

    def open(self, mode: str = "rb", **kwargs: Any) -> Any:
        """The content of an object as a file that is read, ``mode="rb"``."""
        if mode != "rb":
            raise ValueError(f"mode={mode!r}: only 'rb' is available in a bucket")
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, content: bytes) -> int:
        """Replace an object, completely or not at all."""
        with _translated(self, writing=True):
            self._fs.pipe_file(str(self), content)
        return len(content)

    def create(self, content: bytes) -> None:
        """Write a new object.

        Raises:
            FileExistsError: if there is one already; of several who try, one succeeds.
            OSError: if it cannot be written.
        """
        with _translated(self, writing=True):
            self._fs.pipe_file(str(self), content, mode="create")

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object."""
        with contextlib.suppress(*((FileNotFoundError,) if missing_ok else ())):
            with _translated(self):
                self._fs.rm_file(str(self))

    def folders(self) -> list[str]:
        """The names between this one and the next slash."""
        return [name for name, kind in self._entries() if kind == "directory"]

    def iterdir(self) -> Iterator["BucketPath"]:
        """The objects and the folders below this one."""
        for name, _ in self._entries():
            yield self / name

    def _entries(self) -> list[tuple[str, str]]:
        try:
            with _translated(self):
                found = self._fs.ls(str(self), detail=True)
        except FileNotFoundError:
            return []
        own = str(self).partition("://")[2].rstrip("/")
        names = ((entry["name"].rstrip("/"), entry["type"]) for entry in found)
        return [(name.rpartition("/")[2], kind) for name, kind in names if name != own]

    def sizes(self) -> dict[str, int]:
        """The bytes of all objects below this one, by their paths from here."""
        try:
            with _translated(self):
                found = self._fs.find(str(self), detail=True)
        except FileNotFoundError:
            return {}
        start = len(str(self).partition("://")[2].rstrip("/")) + 1
        return {name[start:]: entry["size"] for name, entry in found.items() if name[start:]}

    def version(self) -> str:
        """What changes when an object is replaced: its size, time and checksum."""
        with _translated(self):
            info = self._fs.info(str(self))
        keys = ("size", "generation", "md5Hash", "ETag", "etag", "updated", "LastModified")
        return " ".join(str(info[key]) for key in keys if key in info)

    def size(self) -> int:
        """The bytes of an object."""
        with _translated(self):
            return self._fs.info(str(self))["size"]

    def rmtree(self, missing_ok: bool = False) -> None:
        """Delete all objects below this one."""
        # Twice: a deletion whose answer was lost is tried again, and finds nothing.
        for suppressed in ((FileNotFoundError,), ()):
            with contextlib.suppress(*suppressed), _translated(self):
                if names := self.sizes():
                    self._fs.rm([str(self / name) for name in names])

    def copy_folder(self, target: "BucketPath") -> None:
        """Copy all objects below this one within the bucket's service."""
        names = list(self.sizes())
        with _translated(self, writing=True):
            self._fs.copy(
                [str(self / name) for name in names], [str(target / name) for name in names]
            )

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Write files of a local folder below this path, and check that all have arrived.

        Raises:
            OSError: if one cannot be written; some may have been.
        """
        names = list(names)
        with _translated(self, writing=True):
            self._fs.put([str(folder / name) for name in names], [str(self / n) for n in names])
        arrived = self.sizes()
        for name in names:
            if arrived.get(name) != (folder / name).stat().st_size:
                raise _failure(errno.ECONNABORTED, f"{name} did not arrive completely", self)

    def download(self, folder: Path) -> None:
        """Write all objects below this path to a local folder."""
        names = list(self.sizes())
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with _translated(self):
            self._fs.get([str(self / n) for n in names], [str(folder / name) for name in names])


@contextlib.contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Raise what a library that reads a bucket raises within the block as an OSError."""
    with _translated(path):
        yield


_lock = threading.Lock()


def _file_system(scheme: str) -> Any:
    with _lock:  # of several threads one makes it
        return _new_file_system(scheme)


@functools.cache
def _new_file_system(scheme: str) -> Any:
    import fsspec

    options: Mapping[str, Any]
    if scheme == "gs":
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS
        )
        options = {"requests_timeout": timeout}
    else:
        options = {
            "config_kwargs": {
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _SILENCE_SECONDS,
                "retries": {"max_attempts": 2},  # and s3fs tries several times
            }
        }
    # Errors are raised as well.
    logging.getLogger(_PACKAGES[scheme][0]).setLevel(logging.CRITICAL)
    return fsspec.filesystem(scheme, use_listings_cache=False, **options)


_failed_at: float | None = None  # of the last request, if it failed for the network


def is_unreachable() -> bool:
    """Whether the last request was given up a moment ago: what can be left out, then should be."""
    return _failed_at is not None and time.monotonic() - _failed_at < 60


@contextlib.contextmanager
def _translated(path: Any, *, writing: bool = False) -> Iterator[None]:
    global _failed_at
    try:
        yield
        _failed_at = None
    except UserError:
        raise
    except Exception as error:  # of many types: of fsspec, aiohttp, botocore, google.auth
        raise _as_os_error(error, path, writing) from error


def _as_os_error(error: Exception, path: Any, writing: bool) -> OSError:
    text = re.sub(r'( URL)?: "https?://[^"]*"', "", one_sentence(error))  # botocore's, long
    text = re.sub(r"\s+", " ", text).rstrip(".")[:200] or type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        text = f"no answer within {_SILENCE_SECONDS} seconds, several times"
    if isinstance(error, FileExistsError):
        return _failure(errno.EEXIST, os.strerror(errno.EEXIST), path)
    if isinstance(error, FileNotFoundError):
        if writing or "bucket" in text:
            bucket = re.sub(r"(://[^/]*).*", r"\1", str(path))
            return _failure(errno.ENOENT, f"there is no bucket {bucket}", path)
        return _failure(errno.ENOENT, os.strerror(errno.ENOENT), path)
    code = str(getattr(error, "code", ""))
    forbidden = isinstance(error, PermissionError) or text.startswith("Forbidden")
    credentials = "Credentials" in type(error).__name__ or "RefreshError" in type(error).__name__
    if forbidden or credentials or code in ("401", "403"):
        reason = text if credentials else f"access denied: {_without_url(text)}"
        return _failure(errno.EACCES, reason, path)
    global _failed_at
    _failed_at = time.monotonic()
    # Not EIO, which a disk says of a file that is damaged.
    return _failure(errno.ECONNABORTED, text, path)


def _without_url(text: str) -> str:
    return re.sub(r"https?://[^/\s]+", "", text)


def _failure(code: int, reason: str, path: Any) -> OSError:
    return OSError(code, reason, str(path))
