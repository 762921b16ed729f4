"""NumPy's scalars and arrays in a pickle, as plain data.

Checkpoints hold them beside the weights (``best_acc``, a confusion matrix). NumPy's own unpickling
accepts arrays of objects and believes the sizes that a pickle states; here only numbers and
strings are accepted, from exactly as many bytes as they take.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcnn.errors import CheckpointError, shown
from jaxcnn.io.unpickler import Call, Stateful, is_whole

# Of a dtype in a pickle: booleans, integers, floats, complex numbers, byte strings, strings.
_PLAIN_DTYPE = re.compile(r"[biufcSU]\d{1,6}", re.ASCII)
_BYTE_ORDERS = ("<", ">", "|", "=")
# The packages of NumPy 2 and of NumPy 1.
_PACKAGES = ("numpy._core", "numpy.core")


class _DType(Stateful):
    """``numpy.dtype`` in a pickle; its state holds the byte order."""

    def __init__(self, dtype: np.dtype, path: str):
        self.dtype, self._path = dtype, path

    def set_state(self, state: Any) -> None:
        plain = isinstance(state, tuple) and len(state) >= 5 and isinstance(state[1], str)
        if not plain or state[1] not in _BYTE_ORDERS or any(s is not None for s in state[2:5]):
            raise CheckpointError(f"{self._path} has a NumPy dtype that is not plain.")
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray(Stateful):
    """``numpy.ndarray`` in a pickle.

    Attributes:
        value: the array, read-only; None: the pickle has not filled it yet.
    """

    def __init__(self, path: str, data_of: Callable[[Any], bytes]):
        self._path, self._data_of = path, data_of
        self.value: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        """Fill it from (version, shape, dtype, whether in Fortran order, bytes)."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise CheckpointError(f"{self._path} is damaged: a NumPy array has no data.")
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> "PickledArray":
        """Set the value to a view of bytes."""
        self.value = _array(self._data_of(data), dtype, shape, order, self._path)
        return self


def numpy_names(path: str, spend: Callable[[int], None]) -> dict[str, Any]:
    """The names with which NumPy pickles plain scalars and arrays.

    Args:
        path: of the file, for errors.
        spend: called with the bytes of each copy; raises if they are more than the file has.

    Returns:
        What each name stands for; see :class:`jaxcnn.io.unpickler.Unpickler`.
    """

    def encode(text: Any = "", encoding: Any = "latin1") -> bytes:
        # Pickles of protocol 2 and lower hold bytes as text, a character for each byte.
        if not isinstance(text, str) or not isinstance(encoding, str):
            raise CheckpointError(f"{path} is damaged: a byte string is not valid.")
        spend(len(text))
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise CheckpointError(f"{path} is damaged: a byte string is not valid.") from error

    def data_of(data: Any) -> bytes:
        return data if isinstance(data, bytes) else encode(data)  # text: Python 2's bytes

    def make_dtype(code: Any, *_: Any) -> _DType:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise CheckpointError(
                f"{path} was not read: it has NumPy values of the dtype {shown(code)}; only "
                f"numbers and strings are accepted, because objects could run code."
            )
        return _DType(np.dtype(code), path)

    def scalar(dtype: Any, data: Any = b"") -> Any:
        content = data_of(data)
        spend(len(content))  # a scalar is a copy
        return _array(content, dtype, (), "C", path)[()]

    def from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
        return PickledArray(path, data_of).fill(data, dtype, shape, order)

    names: dict[str, Any] = {
        "numpy.dtype": Call(make_dtype),
        "numpy.ndarray": None,  # the class, an argument of _reconstruct
        "_codecs.encode": Call(encode),
        # how protocol 2 and lower write b""
        "builtins.bytes": Call(lambda: b""),
        "__builtin__.bytes": Call(lambda: b""),
    }
    for package in _PACKAGES:
        names[f"{package}.multiarray.scalar"] = Call(scalar)
        names[f"{package}.multiarray._reconstruct"] = Call(lambda *_: PickledArray(path, data_of))
        names[f"{package}.numeric._frombuffer"] = Call(from_buffer)
    return names


def _array(data: bytes, dtype: Any, shape: Any, order: Any, path: str) -> np.ndarray:
    """A view of exactly these bytes."""
    valid_shape = isinstance(shape, tuple) and len(shape) <= 32 and all(map(is_whole, shape))
    if not isinstance(dtype, _DType) or not valid_shape or not isinstance(order, str):
        raise CheckpointError(f"{path} is damaged: a NumPy array has no valid shape and dtype.")
    elements, itemsize = math.prod(shape), dtype.dtype.itemsize
    if elements * itemsize != len(data) or (not itemsize and shape):
        raise CheckpointError(
            f"{path} is damaged: a NumPy array of shape {shape} and dtype {dtype.dtype} does not "
            f"match its {len(data):,} bytes."
        )
    return np.ndarray(shape, dtype.dtype, data, order="F" if order == "F" else "C")
