"""The files that ``torch.save`` writes, and wrote, as numpy arrays over a memory map.

* zip, since PyTorch 1.6: an archive of ``data.pkl`` and one stored member per storage.
* legacy, before 1.6: five pickles (magic number, protocol, system, object, storage keys), then
  the storages, each after its number of elements.
* tar, before 0.1.10: members ``storages``, ``tensors`` and ``pickle``.

A tensor is a view (offset, sizes, strides) of a storage, and a storage is a part of the file.
Nothing is copied, and a tensor that reaches beyond its storage is refused. The exceptions are
tensors that torch saved as lazily conjugated or negated: their storages are copied once.
"""

import dataclasses
import io
import math
import mmap
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxcnn.errors import CheckpointError, shown
from jaxcnn.io.paths import as_path, in_bucket
from jaxcnn.io.pickled_numpy import numpy_names
from jaxcnn.io.unpickler import Call, Unpickler, is_whole

_NAMES_ARE_UTF8 = 0x800  # a flag of a member of a zip archive
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}
# The dtypes of the elements of torch's storage classes.
_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


@dataclasses.dataclass(frozen=True)
class _DType:
    """``torch.float32``, ``torch.FloatStorage`` and the like in a pickle."""

    dtype: np.dtype


@dataclasses.dataclass
class Storage:
    """Consecutive elements that tensors view and may share.

    Attributes:
        dtype: of its elements.
        data: its bytes, ``[n]`` uint8, over the file's memory map.
        spend: called with the bytes of each copy; raises if they are too many for the file.
    """

    dtype: np.dtype
    data: np.ndarray
    spend: Callable[[int], None] = dataclasses.field(repr=False)
    _changed: dict[tuple[np.dtype, bool, bool], "Storage"] = dataclasses.field(
        default_factory=dict, repr=False
    )

    def part(self, offset: int, count: int) -> "Storage":
        """Some of its elements, as a storage of their own."""
        size = self.dtype.itemsize
        return Storage(self.dtype, self.data[offset * size : (offset + count) * size], self.spend)

    def changed(self, dtype: np.dtype, conjugate: bool, negate: bool) -> "Storage":
        """A copy with conjugated or negated elements; made once for all views.

        Args:
            dtype: of the elements.
            conjugate: whether to conjugate them.
            negate: whether to negate them.
        """
        key = dtype, conjugate, negate
        if key not in self._changed:
            self.spend(self.data.size)
            values = self.data[: self.data.size // dtype.itemsize * dtype.itemsize].view(dtype)
            values = np.conj(values) if conjugate else values
            values = np.negative(values) if negate else values
            self._changed[key] = Storage(dtype, values.view(np.uint8), self.spend)
        return self._changed[key]


def tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    dtype: np.dtype | None = None,
    metadata: Any = None,
    *,
    path: str,
) -> np.ndarray:
    """The tensor that views a storage.

    Args:
        storage: the storage.
        offset: of its first element, in elements.
        size: its shape.
        stride: of each axis, in elements.
        dtype: of its elements; None: the storage's.
        metadata: what torch has not applied to the elements yet: ``{"conj": True}`` and
            ``{"neg": True}``, of a lazy ``tensor.conj()`` or its imaginary part.
        path: of the file, for errors.

    Raises:
        CheckpointError: if any element lies outside the storage.
    """

    def damaged(what: str) -> CheckpointError:
        return CheckpointError(f"{path} is damaged: a tensor has {what}.")

    if not isinstance(storage, Storage):
        raise damaged("no storage")
    dtype = dtype or storage.dtype
    if not is_whole(offset) or not (isinstance(size, tuple) and isinstance(stride, tuple)):
        raise damaged("no valid sizes")
    if len(size) != len(stride) or len(size) > 32 or not all(map(is_whole, (*size, *stride))):
        raise damaged("no valid sizes")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= storage.data.size // dtype.itemsize:
        raise damaged(f"elements outside its storage (shape {size}, strides {stride})")
    largest = max((math.prod(n for n in size if n), *stride))
    if largest * dtype.itemsize >= 2**62:
        raise damaged(f"an impossible shape, {size}")
    if not count:
        return np.zeros(size, dtype)
    if metadata:
        if not isinstance(metadata, dict) or metadata.keys() - {"conj", "neg"}:
            raise damaged(f"unknown metadata ({shown(metadata)})")
        storage = storage.changed(dtype, bool(metadata.get("conj")), bool(metadata.get("neg")))
    view = np.ndarray(
        size,
        dtype,
        buffer=storage.data,
        offset=offset * dtype.itemsize,
        strides=[step * dtype.itemsize for step in stride],
    )
    if last - offset + 1 < count:  # elements are shared: writing one would change several
        view.setflags(write=False)
    return view


_BYTE = np.dtype(np.uint8)


def _budget(path: str, file_size: int) -> Callable[[int], None]:
    """What is called with the size of each copy that reading a file makes.

    A pickle can ask for a copy in a few bytes: without a limit it could fill memory. A sound file
    has each storage copied three times at most (conjugated, negated, both), and its pickle read
    twice.
    """
    spent = 0

    def spend(size: int) -> None:
        nonlocal spent
        spent += size
        if spent > 4 * file_size:
            raise CheckpointError(f"{path} was not read: its objects are larger than the file.")

    return spend


def _names(path: str, spend: Callable[[int], None]) -> dict[str, Any]:
    """What the names in the pickle of a checkpoint stand for."""

    def rebuild(
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        _requires_grad: Any = False,
        _hooks: Any = None,
        metadata: Any = None,
    ) -> np.ndarray:
        return tensor(storage, offset, size, stride, metadata=metadata, path=path)

    def rebuild_as(
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        _requires_grad: Any,
        _hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> np.ndarray:
        if not isinstance(dtype, _DType):
            raise CheckpointError(f"{path} is damaged: a tensor has no dtype.")
        return tensor(storage, offset, size, stride, dtype.dtype, metadata, path=path)

    def ordered_dict(items: Any = ()) -> dict[Any, Any]:
        pairs = items if isinstance(items, list | tuple) else ()
        spend(len(pairs))
        entries = [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
        return {key: value for key, value in entries if isinstance(key, str)}

    names: dict[str, Any] = {
        "collections.OrderedDict": Call(ordered_dict),
        "torch._utils._rebuild_tensor": Call(rebuild),
        "torch._utils._rebuild_tensor_v2": Call(rebuild),
        "torch._utils._rebuild_tensor_v3": Call(rebuild_as),
        "torch._utils._rebuild_parameter": Call(lambda data, *_: data),
        "torch._utils._rebuild_parameter_with_state": Call(lambda data, *_: data),
        "torch.nn.parameter.Parameter": Call(lambda data, *_: data),
        "torch.Size": Call(lambda sizes=(): sizes),
        "torch.device": Call(lambda *_: None),
        "torch.storage.UntypedStorage": _DType(np.dtype(np.uint8)),
        # Settings, and the milestones of a learning rate: ignored.
        "argparse.Namespace": Call(lambda *_: {}),
        "collections.Counter": Call(lambda *_: {}),
        **numpy_names(path, spend),
    }
    for prefix, name in _STORAGES.items():
        names[f"torch.{prefix}Storage"] = _DType(np.dtype(_DTYPES[name]))
    for name, dtype in _DTYPES.items():
        names[f"torch.{name}"] = _DType(np.dtype(dtype))
    return names


def _storage_type(value: Any, path: str) -> np.dtype:
    if not isinstance(value, _DType):
        raise CheckpointError(f"{path} is damaged: a storage has no type.")
    return value.dtype


class _Identifier(NamedTuple):
    """A storage in a pickle: its key, dtype, number of elements, and the part that is meant."""

    key: str
    dtype: np.dtype
    count: int
    view: Any


def _identifier(value: Any, path: str) -> _Identifier:
    """Check the persistent id of a storage: ("storage", type, key, location, count[, view])."""
    if isinstance(value, tuple) and len(value) > 6:
        raise CheckpointError(f"{path} is damaged: a storage has no valid identifier.")
    match value:
        case ("module", *_):
            raise CheckpointError(f"{path} contains a whole module; save its state_dict() instead.")
        case ("storage", _DType(dtype), str(key), _, count, *view) if is_whole(count):
            return _Identifier(key, dtype, count, view[0] if view else None)
    raise CheckpointError(f"{path} is damaged: a storage has no valid identifier.")


def _part(data: np.ndarray, start: int, count: int, dtype: np.dtype, path: str) -> np.ndarray:
    """Elements of a file, as bytes."""
    end = start + count * dtype.itemsize
    if count < 0 or end > data.size:
        raise CheckpointError(
            f"{path} is damaged: it ends before its tensors do; get it or save it again."
        )
    return data[start:end]


def map_file(path: str) -> np.ndarray:
    """Map the bytes of a file, ``[n]`` uint8; writing to them does not change the file.

    An object in a bucket is read into memory.
    """
    if in_bucket(path):
        return np.frombuffer(bytearray(as_path(path).read_bytes()), np.uint8)
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        if not size:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), np.uint8)


# --- zip


def read_zip(data: np.ndarray, path: str) -> Any:
    """Read the object in a file of PyTorch 1.6 or later.

    Args:
        data: the file, ``[n]`` uint8.
        path: of the file, for errors.

    Raises:
        CheckpointError: if it is damaged, or needs more than plain data.
    """
    try:
        with zipfile.ZipFile(io.BufferedReader(_Reader(data))) as archive:
            members = {info.orig_filename: info for info in archive.infolist()}
    # All that zipfile raises on damaged headers, as found by fuzzing.
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OverflowError,
        ValueError,
        EOFError,
        OSError,
        struct.error,
    ) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote.")
    (folder,) = folders
    if f"{folder}constants.pkl" in members:
        raise CheckpointError(
            f"{path} contains a TorchScript program instead of a state_dict; load it with "
            f"torch.jit and save its state_dict()."
        )

    def member(name: str) -> np.ndarray:
        info = members.get(folder + name)
        if info is None:
            raise CheckpointError(f"{path} is damaged: it has no member {name[:100]!r}.")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(
                f"{path} has a compressed member, {name[:100]!r}, which torch.save never writes; "
                f"unpack and save it again."
            )
        head = info.header_offset + 30
        header = data[info.header_offset : head].tobytes()
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"{path} is damaged: its member {name[:100]!r} is missing.")
        name_length, extra_length = struct.unpack("<HH", header[26:])
        encoding = "utf-8" if info.flag_bits & _NAMES_ARE_UTF8 else "cp437"
        if data[head : head + name_length].tobytes() != info.orig_filename.encode(encoding):
            raise CheckpointError(
                f"{path} is damaged: its member {name[:100]!r} has another name in the directory."
            )
        start = head + name_length + extra_length
        return _part(data, start, info.file_size, _BYTE, path)

    swap = f"{folder}byteorder" in members and member("byteorder").tobytes() == b"big"
    storages: dict[str, Storage] = {}
    spend = _budget(path, data.size)

    def persistent_load(value: Any) -> Storage:
        identifier = _identifier(value, path)
        key, dtype = identifier.key, identifier.dtype
        if key not in storages:
            content = member(f"data/{key}")
            if swap:
                spend(content.size)
                content = _native(content, dtype)
            storages[key] = Storage(dtype, content, spend)
        storage = storages[key]
        if storage.dtype != dtype or identifier.count * dtype.itemsize > storage.data.size:
            raise CheckpointError(f"{path} is damaged: storage {key[:100]!r} is too short.")
        return storage

    pickled = member("data.pkl")
    return Unpickler(pickled.data, _names(path, spend), persistent_load, path).load()


def _native(content: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Elements written by a big-endian machine, in the byte order of this one."""
    if sys.byteorder == "big" or dtype.itemsize == 1 or content.size % dtype.itemsize:
        return content
    part = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return content.reshape(-1, part)[:, ::-1].reshape(-1)


class _Reader(io.RawIOBase):
    """The bytes of an array as a file."""

    def __init__(self, data: np.ndarray):
        self._data = data
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._data.size}
        position = base[whence] + offset
        if position < 0:
            raise ValueError("a position is before the start of the file")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        content = self._data[self._position : self._position + len(buffer)]
        buffer[: content.size] = content.data
        self._position += content.size
        return content.size


# --- legacy


def is_legacy(data: np.ndarray) -> bool:
    """Whether a file starts as the legacy format does: with the pickle of a magic number."""
    return any(
        data[: len(pickled)].tobytes() == pickled
        for pickled in (pickle.dumps(_LEGACY_MAGIC, protocol) for protocol in range(6))
    )


def read_legacy(data: np.ndarray, path: str) -> Any:
    """Read the object in a file of PyTorch before 1.6.

    Args:
        data: the file, ``[n]`` uint8.
        path: of the file, for errors.

    Raises:
        CheckpointError: if it is damaged, or needs more than plain data.
    """
    spend = _budget(path, data.size)
    names = _names(path, spend)
    dtypes: dict[str, np.dtype] = {}
    storages: dict[str, Storage] = {}

    def persistent_load(value: Any) -> Storage | None:
        identifier = _identifier(value, path)
        key = identifier.key
        if dtypes.setdefault(key, identifier.dtype) != identifier.dtype:
            raise CheckpointError(f"{path} is damaged: storage {key[:100]!r} has two types.")
        if not storages:
            return None
        if key not in storages:
            raise CheckpointError(f"{path} is damaged: storage {key[:100]!r} is missing.")
        if not identifier.view:
            return storages[key]
        match identifier.view:  # of PyTorch 0.1: (its key, offset, count)
            case (_, offset, count) if is_whole(offset) and is_whole(count):
                return storages[key].part(offset, count)
        raise CheckpointError(f"{path} is damaged: the view of a storage has no valid sizes.")

    machine = Unpickler(data.data, names, persistent_load, path)
    if machine.load() != _LEGACY_MAGIC:
        raise CheckpointError(f"{path} was not written by torch.save.")
    machine.load()  # the protocol's version
    system = machine.load()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError(
            f"{path} was written by a big-endian machine before PyTorch 1.6; load and save it "
            f"again with a newer PyTorch there."
        )

    # The object precedes the storages that its tensors view, so it is read twice; the first time
    # only collects the types of the storages.
    start = machine.position
    blind = Call(lambda *_: None)
    machine.names = {name: blind if "._rebuild" in name else v for name, v in names.items()}
    machine.load()
    keys = machine.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{path} is damaged: it has no list of storages.")
    position = machine.position
    for key in keys:
        if key not in dtypes or key in storages:
            raise CheckpointError(f"{path} is damaged: nothing uses its storage {key[:100]!r}.")
        storages[key], position = _counted_storage(data, position, dtypes[key], spend, path)
    return Unpickler(data.data, names, persistent_load, path, start).load()


def _counted_storage(
    data: np.ndarray, position: int, dtype: np.dtype, spend: Callable[[int], None], path: str
) -> tuple[Storage, int]:
    """Read a storage that follows its number of elements (int64); also return where it ends."""
    (count,) = struct.unpack("<q", _part(data, position, 8, _BYTE, path).tobytes())
    content = _part(data, position + 8, count, dtype, path)
    return Storage(dtype, content, spend), position + 8 + content.size


# --- tar


def read_tar(data: np.ndarray, path: str) -> Any:
    """Read the object in a file of PyTorch before 0.1.10.

    Args:
        data: the file, ``[n]`` uint8.
        path: of the file, for errors.

    Raises:
        CheckpointError: if it is damaged, or needs more than plain data.
    """
    members = _tar_members(data, path)
    if members.keys() != {b"storages", b"tensors", b"pickle"}:
        raise CheckpointError(f"{path} is a tar archive, but not one that torch.save wrote.")

    def machine(name: bytes, persistent_load: Callable[[Any], Any]) -> Unpickler:
        return Unpickler(members[name].data, names, persistent_load, path)

    def count(reader: Unpickler) -> int:
        number = reader.load()
        if not is_whole(number) or number > len(data):
            raise CheckpointError(f"{path} is damaged: its tensor count is missing.")
        return number

    spend = _budget(path, data.size)
    names = _names(path, spend)
    storages: dict[Any, Storage] = {}
    content, reader = members[b"storages"], machine(b"storages", lambda _: None)
    for _ in range(count(reader)):
        key, _, storage_type = _triple(reader.load(), path)
        dtype = _storage_type(storage_type, path)
        storages[key], reader.position = _counted_storage(
            content, reader.position, dtype, spend, path
        )
    views = reader.load()
    for view in views if isinstance(views, list) else ():
        if not (isinstance(view, tuple) and len(view) == 4 and all(map(is_whole, view))):
            raise CheckpointError(f"{path} is damaged: the view of a storage has no valid sizes.")
        key, root, offset, size = view
        if root not in storages:
            raise CheckpointError(f"{path} is damaged: storage {root} is missing.")
        storages[key] = storages[root].part(offset, size)

    # The old tensor classes (torch.FloatTensor) have the names of the storages.
    for prefix, name in _STORAGES.items():
        names[f"torch.{prefix}Tensor"] = _DType(np.dtype(_DTYPES[name]))
    tensors: dict[Any, np.ndarray] = {}
    content, reader = members[b"tensors"], machine(b"tensors", lambda _: None)
    for _ in range(count(reader)):
        key, storage_key, _ = _triple(reader.load(), path)
        if not is_whole(storage_key) or storage_key not in storages:
            raise CheckpointError(f"{path} is damaged: the storage of a tensor is missing.")
        position = reader.position
        (rank,) = struct.unpack("<i", _part(content, position, 4, _BYTE, path).tobytes())
        if not 0 <= rank <= 32:
            raise CheckpointError(f"{path} is damaged: a tensor has {rank} axes.")
        numbers = _part(content, position + 8, 2 * rank + 1, np.dtype(np.int64), path)
        *axes, offset = struct.unpack(f"<{2 * rank + 1}q", numbers.tobytes())
        reader.position = position + 8 + numbers.size
        size, stride = tuple(axes[:rank]), tuple(axes[rank:])
        tensors[key] = tensor(storages[storage_key], offset, size, stride, path=path)

    def persistent_load(identifier: Any) -> Any:
        if isinstance(identifier, str) and re.fullmatch(r"\d{1,20}", identifier, re.ASCII):
            identifier = int(identifier)
        if not is_whole(identifier) or identifier not in tensors:
            raise CheckpointError(f"{path} is damaged: a tensor is missing.")
        return tensors[identifier]

    return machine(b"pickle", persistent_load).load()


def _tar_members(data: np.ndarray, path: str) -> dict[bytes, np.ndarray]:
    """The plain files in a tar archive, by name.

    Not by :mod:`tarfile`, which reads the headers of some archives forever (CVE-2025-8194), or
    recursively.
    """
    members: dict[bytes, np.ndarray] = {}
    position = 0
    while position + 512 <= data.size:
        header = data[position : position + 512].tobytes()
        if not any(header):
            break
        checksum, size = _tar_number(header[148:156]), _tar_number(header[124:136])
        blanked = header[:148] + b" " * 8 + header[156:]
        if size is None or checksum != sum(blanked) or header[156:157] not in (b"0", b"\0"):
            raise CheckpointError(
                f"{path} is damaged, or not a tar archive that torch.save wrote: it has a header "
                f"that is not one of a file."
            )
        members[header[:100].rstrip(b"\0")] = _part(data, position + 512, size, _BYTE, path)
        position += 512 + (size + 511) // 512 * 512
    return members


def _tar_number(field: bytes) -> int | None:
    """A number in a tar header: octal digits, or, if large, binary after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _triple(value: Any, path: str) -> tuple[Any, Any, Any]:
    if not (isinstance(value, tuple) and len(value) == 3 and is_whole(value[0])):
        raise CheckpointError(f"{path} is damaged: a tensor has no valid identifier.")
    return value
