"""Where two networks first differ: every layer's output in PyTorch and in Flax, side by side."""

import dataclasses
import os.path
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn
from flax import traverse_util

from jaxcnn.convert.state_dict import from_torch_unchecked
from jaxcnn.testing.arrays import LOGITS, channels_first, relative_error
from jaxcnn.testing.compiling import jit
from jaxcnn.testing.randomize import reference_copy

__all__ = ["Comparison", "LayerRow", "compare"]

Path = tuple[str, ...]
Arrays = Sequence[Any]
_DIFFERENT_SHAPES = float("inf")


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One call of one layer in both networks.

    Attributes:
        path: dotted path, the same in both; "" for the network itself.
        kinds: name of the Flax module's class, and of the PyTorch module's.
        settings: what Flax and what PyTorch print of the layer.
        shapes: of its first output here, ``[N, H, W, C]``, and there, ``[N, C, H, W]``.
        input_error: relative error of its inputs; None: they have no counterpart.
        error: relative error of its outputs; infinite if their shapes differ.
    """

    path: str
    kinds: tuple[str, str]
    settings: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    input_error: float | None
    error: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        rows: the layers that both networks have, in the order in which they end: a layer before
            the one that it is in.
        problems: what else differs: parameters that only one network has or whose shapes differ,
            and errors that ended a network early.
        tolerance: largest relative error that counts as equal.
        first_difference: a sentence that names the first layer that differs; if none does, the
            first of the problems; None: the networks are equal.
        equal: whether the networks are equal.
    """

    rows: Sequence[LayerRow]
    problems: Sequence[str]
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        return not self.problems and all(row.error <= self.tolerance for row in self.rows)

    @property
    def first_difference(self) -> str | None:
        """Where the networks first differ."""
        before: LayerRow | None = None
        for row in self.rows:
            if row.input_error is not None and row.input_error > self.tolerance:
                return self._between(before, row)
            if row.error > self.tolerance:
                return self._within(before, row)
            before = row
        return self.problems[0] if self.problems else None

    def _between(self, before: LayerRow | None, row: LayerRow) -> str:
        """Of code that is no layer of its own, such as an activation function."""
        if before is None:
            return f"The input of {_quoted(row.path)}, the first layer, differs."
        if before.path.startswith(f"{row.path}.") or not row.path:
            scope = row.path
        else:
            parts = [path.split(".")[:-1] for path in (before.path, row.path)]
            scope = ".".join(os.path.commonprefix(parts))
        return (
            f"The first difference is in {_quoted(scope)}, between {_quoted(before.path)}, whose "
            f"output is the same, and {_quoted(row.path)}, whose input differs"
            f"{_by(row.input_error)}."
        )

    def _within(self, before: LayerRow | None, row: LayerRow) -> str:
        here, there = row.settings
        where = ""
        if before is not None and (before.path.startswith(f"{row.path}.") or not row.path):
            where = f", after {_quoted(before.path)}, whose output is the same"
        sentence = (
            f"The first difference is in {_quoted(row.path)}{where}: its input is the same, its "
            f"output differs{_by(row.error)}."
        )
        if row.error == _DIFFERENT_SHAPES:
            sentence += f" It is {list(row.shapes[0])} here, {list(row.shapes[1])} in PyTorch."
        return sentence if where else f"{sentence} Here it is {here}; in PyTorch {there}."

    def __str__(self) -> str:
        """A table of the layers, and where they first differ."""
        heads = ("layer", "Flax", "PyTorch", "output", "input error", "error")
        cells = [heads, *(self._cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for row in cells:
            left = (cell.ljust(width) for cell, width in zip(row[:4], widths[:4], strict=True))
            right = (cell.rjust(width) for cell, width in zip(row[4:], widths[4:], strict=True))
            lines.append("  ".join([*left, *right]).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        difference = self.first_difference
        if difference is None:
            difference = f"All {len(self.rows)} layers are equal to {self.tolerance:.0e}."
        return "\n".join([*lines, *(p for p in self.problems if p != difference), difference])

    def _cells(self, row: LayerRow) -> tuple[str, ...]:
        mark = " <" if row.error > self.tolerance else "  "
        known = row.input_error is not None
        return (
            row.path or "(the network)",
            *row.kinds,
            "x".join(map(str, row.shapes[0])),
            f"{row.input_error:.1e}" if known else "",
            ("shapes differ" if row.error == _DIFFERENT_SHAPES else f"{row.error:.1e}") + mark,
        )


def compare(
    flax_module: nn.Module,
    torch_module: torch.nn.Module,
    example: Any,
    *,
    variables: Mapping[str, Any] | None = None,
    train: bool = False,
    seed: int | None = 0,
    tolerance: float = LOGITS,
) -> Comparison:
    """Compare two networks layer by layer in float64, and print the table.

    The layers of both are found by their paths, which must be the same in both networks, as
    :func:`jaxcnn.convert.from_torch` wants them. What is a layer in only one of them (an activation
    function, say) is compared by the input of the layer that follows.

    Args:
        flax_module: called as ``flax_module(x, train=train)``.
        torch_module: is left as it is; a copy is compared.
        example: the input, as the Flax module takes it: images ``[N, H, W, C]``, or ``[N, C]``.
        variables: of the Flax module, if they are not those of the PyTorch module by the one rule
            of names and axes; ``seed`` must then be None.
        train: whether to compare in training mode. Dropout and stochastic depth must be off.
        seed: of random values for all parameters and running statistics (see
            :func:`jaxcnn.testing.randomize`), so that none is zero or one; None: the values that
            the PyTorch module has.
        tolerance: largest relative error that counts as equal.

    Returns:
        What was printed, as data. A network that ends with an error is compared as far as it runs.

    Raises:
        ValueError: if ``variables`` and ``seed`` are given.

    Example::

        comparison = compare(models.resnet50(), torchvision.models.resnet50(), images)
        assert comparison.equal, comparison.first_difference
    """
    if variables is not None and seed is not None:
        raise ValueError("variables belong to the PyTorch module's own values; use seed=None")
    reference = reference_copy(torch_module, train, seed)
    example = np.asarray(example, np.float64)
    with jax.enable_x64(True):
        if variables is None:
            variables = from_torch_unchecked(reference.state_dict())
        variables, problems = _fitted(flax_module, variables, example)
        theirs, their_problem = _torch_calls(reference, example)
        ours, our_problem = _flax_calls(flax_module, variables, example, train)
    problems += [problem for problem in (our_problem, their_problem) if problem]
    comparison = Comparison(_rows(ours, theirs), tuple(problems), tolerance)
    print(comparison)
    return comparison


@dataclasses.dataclass
class _Call:
    """One call of one module."""

    kind: str
    settings: str
    inputs: Arrays
    outputs: Arrays


Calls = dict[tuple[str, int], _Call]


def _fitted(
    module: nn.Module, variables: Mapping[str, Any], example: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """Variables with which the Flax module runs, and how they are not PyTorch's.

    What PyTorch has not is filled with what changes nothing, so that the layers after it can be
    compared.
    """
    leaves = traverse_util.flatten_dict(dict(variables))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(example))
    expected = {
        path: leaf.shape
        for path, leaf in traverse_util.flatten_dict(dict(shapes)).items()
        if path[0] in ("params", "batch_stats")
    }
    problems = []
    for path, shape in expected.items():
        if path not in leaves:
            problems.append(f"{_leaf(path)} exists in the Flax module only.")
        elif leaves[path].shape != shape:
            problems.append(
                f"{_leaf(path)} has shape {list(shape)} in the Flax module; PyTorch's has "
                f"{list(leaves[path].shape)}."
            )
        else:
            continue
        leaves[path] = np.full(shape, float(path[-1] in ("scale", "var")))
    for path in leaves.keys() - expected.keys():
        problems.append(f"{_leaf(path)} exists in the PyTorch module only.")
    return traverse_util.unflatten_dict({path: leaves[path] for path in expected}), problems


def _torch_calls(module: torch.nn.Module, example: np.ndarray) -> tuple[Calls, str | None]:
    """Every call of every module within, in the order in which they end."""
    calls: Calls = {}
    counts: dict[str, int] = {}
    inputs: dict[str, list[Arrays]] = {}

    def start(path: str) -> Callable[..., None]:
        # Copies, because activations may work in place.
        return lambda _, args: inputs.setdefault(path, []).append(_copies(args))

    def end(path: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Module, _: Any, output: Any) -> None:
            index = counts[path] = counts.get(path, -1) + 1
            kind = type(layer).__name__
            call = _Call(kind, f"{kind}({layer.extra_repr()})", inputs[path].pop(), _copies(output))
            calls[path, index] = call

        return hook

    for path, layer in module.named_modules():
        layer.register_forward_pre_hook(start(path))
        layer.register_forward_hook(end(path))
    try:
        with torch.no_grad():
            module(torch.from_numpy(channels_first(example)))
    except (RuntimeError, ValueError) as error:
        return calls, f"The PyTorch module ended with an error: {_first_line(error)}"
    return calls, None


def _copies(values: Any) -> Arrays:
    """The floating arrays in a module's arguments or outputs."""
    if isinstance(values, torch.Tensor):
        return [values.detach().numpy().copy()] if values.is_floating_point() else []
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in _copies(value)]
    return []


def _flax_calls(
    module: nn.Module, variables: dict[str, Any], example: np.ndarray, train: bool
) -> tuple[Calls, str | None]:
    """The same of the Flax module."""
    described: list[tuple[tuple[str, int], str, str]] = []
    problem: str | None = None

    def run(variables: dict[str, Any], x: jax.Array) -> list[tuple[Arrays, Arrays]]:
        nonlocal problem
        arrays = []
        counts: dict[str, int] = {}

        def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
            output = function(*args, **kwargs)
            if context.method_name == "__call__":
                layer = context.module
                path = ".".join(layer.path)
                index = counts[path] = counts.get(path, -1) + 1
                described.append(((path, index), type(layer).__name__, _settings(layer)))
                arrays.append((_floats((args, kwargs)), _floats(output)))
            return output

        try:
            with nn.intercept_methods(intercept):
                module.apply(variables, x, train=train, mutable=["batch_stats"])
        except Exception as error:  # any: it belongs to the module under test, and is reported
            problem = f"The Flax module ended with an error: {_first_line(error)}"
        return arrays

    arrays = jax.tree.map(np.asarray, jit(run)(variables, jnp.asarray(example)))
    return {
        key: _Call(kind, settings, *pair)
        for (key, kind, settings), pair in zip(described, arrays, strict=True)
    }, problem


def _floats(values: Any) -> Arrays:
    leaves = jax.tree.leaves(values)
    return [leaf for leaf in leaves if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, float)]


def _settings(layer: nn.Module) -> str:
    """The class and its numbers, as PyTorch prints a layer."""
    values = {
        field.name: getattr(layer, field.name)
        for field in dataclasses.fields(layer)
        if field.name not in ("parent", "name", "dtype", "param_dtype")
    }
    simple = {
        name: value
        for name, value in values.items()
        if isinstance(value, (bool, int, float, str)) or type(value) is tuple
    }
    function = getattr(layer, "function", None)
    parts = [getattr(function, "__name__", "")] if function is not None else []
    parts += [f"{name}={value!r}" for name, value in simple.items()]
    return f"{type(layer).__name__}({', '.join(parts)})"


def _rows(ours: Calls, theirs: Calls) -> tuple[LayerRow, ...]:
    rows = []
    for key, call in ours.items():
        other = theirs.get(key)
        if other is None or not (call.outputs and other.outputs):
            continue
        rows.append(
            LayerRow(
                path=key[0],
                kinds=(call.kind, other.kind),
                settings=(call.settings, other.settings),
                shapes=(call.outputs[0].shape, other.outputs[0].shape),
                input_error=_error(call.inputs, other.inputs),
                error=_outputs_error(call.outputs, other.outputs),
            )
        )
    return tuple(rows)


def _outputs_error(ours: Arrays, theirs: Arrays) -> float:
    error = _error(ours, theirs)
    return _DIFFERENT_SHAPES if error is None else error


def _error(ours: Arrays, theirs: Arrays) -> float | None:
    """The largest relative error; None where there is another number of arrays."""
    if len(ours) != len(theirs) or not ours:
        return None
    errors = []
    for a, b in zip(ours, theirs, strict=True):
        a = channels_first(a)
        if a.shape != b.shape:
            return _DIFFERENT_SHAPES
        finite = np.isfinite(a).all() and np.isfinite(b).all()
        errors.append(relative_error(a, b) if finite else float(not np.array_equal(a, b, True)))
    return max(errors)


def _quoted(path: str) -> str:
    return f"{path!r}" if path else "the network itself"


def _by(error: float | None) -> str:
    return "" if error in (None, _DIFFERENT_SHAPES) else f" by {error:.1e}"


def _leaf(path: Path) -> str:
    return ".".join(path[1:])


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
