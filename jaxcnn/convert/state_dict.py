"""The rule that converts a torch state dict to Flax variables and back.

The names are the same, with dots for nesting; only the name of the leaf and the order of its axes
differ:

==================================  ====================================  ======================
torch                               Flax                                  axes
==================================  ====================================  ======================
``a.b.weight``, convolution         ``params/a/b/kernel``                 OIHW to HWIO
``a.b.weight``, linear              ``params/a/b/kernel``                 OI to IO
``a.b.weight_g``, ``weight_v``      ``params/a/b/kernel_g``, ``kernel_v`` as those of kernels
``a.b.weight``, normalization       ``params/a/b/scale``                  unchanged
``a.b.bias``                        ``params/a/b/bias``                   unchanged
``a.b.running_mean``                ``batch_stats/a/b/mean``              unchanged
``a.b.running_var``                 ``batch_stats/a/b/var``               unchanged
``a.b.num_batches_tracked``         nothing (counts batches; torch uses   int64 zero on the way
                                    it for ``momentum=None`` only)        back
==================================  ====================================  ======================
"""

import functools
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxcnn.convert.timm_names import torchvision_names
from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.registry import list_models, model_info

Path = tuple[str, ...]

# torch leaf: Flax leaf.
_STATISTICS = {"running_mean": "mean", "running_var": "var"}
_KERNELS = {"weight": "kernel", "weight_g": "kernel_g", "weight_v": "kernel_v"}
# The alignment of XLA's buffers on a CPU, in bytes; also a cache line.
ALIGNMENT = 64
# What copies are cut from, in bytes. Of Linux, numpy requests huge pages for 4 MiB and more, which
# saves most page faults; the memory is returned when all copies in it are deleted.
BLOCK = 16 << 20
# How many rows of a kernel are transposed at a time.
ROWS = 128
COPYING_THREADS = min(4, os.cpu_count() or 1)

# Flax leaf: torch leaf.
_LEAF_NAMES = {
    "scale": "weight",
    "bias": "bias",
    **{flax: torch for torch, flax in (_KERNELS | _STATISTICS).items()},
}
# Axes of a kernel, by its rank: torch's order of Flax's axes, and Flax's of torch's.
_TO_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_TO_FLAX_AXES = {rank: tuple(np.argsort(axes)) for rank, axes in _TO_TORCH_AXES.items()}
_COUNTER = "num_batches_tracked"
# What training frameworks put before every name, in any combination.
_PREFIX = re.compile(r"(?:module|_orig_mod|model|net|backbone)\.")
# Those of DataParallel and torch.compile, which no network uses for a module of its own.
_WRAPPER = re.compile(r"(?:module|_orig_mod)\.")
# Up to how many names an error lists in its first line.
_FEW = 6
# What torchvision has renamed over the years, in files that are still in use.
_OLD_SPELLINGS = [
    # DenseNet: denselayer1.norm.1.weight
    (re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.(\d+\.)"), r"\1\2"),
]


def _torch_name(path: Path) -> str:
    """``("params", "conv1", "kernel")`` to ``"conv1.weight"``."""
    *scope, leaf = path[1:]
    return ".".join([*scope, _LEAF_NAMES.get(leaf, leaf)])


def _axes(path: Path, rank: int, axes: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The order of the axes of a leaf on the other side."""
    if not path[-1].startswith("kernel"):
        return tuple(range(rank))
    if rank not in axes:
        raise UserError(
            f"{'/'.join(path)} has {rank} axes; the kernels of image networks have two (linear "
            f"layers) or four (convolutions)."
        )
    return axes[rank]


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _axes(path, len(shape), _TO_TORCH_AXES))


def from_torch(
    state_dict: Mapping[str, Any],
    model: Classifier,
    *,
    skip: Sequence[str] = (),
    rng: jax.Array | None = None,
) -> dict[str, Any]:
    """Convert a torch state dict to the Flax variables of ``model``.

    Warns if a value is NaN or infinite, naming the first such tensor.

    Args:
        state_dict: the result of ``torch_model.state_dict()`` or of
            :func:`jaxcnn.convert.load_checkpoint`: arrays (or tensors on the CPU) by torch's
            names. ``num_batches_tracked`` is optional. A prefix of all the model's names that is
            made of ``module.``, ``_orig_mod.``, ``model.``, ``net.`` and ``backbone.`` in any
            combination is removed, and torchvision's old names and timm's are understood.
        model: the network. The number of input channels is read from the kernel of its first
            convolution in the state dict, other shapes from the model at its default input size.
            Of a model with ``num_classes=0`` or ``features_only`` the state dict may also have
            the layers that only the whole network has; they are left out.
        skip: modules to leave out of the state dict: ``("fc",)`` for a head of another size.
            They are newly initialized.
        rng: key for their initial values.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` of JAX arrays: copies with exactly the values and
        dtypes of the state dict (float64 stays float64 only with ``jax_enable_x64``).

    Raises:
        UserError: if names or shapes do not fit the model (the message lists them all), or if
            values are not floating.

    Example::

        variables = from_torch(torchvision.models.resnet18().state_dict(), models.resnet18())

        ten_classes = models.resnet18(num_classes=10)
        variables = from_torch(state_dict, ten_classes, skip=("fc",), rng=jax.random.key(0))
    """
    if skip and rng is None:
        raise UserError(
            f"skip={tuple(skip)!r} initializes these modules; give rng=jax.random.key(0)."
        )
    arrays = clean_state_dict(state_dict, model)
    channels = _input_channels(arrays, model)
    expected = expected_shapes(model, channels)
    names = {path: _torch_name(path) for path in expected}
    whole = model.with_classifier
    if whole != model:
        beyond = {_torch_name(path) for path in expected_shapes(whole, channels)}
        beyond -= set(names.values())
        arrays = {name: array for name, array in arrays.items() if name not in beyond}

    def skipped(name: str) -> bool:
        return any(name.startswith(f"{module}.") for module in skip)

    for module in skip:
        if not any(name.startswith(f"{module}.") for name in names.values()):
            known = sorted({name.partition(".")[0] for name in names.values()})
            raise UserError(
                f"skip: this {type(model).__name__} has no module {module!r}; "
                f"{suggest(module, known)}"
            )
    arrays = {name: array for name, array in arrays.items() if not skipped(name)}
    wanted = {path: name for path, name in names.items() if not skipped(name)}
    shapes = {name: _torch_shape(path, expected[path]) for path, name in wanted.items()}
    if error := _mismatch(arrays, shapes, model):
        raise UserError(error)
    _check_dtypes(arrays)
    largest_first = sorted(wanted, key=lambda path: -arrays[wanted[path]].nbytes)
    sources = [_to_flax(arrays[wanted[path]], path) for path in largest_first]
    copies = dict(zip(largest_first, _memory_for(sources), strict=True))
    with ThreadPoolExecutor(COPYING_THREADS) as threads:  # numpy copies without the GIL
        values = threads.map(_copy, sources, copies.values())
        finite = {wanted[path]: value for path, value in zip(largest_first, values, strict=True)}
    warn_if_not_finite({name: finite[name] for name in wanted.values()})
    leaves = jax.device_put({path: copies[path] for path in wanted})
    if skip:
        images = jnp.zeros((1, model.input_size, model.input_size, channels))

        @jax.jit  # XLA compiles only what these leaves need, not the whole network
        def skipped_leaves(rng: jax.Array) -> dict[Path, jax.Array]:
            fresh = traverse_util.flatten_dict(model.init(rng, images))
            return {path: leaf for path, leaf in fresh.items() if path not in wanted}

        leaves |= skipped_leaves(rng)
    return traverse_util.unflatten_dict(leaves)


def from_torch_unchecked(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a state dict by the names and ranks of its tensors alone, without a model.

    Warns if a value is NaN or infinite, naming the first such tensor.

    Args:
        state_dict: see :func:`from_torch`; only ``module.`` and ``_orig_mod.`` are removed.

    Returns:
        Flax variables of host arrays. A ``weight`` with one axis is taken as the scale of a
        normalization, any other as a kernel.

    Raises:
        UserError: for a ``weight`` with a number of axes that no image network uses, or values
            that are not floating.
    """
    arrays = clean_state_dict(state_dict)
    # Buffers of other names (indices, for example) may be integers.
    values = {n: a for n, a in arrays.items() if n.rpartition(".")[2] in _LEAF_NAMES.values()}
    _check_dtypes(values)
    warn_if_not_finite({name: is_finite(array) for name, array in values.items()})
    leaves = {}
    for name, array in arrays.items():
        *scope, leaf = name.split(".")
        leaf = "scale" if leaf == "weight" and array.ndim == 1 else _KERNELS.get(leaf, leaf)
        if leaf.startswith("kernel") and array.ndim not in _TO_TORCH_AXES:
            raise UserError(
                f"{name} has shape {array.shape}, which no layer of an image network has; "
                f"weights of one, two or four axes can be converted."
            )
        collection = "batch_stats" if leaf in _STATISTICS else "params"
        path = (collection, *scope, _STATISTICS.get(leaf, leaf))
        leaves[path] = _to_flax(array, path)
    return traverse_util.unflatten_dict(leaves)


def nested_variables(tensors: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Flax variables from the tensors that :func:`jaxcnn.convert.save` wrote; else None.

    Args:
        tensors: from :func:`jaxcnn.convert.load_checkpoint`.

    Returns:
        Host arrays, with their own dtypes; None if the names are not those of Flax variables.
    """
    if not any(name.startswith("params/") for name in tensors):
        return None
    return traverse_util.unflatten_dict(dict(tensors), sep="/")


def classes_of_heads(state_dict: Mapping[str, Any], model: Classifier) -> dict[str, int]:
    """The number of classes of each head in a state dict.

    Args:
        state_dict: see :func:`from_torch`.
        model: the network, with any ``num_classes``.

    Returns:
        The numbers by the names of the model's classifier layers (``{"fc": 1000}``), for those
        that the state dict has.
    """
    arrays = clean_state_dict(state_dict, model)
    weights = {layer: arrays.get(f"{layer}.weight") for layer in model.classifier}
    return {
        layer: weight.shape[0]
        for layer, weight in weights.items()
        if weight is not None and weight.ndim
    }


def _input_channels(arrays: Mapping[str, np.ndarray], model: Classifier) -> int:
    kernel = arrays.get(f"{model.first_conv}.weight")
    return kernel.shape[1] if kernel is not None and kernel.ndim == 4 else 3


def clean_state_dict(
    state_dict: Mapping[str, Any], model: Classifier | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a state dict under torchvision's present names, without counters.

    Args:
        state_dict: see :func:`from_torch`.
        model: whose names to look for behind a prefix; None: only the prefixes of DataParallel
            and ``torch.compile`` are removed, if all names have them.

    Returns:
        Arrays by name. A name without the prefix of the others stays as it is; if that name
        exists with the prefix as well, it says so and matches nothing.
    """
    values = {
        name: value
        for name, value in state_dict.items()
        if name.rpartition(".")[2] != _COUNTER and name != "n_averaged"
    }
    if prefix := _prefix(values, model):
        values = {
            f"{name} (beside {prefix}{name})"
            if f"{prefix}{name}" in values
            else name.removeprefix(prefix): value
            for name, value in values.items()
        }
    for pattern, replacement in _OLD_SPELLINGS:
        values = {pattern.sub(replacement, name): value for name, value in values.items()}
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return arrays if model is None else torchvision_names(arrays, model)


def _prefix(names: Collection[str], model: Classifier | None) -> str:
    """What a training framework has put before the names of the model."""
    if model is not None:
        # Found by a layer of the model, whose own names may start with such a word, too.
        for layer in (model.first_conv, *model.classifier):
            found = [
                name.removesuffix(f"{layer}.weight")
                for name in names
                if name.endswith(f"{layer}.weight")
            ]
            prefixes = [p for p in found if re.fullmatch(f"(?:{_PREFIX.pattern})*", p)]
            if prefixes:
                return min(prefixes, key=len)
    pattern = _WRAPPER if model is None else _PREFIX
    prefix = ""
    while (match := pattern.match(next(iter(names), ""), len(prefix))) and all(
        name.startswith(prefix + match[0]) for name in names
    ):
        prefix += match[0]
    return prefix


def _mismatch(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], model: Classifier
) -> str | None:
    """The error message if a state dict does not fit a model; None: it fits.

    Args:
        arrays: the state dict.
        shapes: that the model needs, by name.
        model: the network.
    """
    missing = [name for name in shapes if name not in arrays]
    unexpected = sorted(arrays.keys() - shapes.keys())
    wrong = {n: s for n, s in shapes.items() if n in arrays and arrays[n].shape != s}
    problems = [
        *(f"missing {name}" for name in missing),
        *(f"unexpected {name}" for name in unexpected),
        *(
            f"{name} has shape {arrays[name].shape} where the model has {shape}"
            for name, shape in wrong.items()
        ),
    ]
    if not problems:
        return None
    what = f"The state dict does not fit this {type(model).__name__}"
    cause = _likely_cause(arrays, missing, wrong, model)
    if len(problems) <= _FEW:
        return f"{what}: {'; '.join(problems)}.{cause}"
    counts = [
        f"{count} {of} {'names' if count > 1 else 'name'}"
        for of, count in (("missing", len(missing)), ("unexpected", len(unexpected)))
        if count
    ] + [f"{len(wrong)} with another shape"] * bool(wrong)
    examples = [*missing[:2], *unexpected[:2], *list(wrong)[:2]]
    return (
        f"{what}: {', '.join(counts)} (such as {', '.join(examples)}).{cause}\n"
        f"All of them: {'; '.join(problems)}."
    )


def _likely_cause(
    arrays: Mapping[str, np.ndarray],
    missing: Sequence[str],
    wrong: Mapping[str, tuple[int, ...]],
    model: Classifier,
) -> str:
    """A sentence on why a state dict does not fit, after a space; or an empty string."""
    if not arrays:
        return " It is empty."
    if missing:
        endings = [name.removesuffix(missing[0]) for name in arrays if name.endswith(missing[0])]
        for prefix in endings:
            if prefix and all(f"{prefix}{name}" in arrays for name in missing):
                return f" Remove {prefix!r} from the start of its names."
    elif wrong and all(name.startswith(tuple(f"{c}." for c in model.classifier)) for name in wrong):
        classes = classes_of_heads(arrays, model)
        count = next(iter(classes.values()), None)
        if count != model.num_classes:
            return (
                f" It has {count} classes where num_classes is {model.num_classes}: build the "
                f"model with num_classes={count}, or leave the head out with "
                f"skip={tuple(classes)!r} and rng=jax.random.key(0)."
            )
    names = _architectures(arrays)
    return f" It looks like {' or '.join(names[:3])}; check the architecture." if names else ""


def _architectures(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The architectures that have as many parameters, apart from the number of classes."""
    sizes = {n: a.size for n, a in arrays.items() if n.rpartition(".")[2] not in _STATISTICS}
    total = sum(sizes.values())
    totals = {total}
    for name, array in arrays.items():
        if name.endswith(".weight") and array.ndim in (2, 4) and array.size:
            head = array.size + sizes.get(f"{name.removesuffix('weight')}bias", 0)
            totals.add(total - head + head // array.shape[0] * 1000)
    return [name for name in list_models() if model_info(name).parameters in totals]


def _check_dtypes(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse integers and complex numbers, with which a network would compute nonsense."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"{name} is {array.dtype}; the weights of a network must be floating, so convert "
                f"them first (a quantized model: dequantize it)."
            )


def is_finite(array: np.ndarray) -> bool:
    """Whether no value of a floating array is NaN or infinite."""
    if array.dtype.kind == "f":
        # The sum of finite values is finite unless it overflows, and needs no array of booleans.
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum()):
                return True
    return bool(np.isfinite(array).all())


def warn_if_not_finite(finite: Mapping[str, bool]) -> None:
    """Warn if arrays have NaN or infinite values, naming the first one.

    Args:
        finite: the result of :func:`is_finite` for each array, by name.
    """
    bad = [name for name, is_finite_ in finite.items() if not is_finite_]
    if bad:
        warnings.warn(
            f"{bad[0]} has values that are NaN or infinite ({len(bad)} of {len(finite)} tensors "
            f"have); a network with them computes no useful outputs.",
            stacklevel=3,
        )


def expected_torch_shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a model's torch state dict, for three channels; no weights made."""
    expected = expected_shapes(model, 3)
    return {_torch_name(path): _torch_shape(path, shape) for path, shape in expected.items()}


@functools.lru_cache(maxsize=8)
def expected_shapes(model: Classifier, channels: int) -> dict[Path, tuple[int, ...]]:
    """The paths and shapes of a model's variables, for images of its input size; none are made."""
    images = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, channels), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = traverse_util.flatten_dict(jax.eval_shape(model.init, key, images))
    return {path: leaf.shape for path, leaf in variables.items()}


def _to_flax(array: np.ndarray, path: Path) -> np.ndarray:
    return array.transpose(_axes(path, array.ndim, _TO_FLAX_AXES))


def _memory_for(sources: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Uninitialized arrays of the same shapes and dtypes, in C order.

    They are aligned so that JAX on a CPU uses them without another copy.
    """
    block = np.empty(0, np.uint8)
    for source in sources:
        size = -(-source.nbytes // ALIGNMENT) * ALIGNMENT
        if size > block.size:
            block = np.empty(max(size, BLOCK) + ALIGNMENT, np.uint8)
            block = block[-block.ctypes.data % ALIGNMENT :]
        yield block[: source.nbytes].view(source.dtype).reshape(source.shape)
        block = block[size:]


def _copy(source: np.ndarray, copy: np.ndarray) -> bool:
    """Copy an array; returns whether all values are finite, which is cheapest to find out here."""
    if source.ndim not in _TO_TORCH_AXES:
        copy[...] = source
    else:
        # Some rows of torch's array at a time, from a place where they are not a power of two of
        # bytes apart: such rows would drive each other out of the processor's cache.
        axes = _TO_TORCH_AXES[source.ndim]
        rows, copied = source.transpose(axes), copy.transpose(axes)
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            size = some[0].size
            place = np.empty((len(some), size + ALIGNMENT // some.itemsize), some.dtype)[:, :size]
            place[...] = some.reshape(len(some), size)
            copied[start : start + ROWS] = place.reshape(some.shape)
    return is_finite(copy)


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert Flax variables to a torch state dict: the exact inverse of :func:`from_torch`.

    Args:
        variables: ``{"params": ...}`` with or without ``"batch_stats"``; other collections have
            no counterpart in torch and are left out.

    Returns:
        Arrays by torch's names, in C order, ready for ``torch.from_numpy`` and
        ``load_state_dict(strict=True)``; ``num_batches_tracked`` is an int64 zero. (torchvision's
        MNASNets reject any plain dict: set its ``_metadata`` to that of the module's own.)

    Raises:
        UserError: for a kernel with a number of axes that no image network uses.

    Example::

        state_dict = {k: torch.from_numpy(v) for k, v in to_torch(variables).items()}
    """
    state_dict = {}
    for path, value in traverse_util.flatten_dict(dict(variables)).items():
        if path[0] not in ("params", "batch_stats"):
            continue
        array = np.asarray(value)
        array = array.transpose(_axes(path, array.ndim, _TO_TORCH_AXES))
        state_dict[_torch_name(path)] = np.array(array, order="C")
        if path[-1] == "var":
            state_dict[".".join([*path[1:-1], _COUNTER])] = np.zeros((), np.int64)
    return state_dict
