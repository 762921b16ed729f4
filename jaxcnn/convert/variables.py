"""Files of Flax variables."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcnn.convert.state_dict import to_torch
from jaxcnn.io.checkpoint import read_file
from jaxcnn.io.safetensors import write_safetensors
from jaxcnn.io.unpickler import CheckpointError


def save_torch(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes Flax variables as a torch state dict in a safetensors file.

    ``torch_model.load_state_dict(safetensors.torch.load_file(path))`` reads it.

    Args:
        path: of the file; it is there whole or not at all.
        variables: see :func:`jaxcnn.convert.to_torch`.

    Raises:
        OSError: if the file cannot be written.
    """
    write_safetensors(path, to_torch(variables))


def save(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes Flax variables to a safetensors file, their paths as names (``params/conv1/kernel``).

    Args:
        path: of the file; it is there whole or not at all.
        variables: any nested dict of arrays whose keys have no ``/``.

    Raises:
        OSError: if the file cannot be written.
    """
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    write_safetensors(path, {name: np.asarray(value) for name, value in flat.items()})


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what :func:`save` wrote: the same nested dict, of JAX arrays.

    Raises:
        CheckpointError: if the file is not there, or no safetensors.
    """
    where = os.fspath(path)
    tensors = read_file(where)
    if not isinstance(tensors, dict) or not all(
        isinstance(t, np.ndarray) for t in tensors.values()
    ):
        raise CheckpointError(f"{where} is no file that jaxcnn.convert.save wrote.")
    return traverse_util.unflatten_dict(
        {name: jnp.asarray(value) for name, value in tensors.items()}, sep="/"
    )
