"""PyTorch's checkpoints without PyTorch."""

import itertools
import os
import warnings
from typing import Any

import numpy as np

from jaxcnn.errors import CheckpointError, shown
from jaxcnn.io.pickled_numpy import PickledArray
from jaxcnn.io.safetensors import read_safetensors
from jaxcnn.io.torch_files import (
    is_legacy,
    map_file,
    read_legacy,
    read_tar,
    read_zip,
)

# Under which training scripts keep the weights, beside the optimizer's state and the like. An
# average of the weights (EMA) comes last: after the top of the file, which has no name.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "weights")
_PREFERENCE = {name: rank for rank, name in enumerate((*WRAPPERS, "", "model_ema"))}
_DEPTH = 4  # of dicts in dicts that may be weights
_LONGEST_NAME = 1000

StateDict = dict[str, np.ndarray]


def load_checkpoint(path: str | os.PathLike[str], *, key: str | None = None) -> StateDict:
    """Read the weights in a PyTorch file; PyTorch is not needed, and no code in the file is run.

    The formats are the zip format that ``torch.save`` writes, the legacy format before PyTorch
    1.6, the tar format before 0.1.10, and safetensors. The pickle in a file builds plain data
    only; a name in it that a checkpoint does not need is refused.

    The checkpoint of a training script has the weights in one of several dicts. Without ``key``
    only dicts with at least half as many tensors as the largest one are considered. The first of
    these is chosen: the dict under ``"state_dict"``, ``"model"``, ``"model_state_dict"``,
    ``"net"``, ``"network"`` or ``"weights"``; the top of the file; the dict under
    ``"model_ema"``; the dict with the most tensors, with a warning that names it if there are
    others. So other tensors beside the weights, such as ``best_acc1``, do no harm.

    Args:
        path: of the file.
        key: of the dict with the weights, such as ``"model_ema"``; dots separate the keys of
            nested dicts (``"model.state_dict"``). None: see above.

    Returns:
        Arrays by torch's names, with torch's shapes and dtypes (bfloat16 and float8 from
        ml_dtypes). They are views of a private memory map of the file: only the parts that are
        used are read, and tensors that share memory in torch share it here.

    Raises:
        CheckpointError: if the file is missing, damaged, of another format, not safe, or
            contains no weights.

    Example::

        state_dict = load_checkpoint("resnet18-f37072fd.pth")
        variables = from_torch(state_dict, models.resnet18())
    """
    path = os.fspath(path)
    content = read_file(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} has no dict of tensors; save a state_dict().")
    # NumPy's arrays are weights only where no tensors are.
    found = _state_dicts(content, np.ndarray) or _state_dicts(content, PickledArray)
    if key is not None:
        if key in found:
            return _with_checked_names(found[key], path)
    elif found:
        return _with_checked_names(found[_choose(found, path)], path)
    names = ", ".join(map(shown, itertools.islice(content, 50)))
    raise CheckpointError(
        f"{path} has no tensors{'' if key is None else f' under {key!r}'} (it has: "
        f"{names[:500] or 'nothing'}); "
        + (f"key can be one of {', '.join(map(repr, found))}." if found else "save a state_dict().")
    )


def load_tensor(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a file that is one tensor, ``torch.save(tensor, path)``; no code in it is run.

    Raises:
        CheckpointError: see :func:`load_checkpoint`; and if the file contains anything else.
    """
    content = read_file(os.fspath(path))
    if not isinstance(content, np.ndarray):
        found = np.ndarray if isinstance(content, PickledArray) else type(content)
        raise CheckpointError(f"{os.fspath(path)}: expected a tensor, found {found.__name__}.")
    return content


def read_file(path: str) -> Any:
    """Read whatever a file of a known format contains, not only a state dict.

    Args:
        path: of the file.

    Raises:
        CheckpointError: if the file cannot be opened, is damaged, or is of another format.
    """
    try:
        data = map_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({error.strerror}).") from error
    start = data[:512].tobytes()
    if start.startswith(b"PK\x03\x04"):
        return read_zip(data, path)
    if is_legacy(data):
        return read_legacy(data, path)
    if start[257:262] == b"ustar":
        return read_tar(data, path)
    if start[8:9] == b"{":
        return read_safetensors(data, path)
    raise CheckpointError(
        f"{path} is {'empty' if not start else 'of an unknown format'}; it must be a file that "
        f"torch.save wrote, or safetensors."
    )


def _state_dicts(content: dict[Any, Any], kind: type) -> dict[str, StateDict]:
    """All dicts of tensors in a file, by their keys with dots in between; the top is ``""``."""
    found: dict[str, StateDict] = {}
    seen: set[int] = set()  # a pickle may hold one dict a million times

    def visit(value: dict[Any, Any], name: str, depth: int) -> None:
        if id(value) in seen or depth > _DEPTH:
            return
        seen.add(id(value))
        if tensors := _tensors(value, kind):
            found[name] = tensors
        for key, item in value.items():
            if isinstance(item, dict) and isinstance(key, str) and len(key) <= _LONGEST_NAME:
                visit(item, f"{name}.{key}" if name else key, depth + 1)

    visit(content, "", 0)
    return found


def _with_checked_names(state_dict: StateDict, path: str) -> StateDict:
    """The same, if terminals and tables can show its names."""
    for name in state_dict:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise CheckpointError(
                f"{path} was not read: a tensor's name, {ascii(name[:50])}, is longer than "
                f"{_LONGEST_NAME:,} characters or has some that cannot be printed."
            )
    return state_dict


def _choose(found: dict[str, StateDict], path: str) -> str:
    """The name of the dict that is the weights; see :func:`load_checkpoint`."""
    most = max(map(len, found.values()))
    large = [name for name, tensors in found.items() if 2 * len(tensors) >= most]

    def preference(name: str) -> tuple[list[int], bool, int]:
        ranks = [_PREFERENCE.get(part, len(_PREFERENCE)) for part in name.split(".")]
        return ranks, "ema" in name.lower(), -len(found[name])

    best = min(large, key=preference)
    if len(large) > 1 and not set(best.split(".")) <= _PREFERENCE.keys():
        others = ", ".join(repr(name) for name in large if name != best)
        warnings.warn(
            f"{path} has several dicts of tensors; the weights are taken from {best!r} "
            f"({len(found[best])} tensors). key= chooses another: {others[:500]}.",
            stacklevel=3,
        )
    return best


def _tensors(value: dict[Any, Any], kind: type) -> StateDict:
    tensors = {
        name: item.value if isinstance(item, PickledArray) else item
        for name, item in value.items()
        if isinstance(name, str) and isinstance(item, kind)
    }
    return {  # but for arrays of strings, or never filled
        name: array
        for name, array in tensors.items()
        if array is not None and array.dtype.kind not in "SU"
    }
