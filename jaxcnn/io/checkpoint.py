"""PyTorch's checkpoints without PyTorch."""

import os
from typing import Any

import numpy as np

from jaxcnn.io.safetensors import read_safetensors
from jaxcnn.io.torch_files import (
    is_legacy,
    map_file,
    read_legacy,
    read_tar,
    read_zip,
)
from jaxcnn.io.unpickler import CheckpointError

# Under which training scripts keep the weights, beside the optimiser's state and the like; the
# first that is there counts.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "model_ema")


def load_checkpoint(
    path: str | os.PathLike[str], *, key: str | None = None
) -> dict[str, np.ndarray]:
    """Reads the weights in a file of PyTorch's; PyTorch is not needed, and nothing is run.

    The zip format that ``torch.save`` writes, the legacy format before PyTorch 1.6, the tar
    format before 0.1.10, and safetensors. The pickle in a file builds plain data only; a name in
    it that a state_dict does not need is refused.

    Args:
        path: of the file.
        key: where the weights are, if the file holds several dicts (``"model_ema"``); None: at
            the top, or under the first of ``"state_dict"``, ``"model"``, ``"model_state_dict"``,
            ``"net"``, ``"network"``, ``"weights"`` and ``"model_ema"`` that is there.

    Returns:
        Arrays by torch's names, with torch's shapes and dtypes (bfloat16 and float8 from
        ml_dtypes). They are views of a private memory map of the file: what is not touched is
        not read, and tensors that share memory in torch share it here.

    Raises:
        CheckpointError: if the file is not there, damaged, of another format, not safe, or
            without weights.

    Example::

        state_dict = load_checkpoint("resnet18-f37072fd.pth")
        variables = from_torch(state_dict, models.resnet18())
    """
    where = os.fspath(path)
    content = read_file(where)
    found = _weights(content, key)
    if found is None:
        names = ", ".join(repr(k) for k in content) if isinstance(content, dict) else "no dict"
        raise CheckpointError(
            f"{where} has no tensors {'at the top' if key is None else f'under {key!r}'} "
            f"(it has: {names[:500] or 'nothing'}); say where they are with key=."
        )
    return found


def load_tensor(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a file that is one tensor, ``torch.save(tensor, path)``, as safely.

    Raises:
        CheckpointError: see :func:`load_checkpoint`; and if the file holds anything else.
    """
    content = read_file(os.fspath(path))
    if not isinstance(content, np.ndarray):
        raise CheckpointError(f"{os.fspath(path)} holds no tensor, but {type(content).__name__}.")
    return content


def read_file(where: str) -> Any:
    """Read whatever a file of a known format contains, not only a state dict.

    Args:
        where: the path of the file.

    Raises:
        CheckpointError: if the file cannot be opened, is damaged, or is of another format.
    """
    try:
        data = map_file(where)
    except OSError as error:
        raise CheckpointError(f"{where} cannot be opened ({error.strerror}).") from error
    start = data[:512].tobytes()
    if start.startswith(b"PK\x03\x04"):
        return read_zip(data, where)
    if is_legacy(data):
        return read_legacy(data, where)
    if start[257:262] == b"ustar":
        return read_tar(data, where)
    if start[8:9] == b"{":
        return read_safetensors(data, where)
    raise CheckpointError(
        f"{where} is {'empty' if not start else 'of no known format'}; it must be what torch.save "
        f"wrote, or safetensors."
    )


def _weights(content: Any, key: str | None) -> dict[str, np.ndarray] | None:
    if not isinstance(content, dict):
        return None
    if key is not None:
        return _tensors(content.get(key))
    candidates = [content, *(content.get(wrapper) for wrapper in WRAPPERS)]
    return next((found for c in candidates if (found := _tensors(c))), None)


def _tensors(value: Any) -> dict[str, np.ndarray] | None:
    if not isinstance(value, dict):
        return None
    return {
        name: item
        for name, item in value.items()
        if isinstance(name, str) and isinstance(item, np.ndarray)
    } or None
