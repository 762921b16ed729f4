"""Files of records, read in any order."""

import bisect
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxcnn.errors import UserError

_SCAN_THREADS = 4  # more would hide the latency of a network, but wait for each other's Python


class RecordFile(Protocol):
    """One file of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


class _TFRecordFile:
    """Records of a TFRecord file: length (8 bytes), its checksum (4), data, its checksum (4).

    The file is opened for each record: a thousand shards may be more than a process may hold open.
    """

    def __init__(self, path: str):
        self._path = path
        offsets = []
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            offset = 0
            while offset < size:
                header = os.pread(file.fileno(), 8, offset)
                length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
                end = offset + 12 + length + 4
                if end > size:
                    raise UserError(
                        f"The file {path} is damaged: its record {len(offsets)} ends past the end "
                        f"of the file; prepare the dataset again."
                    )
                offsets.append(offset)
                offset = end
        self._offsets = np.array([*offsets, offset], np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, end = int(self._offsets[index]) + 12, int(self._offsets[index + 1]) - 4
        with open(self._path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)


def _open_array_record(path: str) -> RecordFile:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([path])


# By the names of tfds's file formats.
FORMATS: dict[str, Callable[[str], RecordFile]] = {
    "tfrecord": _TFRecordFile,
    "array_record": _open_array_record,
}


class Records:
    """The records of a split, over the (parts of) files that make it up."""

    def __init__(self, instructions: Sequence[Any], open_file: Any):
        for instruction in instructions:
            if not Path(instruction.filename).is_file():
                raise UserError(
                    f"The file {instruction.filename} is missing (datasets must lie on a local or "
                    f"mounted disk); prepare the dataset again."
                )
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            self._files = list(pool.map(open_file, (i.filename for i in instructions)))
        for file, instruction in zip(self._files, instructions, strict=True):
            if len(file) != instruction.examples_in_shard:
                raise UserError(
                    f"The file {instruction.filename} holds {len(file)} examples where its "
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
        part, index = self._place(number)
        return self._files[part][index]

    def where(self, number: int) -> str:
        """The file of a record, and its number there."""
        part, index = self._place(number)
        return f"record {index} of {self._names[part]}"

    def _place(self, number: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._ends, number)
        start = self._ends[part - 1] if part else 0
        return part, number - start + self._skips[part]
