"""The safetensors format: a JSON header of names, dtypes, shapes and offsets, then the bytes.

The ``safetensors`` package has no bfloat16 or float8 for numpy, and copies the file into memory.
Files written here can be read by that package, and the other way round.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxcnn.errors import CheckpointError, shown
from jaxcnn.io.atomic import atomic_write
from jaxcnn.io.paths import as_path, in_bucket

_DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
        "C64": np.complex64,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    }.items()
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # the package's own limit
_ALIGNMENT = 64
_CHECKSUM = "jaxcnn_sha256"  # in the metadata, which other programs ignore


def read_safetensors(data: np.ndarray, path: str) -> dict[str, np.ndarray]:
    """Read the tensors of a file, as views of it.

    Args:
        data: the file, ``[n]`` uint8.
        path: of the file, for errors.

    Raises:
        CheckpointError: if it is damaged, which a checksum by :func:`write_safetensors` tells.
    """

    def damaged(what: str) -> CheckpointError:
        return CheckpointError(f"{path} is damaged: {what}.")

    header, content = _header(data, damaged)
    _check_content(header, content, damaged)
    return {name: _tensor(content, entry, name, damaged) for name, entry in header.items()}


def verify_safetensors(path: str | os.PathLike[str]) -> bool:
    """Check a file that :func:`write_safetensors` wrote against the checksum in it.

    Returns:
        Whether there is one; other programs, and earlier versions of this one, write none.

    Raises:
        CheckpointError: if the file is damaged.
        OSError: if it cannot be read.
    """

    def damaged(what: str) -> CheckpointError:
        return CheckpointError(f"{os.fspath(path)} is damaged: {what}.")

    if in_bucket(path):
        data = np.frombuffer(as_path(path).read_bytes(), np.uint8)
        return _check_content(*_header(data, damaged), damaged)
    # An empty file cannot be mapped.
    data = np.memmap(path, np.uint8, "r") if os.path.getsize(path) else np.zeros(0, np.uint8)
    return _check_content(*_header(data, damaged), damaged)


def _header(data: np.ndarray, damaged: Any) -> tuple[dict[str, Any], np.ndarray]:
    """The header of a file, and the bytes after it."""
    length = struct.unpack("<Q", data[:8].tobytes())[0] if data.size >= 8 else 0
    if not 0 < length <= min(_MAX_HEADER, data.size - 8):
        raise damaged("its header reaches past its end")
    try:
        header = json.loads(data[8 : 8 + length].tobytes().decode())  # UTF-8, and nothing else
    except (ValueError, RecursionError) as error:
        raise damaged("its header is not valid JSON") from error
    if not isinstance(header, dict) or not all(map(_is_flat, header.values())):
        raise damaged("its header is not a table of tensors")
    return header, data[8 + length :]


def _is_flat(entry: Any) -> bool:
    """Whether an entry of a header has what the format knows: texts, and lists of numbers."""
    return isinstance(entry, dict) and all(
        isinstance(value, str) or (isinstance(value, list) and all(type(n) is int for n in value))
        for value in entry.values()
    )


def _check_content(header: dict[str, Any], content: np.ndarray, damaged: Any) -> bool:
    """Take the metadata out of a header, and check the checksum if they have one."""
    metadata = header.pop("__metadata__", None)
    expected = metadata.get(_CHECKSUM) if isinstance(metadata, dict) else None
    if expected is None:
        return False
    if _checksum(header, [content]) != expected:
        raise damaged("its content is not what was written (SHA-256)")
    return True


def _checksum(header: Mapping[str, Any], parts: Iterable[np.ndarray]) -> str:
    """The SHA-256 of a header without its metadata, and of the bytes after it."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for part in parts:
        digest.update(_bytes(part))
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _tensor(content: np.ndarray, entry: dict[str, Any], name: str, damaged: Any) -> np.ndarray:
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise damaged(f"{name[:100]!r} has the unknown dtype {shown(kind)}")
    lists = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not lists or not all(0 <= n < 2**62 for n in (*shape, *offsets)):
        raise damaged(f"{name[:100]!r} has no valid shape and offsets")
    if len(shape) > 32:
        raise damaged(f"{name[:100]!r} has {len(shape)} axes")
    dtype, (start, end) = _DTYPES[kind], offsets
    if math.prod(n for n in shape if n) * dtype.itemsize >= 2**62:
        raise damaged(f"{name[:100]!r} has an impossible shape")
    if not start <= end <= content.size or end - start != math.prod(shape) * dtype.itemsize:
        raise damaged(f"{name[:100]!r} has a shape that does not match its byte count")
    return content[start:end].view(dtype).reshape(shape)


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a file that the ``safetensors`` package reads, completely or not at all.

    Its metadata contain a checksum, for :func:`verify_safetensors`.

    Args:
        path: of the file; an existing file is replaced.
        tensors: by name.

    Raises:
        CheckpointError: for a dtype that the format lacks.
        OSError: if the file cannot be written.
    """
    header: dict[str, Any] = {}
    offset = 0
    # Largest elements first, as the package does, so that every tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for name, array in ordered:
        if array.dtype not in _NAMES:
            raise CheckpointError(f"{name!r} is {array.dtype}, which safetensors cannot hold.")
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    checksum = _checksum(header, (array for _, array in ordered))
    header = {"__metadata__": {"format": "pt", _CHECKSUM: checksum}} | header
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)

    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in ordered:
            file.write(_bytes(array))
