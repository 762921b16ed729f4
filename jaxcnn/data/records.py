"""Record files, read in any order."""

import bisect
import contextlib
import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.io.cache import cache_folder
from jaxcnn.io.paths import as_path, in_bucket

_WORTH_CACHING = 1000  # records in a file
_BLOCK = 8 << 20  # bytes that are read at once to find the records of a file in a bucket
_SCAN_THREADS = 4  # more would hide the latency of a network, but contend for the GIL


class RecordFile(Protocol):
    """One file of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes:
        """Read a record; ValueError if the file's format notices that it is damaged."""
        ...


class _TFRecordFile:
    """Records of a TFRecord file: length (8 bytes), its checksum (4), data, its checksum (4).

    The file is opened for each record: a process may not be able to keep a thousand shards open.
    """

    def __init__(self, path: str):
        self._path = path
        stat = os.stat(path)
        key = f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
        self._offsets = _cached_offsets(key, stat.st_size)
        if self._offsets is None:
            with open(path, "rb", buffering=0) as file:
                self._offsets = _offsets(
                    lambda start, size: os.pread(file.fileno(), size, start), path, stat.st_size
                )
            if len(self) >= _WORTH_CACHING:
                _cache_offsets(key, self._offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, end = int(self._offsets[index]) + 12, int(self._offsets[index + 1]) - 4
        with open(self._path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)


class _BucketTFRecordFile:
    """Records of a TFRecord file in a bucket, each of them read by a request of its own.

    Where they start is found by reading the file once.
    """

    def __init__(self, path: str):
        self._path = as_path(path)
        size = self._path.size()
        key = f"{path} {self._path.version()}"
        self._offsets = _cached_offsets(key, size)
        if self._offsets is None:
            self._offsets = _offsets(_Blocks(self._path).read, path, size)
            _cache_offsets(key, self._offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, end = int(self._offsets[index]) + 12, int(self._offsets[index + 1]) - 4
        return self._path.read_range(start, end)


class _Blocks:
    """An object in a bucket, read from its start to its end in large blocks."""

    def __init__(self, path: Any):
        self._path, self._start, self._block = path, 0, b""

    def read(self, start: int, size: int) -> bytes:
        """Bytes that may be fewer at the end of the object."""
        first = start - self._start
        if not 0 <= first <= len(self._block) - size:
            self._start, self._block = start, self._path.read_range(start, start + _BLOCK)
            first = 0
        return self._block[first : first + size]


def _offsets(read: Callable[[int, int], bytes], path: str, size: int) -> np.ndarray:
    """Where the records of a TFRecord file start, and where the last one ends.

    Args:
        read: from a start, so many bytes.
        path: of the file, for errors.
        size: of the file in bytes.
    """
    offsets, offset = [], 0
    while offset < size:
        header = read(offset, 8)
        length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
        end = offset + 12 + length + 4
        if end > size:
            raise UserError(
                f"The file {path} is damaged: its record {len(offsets)} ends past the end "
                f"of the file; prepare the dataset again."
            )
        offsets.append(offset)
        offset = end
    return np.array([*offsets, offset], np.int64)


def _cache_path(key: str) -> Path:
    return cache_folder() / "records" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def _cached_offsets(key: str, size: int) -> np.ndarray | None:
    """The offsets that an earlier process found; reading the header of each record is slow."""
    try:
        offsets = np.load(_cache_path(key))
    except (OSError, ValueError, EOFError, UserError):  # none, or no cache folder
        return None
    valid = offsets.dtype == np.int64 and offsets.ndim == 1 and offsets[-1:] == [size]
    return offsets if valid else None


def _cache_offsets(key: str, offsets: np.ndarray) -> None:
    with contextlib.suppress(OSError, UserError):  # they can be found again
        path = _cache_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, offsets)


class _ArrayRecordFile:
    """Records of an ArrayRecord file, which checks what it reads.

    The file stays open from the first record on.
    """

    def __init__(self, path: str):
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        if in_bucket(path):
            raise UserError(
                f"{path} is an ArrayRecord file, which cannot be read in a bucket; copy the "
                f"dataset to a disk, or prepare it as tfrecord."
            )
        try:
            self._records = ArrayRecordDataSource([path])
        except RuntimeError as error:
            raise UserError(f"The file {path} is damaged; prepare the dataset again.") from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> bytes:
        try:
            return self._records[index]
        except RuntimeError as error:
            raise ValueError("the checksum does not match") from error


# By the name of tfds's file format.
FORMATS: dict[str, Callable[[str], RecordFile]] = {
    "tfrecord": lambda path: (_BucketTFRecordFile if in_bucket(path) else _TFRecordFile)(path),
    "array_record": _ArrayRecordFile,
}


class Records:
    """The records of a split, from the files, or parts of files, that it consists of."""

    def __init__(self, instructions: Sequence[Any], open_file: Any):
        for instruction in instructions:
            if not as_path(instruction.filename).is_file():
                raise UserError(
                    f"The file {instruction.filename} is missing; prepare the dataset again."
                )
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            self._files = list(pool.map(open_file, (i.filename for i in instructions)))
        for file, instruction in zip(self._files, instructions, strict=True):
            if len(file) != instruction.examples_in_shard:
                raise UserError(
                    f"The file {instruction.filename} has {len(file)} examples where the dataset's "
                    f"description says {instruction.examples_in_shard}; prepare the dataset again."
                )
        self._skips = [i.skip for i in instructions]
        self._ends = list(
            itertools.accumulate(
                i.examples_in_shard - i.skip if i.take == -1 else i.take for i in instructions
            )
        )
        self._names = [i.filename for i in instructions]

    def __getitem__(self, number: int) -> bytes:
        part, index = self._locate(number)
        return self._files[part][index]

    def describe(self, number: int) -> str:
        """The file of a record, and its number there."""
        part, index = self._locate(number)
        return f"record {index} of {self._names[part]}"

    def _locate(self, number: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._ends, number)
        start = self._ends[part - 1] if part else 0
        return part, number - start + self._skips[part]
