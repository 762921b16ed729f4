"""Manifests: what the files of a folder contain, and which arrays are stored in them.

A manifest is a JSON file in the folder itself, written last: the size and SHA-256 of every other
file, the shape, dtype and SHA-256 of every array (taken in memory, before anything was written),
the step, and the SHA-256 of all this. Whatever changes in the folder or in the manifest, the two
no longer agree.
"""

import dataclasses
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import CheckpointError
from jaxcnn.io.atomic import atomic_write

MANIFEST = "manifest.json"
_FORMAT = 1
_LARGEST = 1 << 28  # bytes of a manifest; those of large networks have less than one million
# What the system says of a file that is damaged or not there; anything else, such as a lost mount
# or a lack of permission, says nothing about the file.
_DAMAGE = {errno.EIO, errno.EBADMSG, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}
_DAMAGE |= {getattr(errno, "EUCLEAN", errno.EIO)}


# What file managers and network disks leave in a folder that somebody looks at.
_OF_THE_SYSTEM = re.compile(
    r"(^|/)(\.DS_Store|Thumbs\.db|desktop\.ini|\._.*|\.nfs.*|\.fuse_hidden.*)$"
)


class DamagedError(CheckpointError):
    """A folder that is not what its manifest says; the message is a clause that says why."""


@dataclasses.dataclass(frozen=True)
class File:
    """The size in bytes and the SHA-256 of a file."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Array:
    """Shape, dtype and the SHA-256 of an array's elements in row-major order."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder contains.

    Attributes:
        step: of the checkpoint.
        files: by their path in the folder, with ``/``.
        arrays: by their path in the tree, with ``/``.
    """

    step: int
    files: Mapping[str, File]
    arrays: Mapping[str, Array]


def summarize(array: Any) -> Array:
    """The shape, dtype and SHA-256 of an array or a scalar."""
    array = np.asarray(array)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return Array(array.shape, array.dtype.name, hashlib.sha256(content.data).hexdigest())


def write_manifest(folder: Path, step: int, arrays: Mapping[str, Array]) -> None:
    """Hash the files of a folder, and write its manifest, completely or not at all.

    Everything is on the disk when this returns, and not only in the system's memory.

    Args:
        folder: with all its files.
        step: of the checkpoint.
        arrays: from :func:`summarize`, before the files were written.

    Raises:
        OSError: if a file cannot be read or the manifest cannot be written.
    """
    files = {name: _summarize_file(folder / name, sync=True) for name in sorted(_files(folder))}
    content = _dump(Manifest(step, files, arrays))
    with atomic_write(folder / MANIFEST) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    for path, _, _ in os.walk(folder):
        sync_folder(path)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        DamagedError: if it is missing or damaged.
        CheckpointError: if a newer version wrote it.
        OSError: if it cannot be read for another reason.
    """
    try:
        if _size(folder / MANIFEST) > _LARGEST:
            raise DamagedError(f"{MANIFEST} is damaged")
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise _damage(error, MANIFEST) from error
    try:
        entries = json.loads(content)
        checksum = entries.pop("sha256")
        if content != _json(entries | {"sha256": checksum}) or checksum != _checksum(entries):
            raise DamagedError(f"{MANIFEST} is damaged")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} is damaged") from error
    if entries["format"] != _FORMAT:
        raise CheckpointError(
            f"{folder / MANIFEST} is from a newer version of jaxcnn; use that version."
        )
    arrays = {
        name: Array(tuple(entry["shape"]), entry["dtype"], entry["sha256"])
        for name, entry in entries["arrays"].items()
    }
    files = {name: File(**entry) for name, entry in entries["files"].items()}
    return Manifest(entries["step"], files, arrays)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Check that a folder contains the files of its manifest, and no other.

    Raises:
        DamagedError: if it does not; the message names the first file that is wrong.
        OSError: if a file cannot be read for another reason than damage.
    """
    try:
        found = _files(folder)
    except OSError as error:
        raise _damage(error, str(error.filename or folder)) from error
    for name, expected in manifest.files.items():
        if name not in found:
            raise DamagedError(f"{name} is missing")
        try:
            size = _size(folder / name)
            if size != expected.bytes:
                raise DamagedError(f"{name} has {size:,} bytes instead of {expected.bytes:,}")
            if _summarize_file(folder / name) != expected:
                raise DamagedError(f"the content of {name} has changed (SHA-256)")
        except OSError as error:
            raise _damage(error, name) from error
    others = (name for name in found - manifest.files.keys() if not _OF_THE_SYSTEM.search(name))
    if extra := sorted(others):
        raise DamagedError(f"{extra[0]} does not belong to it")


def verify_arrays(arrays: Mapping[str, Any], manifest: Manifest) -> None:
    """Check that arrays are those that a manifest was written for.

    Raises:
        DamagedError: if they are not; the message names the first array that is wrong.
    """
    for name in sorted(manifest.arrays.keys() | arrays.keys()):
        if name not in arrays:
            raise DamagedError(f"the array {name} is missing")
        if name not in manifest.arrays:
            raise DamagedError(f"the array {name} does not belong to it")
        if summarize(arrays[name]) != manifest.arrays[name]:
            raise DamagedError(f"the array {name} has changed (SHA-256)")


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Have the names in a folder written to the disk."""
    if os.name == "nt":  # which cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> set[str]:
    """The paths of all that is in a folder but its manifest and its own folders."""

    def fail(error: OSError) -> None:
        raise error

    found = set()
    for path, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        for name in names + links:
            found.add(Path(path, name).relative_to(folder).as_posix())
    return found - {MANIFEST}


def _size(path: Path) -> int:
    """The size of a file in bytes; what is not a file, such as a pipe, is damage."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{path.name} is not a file")
    return status.st_size


def _summarize_file(path: Path, *, sync: bool = False) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return File(file.tell(), digest)


def _damage(error: OSError, name: str) -> Exception:
    if error.errno == errno.ENOENT:
        return DamagedError(f"{name} is missing")
    if error.errno in _DAMAGE:
        return DamagedError(f"{name} cannot be read ({error.strerror})")
    return error


def _dump(manifest: Manifest) -> bytes:
    entries = {"format": _FORMAT} | dataclasses.asdict(manifest)
    return _json(entries | {"sha256": _checksum(entries)})


def _checksum(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(entries)).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
