"""The one rule between a torch state dict and Flax variables.

The names are the same, with dots for nesting; only the leaf's name and the order of its axes
differ:

==================================  ====================================  ======================
torch                               Flax                                  axes
==================================  ====================================  ======================
``a.b.weight``, convolution         ``params/a/b/kernel``                 OIHW to HWIO
``a.b.weight``, linear              ``params/a/b/kernel``                 OI to IO
``a.b.weight``, normalisation       ``params/a/b/scale``                  as they are
``a.b.bias``                        ``params/a/b/bias``                   as they are
``a.b.running_mean``                ``batch_stats/a/b/mean``              as they are
``a.b.running_var``                 ``batch_stats/a/b/var``               as they are
``a.b.num_batches_tracked``         nothing (counts batches; torch uses   int64 zero on the way
                                    it for ``momentum=None`` only)        back
==================================  ====================================  ======================
"""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier

Path = tuple[str, ...]

# torch leaf: Flax leaf.
_STATISTICS = {"running_mean": "mean", "running_var": "var"}
# What XLA aligns buffers on a CPU to, in bytes; also a cache line.
ALIGNMENT = 64
COPYING_THREADS = min(4, os.cpu_count() or 1)

# Flax leaf: torch leaf.
_LEAF_NAMES = {
    "kernel": "weight",
    "kernel_g": "weight_g",
    "kernel_v": "weight_v",
    "scale": "weight",
    "bias": "bias",
    **{flax: torch for torch, flax in _STATISTICS.items()},
}
# Axes of a kernel, by its rank: torch's order of Flax's axes, and Flax's of torch's.
_TO_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_TO_FLAX_AXES = {rank: tuple(np.argsort(axes)) for rank, axes in _TO_TORCH_AXES.items()}
_COUNTER = "num_batches_tracked"
# What torchvision has renamed over the years, in files that are still about.
_OLD_SPELLINGS = [
    # DenseNet: denselayer1.norm.1.weight
    (re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.(\d+\.)"), r"\1\2"),
]


def _torch_name(path: Path) -> str:
    """``("params", "conv1", "kernel")`` to ``"conv1.weight"``."""
    *scope, leaf = path[1:]
    return ".".join([*scope, _LEAF_NAMES.get(leaf, leaf)])


def _transposed(value: Any, path: Path, axes: dict[int, tuple[int, ...]]) -> Any:
    if not path[-1].startswith("kernel"):
        return value
    return value.transpose(axes[value.ndim])


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not path[-1].startswith("kernel"):
        return shape
    return tuple(shape[axis] for axis in _TO_TORCH_AXES[len(shape)])


def from_torch(
    state_dict: Mapping[str, Any],
    model: Classifier,
    *,
    skip: Sequence[str] = (),
    rng: jax.Array | None = None,
) -> dict[str, Any]:
    """Flax variables of ``model`` with the values of a torch state dict.

    Args:
        state_dict: what ``torch_model.state_dict()`` or :func:`jaxcnn.convert.load_checkpoint`
            gives: arrays (or tensors on the CPU) by torch's names. ``num_batches_tracked`` may be
            there or not; ``module.`` or ``_orig_mod.`` in front of all names (DataParallel,
            ``torch.compile``) and old spellings of torchvision's are understood.
        model: the network. The number of input channels is read from its stem's kernel in the
            state dict, other shapes from the model at its default input size.
        skip: modules whose values in the state dict, if any, are left out: ``("fc",)`` for a head
            of another size. They are newly initialised.
        rng: key for their initial values.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` of JAX arrays: copies with the state dict's values
        and dtypes exactly (float64 stays float64 only with ``jax_enable_x64``).

    Raises:
        UserError: when names or shapes are not the model's; one message lists them all.

    Example::

        variables = from_torch(torchvision.models.resnet18().state_dict(), models.resnet18())

        ten_classes = models.resnet18(num_classes=10)
        variables = from_torch(state_dict, ten_classes, skip=("fc",), rng=jax.random.key(0))
    """
    if skip and rng is None:
        raise UserError(
            f"What is skipped ({', '.join(skip)}) is newly initialised; give rng=jax.random.key(0)."
        )
    arrays = _cleaned(state_dict)
    channels = _input_channels(arrays, model)
    expected = _expected_shapes(model, channels)
    names = {path: _torch_name(path) for path in expected}

    def skipped(name: str) -> bool:
        return any(name.startswith(f"{module}.") for module in skip)

    for module in skip:
        if not any(name.startswith(f"{module}.") for name in names.values()):
            known = sorted({name.partition(".")[0] for name in names.values()})
            raise UserError(
                f"There is no module {module!r} to skip in this {type(model).__name__}; "
                f"{suggest(module, known)}"
            )
    arrays = {name: array for name, array in arrays.items() if not skipped(name)}
    wanted = {path: name for path, name in names.items() if not skipped(name)}
    problems = [f"missing {name}" for name in wanted.values() if name not in arrays]
    problems += [f"unexpected {name}" for name in arrays.keys() - set(wanted.values())]
    problems += [
        f"{name} has shape {arrays[name].shape} where the model has {shape}"
        for path, name in wanted.items()
        if name in arrays and arrays[name].shape != (shape := _torch_shape(path, expected[path]))
    ]
    if problems:
        raise UserError(
            f"The state dict is not one of this {type(model).__name__}: "
            f"{'; '.join(sorted(problems))}."
        )
    largest_first = sorted(wanted, key=lambda path: -arrays[wanted[path]].nbytes)
    with ThreadPoolExecutor(COPYING_THREADS) as threads:  # numpy copies without the GIL
        values = threads.map(lambda p: _owned(_to_flax(arrays[wanted[p]], p)), largest_first)
        copies = dict(zip(largest_first, values, strict=True))
    leaves = jax.device_put({path: copies[path] for path in wanted})
    if skip:
        images = jnp.zeros((1, model.input_size, model.input_size, channels))

        @jax.jit  # of which XLA compiles what these leaves need, and not the whole network
        def skipped_leaves(rng: jax.Array) -> dict[Path, jax.Array]:
            fresh = traverse_util.flatten_dict(model.init(rng, images))
            return {path: leaf for path, leaf in fresh.items() if path not in wanted}

        leaves |= skipped_leaves(rng)
    return traverse_util.unflatten_dict(leaves)


def from_torch_unchecked(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Flax variables by the names and ranks of a state dict alone, where the model is not known.

    Args:
        state_dict: see :func:`from_torch`.

    Returns:
        Host arrays; a ``weight`` of one axis is taken for a norm's, any other for a kernel.

    Raises:
        UserError: for a ``weight`` of another number of axes than a network of images has.
    """
    leaves = {}
    for name, array in _cleaned(state_dict).items():
        *scope, leaf = name.split(".")
        if leaf == "weight":
            if array.ndim != 1 and array.ndim not in _TO_TORCH_AXES:
                raise UserError(
                    f"{name} has shape {array.shape}, which no layer of an image network has; "
                    f"weights of one, two or four axes can be converted."
                )
            leaf = "scale" if array.ndim == 1 else "kernel"
        collection = "batch_stats" if leaf in _STATISTICS else "params"
        path = (collection, *scope, _STATISTICS.get(leaf, leaf))
        leaves[path] = _to_flax(array, path)
    return traverse_util.unflatten_dict(leaves)


def nested_variables(tensors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Flax variables of what :func:`jaxcnn.convert.save` wrote, None of any other tensors.

    Args:
        tensors: from :func:`jaxcnn.convert.load_checkpoint`.

    Returns:
        Host arrays, with their own dtypes.
    """
    if not any(name.startswith("params/") for name in tensors):
        return None
    return traverse_util.unflatten_dict(dict(tensors), sep="/")


def classes_of_heads(state_dict: Mapping[str, Any], model: Classifier) -> dict[str, int]:
    """How many classes the heads in a state dict have.

    Args:
        state_dict: see :func:`from_torch`.
        model: the network, with any ``num_classes``.

    Returns:
        The numbers by the names of the model's classifier layers (``{"fc": 1000}``), of those
        that the state dict has.
    """
    arrays = _cleaned(state_dict)
    weights = {layer: arrays.get(f"{layer}.weight") for layer in model.classifier}
    return {
        layer: weight.shape[0]
        for layer, weight in weights.items()
        if weight is not None and weight.ndim
    }


def _input_channels(arrays: Mapping[str, np.ndarray], model: Classifier) -> int:
    kernel = arrays.get(f"{model.first_conv}.weight")
    return kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3


def _cleaned(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict under torchvision's names of today."""
    names = [n for n in state_dict if n.rpartition(".")[2] != _COUNTER and n != "n_averaged"]
    values = {name: state_dict[name] for name in names}
    for prefix in ("module.", "_orig_mod.") * 2:  # either may be around the other
        if values and all(name.startswith(prefix) for name in values):
            values = {name.removeprefix(prefix): value for name, value in values.items()}
    for pattern, replacement in _OLD_SPELLINGS:
        values = {pattern.sub(replacement, name): value for name, value in values.items()}
    return {name: np.asarray(value) for name, value in values.items()}


def expected_torch_shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a model's torch state dict, for three channels; no weights made."""
    expected = _expected_shapes(model, 3)
    return {_torch_name(path): _torch_shape(path, shape) for path, shape in expected.items()}


@functools.lru_cache(maxsize=8)
def _expected_shapes(model: Classifier, channels: int) -> dict[Path, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = traverse_util.flatten_dict(jax.eval_shape(model.init, key, images))
    return {path: leaf.shape for path, leaf in variables.items()}


def _to_flax(array: np.ndarray, path: Path) -> np.ndarray:
    return _transposed(array, path, _TO_FLAX_AXES)


def _owned(array: np.ndarray) -> np.ndarray:
    """A copy in C order that JAX on a CPU takes as it is, as it does where memory is aligned."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    if array.ndim < 2 or array.flags.c_contiguous:
        copy[...] = array
    else:  # a cache line of the copy at a time: half as long again without
        line = max(1, ALIGNMENT // array.itemsize)
        for begin in range(0, array.shape[-1], line):
            copy[..., begin : begin + line] = array[..., begin : begin + line]
    return copy


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The torch state dict of Flax variables: :func:`from_torch` backwards, exactly.

    Args:
        variables: ``{"params": ...}`` with or without ``"batch_stats"``; other collections have
            no counterpart in torch and are left out.

    Returns:
        Arrays by torch's names, in C order, ready for ``torch.from_numpy`` and
        ``load_state_dict(strict=True)``; ``num_batches_tracked`` is an int64 zero. (torchvision's
        MNASNets take no plain dict, of anybody's: give theirs the ``_metadata`` of their own.)

    Example::

        state_dict = {k: torch.from_numpy(v) for k, v in to_torch(variables).items()}
    """
    state_dict = {}
    for path, value in traverse_util.flatten_dict(dict(variables)).items():
        if path[0] not in ("params", "batch_stats"):
            continue
        array = _transposed(np.asarray(value), path, _TO_TORCH_AXES)
        state_dict[_torch_name(path)] = np.array(array, order="C")
        if path[-1] == "var":
            state_dict[".".join([*path[1:-1], _COUNTER])] = np.zeros((), np.int64)
    return state_dict
