"""Files of Flax variables."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcnn.convert.state_dict import is_finite, to_torch, warn_if_not_finite
from jaxcnn.errors import CheckpointError, UserError
from jaxcnn.io.checkpoint import read_file
from jaxcnn.io.safetensors import write_safetensors


def save_torch(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Write Flax variables as a torch state dict to a safetensors file.

    ``torch_model.load_state_dict(safetensors.torch.load_file(path))`` reads it.

    Args:
        path: of the file, which is written completely or not at all.
        variables: see :func:`jaxcnn.convert.to_torch`.

    Raises:
        UserError: if a kernel has no counterpart in torch.
        OSError: if the file cannot be written.
    """
    write_safetensors(path, to_torch(variables))


def save(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Write Flax variables to a safetensors file, with paths as names (``params/conv1/kernel``).

    Args:
        path: of the file, which is written completely or not at all.
        variables: nested dict of arrays, such as ``{"params": {"conv1": {"kernel": ...}}}``,
            whose keys contain no ``/``.

    Raises:
        UserError: for an array that is not in a collection.
        OSError: if the file cannot be written.
    """
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for name in flat:
        if "/" not in name:
            raise UserError(
                f"The variables have {name!r} outside of any collection; pass a nested dict such "
                f"as {{'params': ..., 'batch_stats': ...}}."
            )
    write_safetensors(path, {name: np.asarray(value) for name, value in flat.items()})


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the nested dict that :func:`save` wrote, of JAX arrays.

    Warns if a value is NaN or infinite, naming the first such array.

    Args:
        path: of the file.

    Raises:
        CheckpointError: if the file is missing, was not written by :func:`save` (a torch state
            dict, for example), or has a kernel of integers or complex numbers.
    """
    path = os.fspath(path)
    tensors = read_file(path)
    valid = isinstance(tensors, dict) and all(
        isinstance(name, str) and "/" in name and isinstance(array, np.ndarray)
        for name, array in tensors.items()
    )
    if not valid or not tensors:
        raise CheckpointError(
            f"{path} does not contain Flax variables, as jaxcnn.convert.save writes them; for "
            f"PyTorch weights use load_checkpoint and from_torch."
        )
    floating = {n: a for n, a in tensors.items() if jnp.issubdtype(a.dtype, jnp.floating)}
    for name, array in tensors.items():
        if name.rpartition("/")[2].startswith("kernel") and name not in floating:
            raise CheckpointError(f"{path}: {name} is {array.dtype}; kernels must be floating.")
    warn_if_not_finite({name: is_finite(array) for name, array in floating.items()})
    return traverse_util.unflatten_dict(
        {name: jnp.asarray(value) for name, value in tensors.items()}, sep="/"
    )
