"""A table of what a network consists of: shapes, parameters, cost, receptive fields, memory."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from jaxcnn.errors import UserError
from jaxcnn.models.arithmetic import (
    ReceptiveField,
    Size,
    conv_multiply_adds,
    dense_multiply_adds,
    pair,
)
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    Conv,
    ConvTranspose,
    Lambda,
    Linear,
    MaxPool,
    avg_pool,
    max_pool,
    traced_for,
)
from jaxcnn.models.receptive_fields import Views, receptive_fields
from jaxcnn.models.registry import create_model

__all__ = ["Summary", "SummaryRow", "summary"]

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One module of a network, with those of its children that have no row of their own.

    Attributes:
        path: names of the modules around it and its own, joined by dots, as in a state dict; ""
            for the network.
        kind: name of its class; of a function as a layer, name of the function.
        depth: number of names in ``path``.
        output_shape: ``[N, H, W, C]`` or ``[N, C]``; None: it runs in training only, as
            auxiliary heads do.
        parameters: number of parameters; those of all rows add up to ``Summary.parameters``.
        multiply_adds: in convolutions and dense layers, for the whole batch; those of all rows add
            up to ``Summary.multiply_adds``.
        kernel_size: height and width; this and the next four: None unless it is a convolution or
            a pooling layer.
        stride: height and width.
        padding: height and width, on each side.
        dilation: height and width.
        groups: of channels; None for pooling.
        receptive_field: of height and width: what its output units see of the image by way of
            convolutions, pooling and shortcuts. Where all units see the same, as after global
            pooling, its jump is 0. None: the module does not run or does not depend on the image.
        shared_field: of height and width: what every unit sees besides, by way of a mean over the
            whole map, as after squeeze-and-excitation; None: nothing. The table prints "all".
    """

    path: str
    kind: str
    depth: int
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int
    kernel_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] | None = None
    dilation: tuple[int, int] | None = None
    groups: int | None = None
    receptive_field: tuple[ReceptiveField, ReceptiveField] | None = None
    shared_field: tuple[ReceptiveField | None, ReceptiveField | None] = (None, None)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Memory of training with SGD and momentum, in bytes.

    Attributes:
        parameters: the parameters, and the running statistics of batch norms.
        gradients: one value per parameter.
        optimizer: likewise, for the momentum. (Adam needs twice as much, SGD without momentum
            none.)
        activations: the outputs of the layers (the modules without children) for the whole batch,
            once. The outputs of functions between the layers are not counted, and the compiler
            may keep fewer or more; so this is for comparing networks.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Of all four."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclasses.dataclass(frozen=True)
class Summary:
    """What :func:`summary` returns.

    Attributes:
        name: of the network.
        input_shape: of the images, ``[N, H, W, C]``.
        rows: the modules, in the order in which they run, each before its children.
        parameters: number of parameters.
        training_only: how many of them belong to auxiliary heads, which run in training only.
        multiply_adds: of a forward pass of the batch, in convolutions and dense layers.
        memory: of training.
    """

    name: str
    input_shape: tuple[int, int, int, int]
    rows: tuple[SummaryRow, ...]
    parameters: int
    training_only: int
    multiply_adds: int
    memory: Memory

    def text(self) -> str:
        """A table for a terminal, followed by the totals."""
        cells = [_HEADS, *(_cells(row, self.name) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for row in cells:
            left = zip(row[:_LEFT], widths, strict=False)
            right = zip(row[_LEFT:], widths[_LEFT:], strict=True)
            lines.append(
                "  ".join([*(c.ljust(w) for c, w in left), *(c.rjust(w) for c, w in right)])
            )
        rule = "-" * len(lines[0])
        lines = [line.rstrip() for line in lines]
        return "\n".join([lines[0], rule, *lines[1:], rule, *self._totals(), ""])

    def markdown(self) -> str:
        """A Markdown table, followed by the totals."""
        rule = "|" + "|".join(["---"] * _LEFT + ["---:"] * (len(_HEADS) - _LEFT)) + "|"
        lines = [f"| {' | '.join(_HEADS)} |", rule]
        for row in self.rows:
            _, *others = _cells(row, self.name)
            cells = [f"`{row.path or self.name}`", *others]
            lines.append(f"| {' | '.join(cells)} |".replace("  ", " "))
        lines.append("")
        for line in self._totals():
            item = line.lstrip()
            lines.append(f"{' ' * (len(line) - len(item))}* {item}")
        return "\n".join([*lines, ""])

    def json(self) -> str:
        """Everything, as a JSON object."""
        values = dataclasses.asdict(self)
        values["memory"]["total"] = self.memory.total
        return json.dumps(values, indent=2) + "\n"

    def _totals(self) -> Iterator[str]:
        yield f"input: {_times(self.input_shape)}"
        heads = f" ({self.training_only:,} run in training only)" * (self.training_only > 0)
        yield f"parameters: {self.parameters:,}{heads}"
        yield f"multiply-adds: {self.multiply_adds:,} (convolutions and dense layers)"
        memory, batch = self.memory, self.input_shape[0]
        yield f"memory of training with a batch of {batch:,}: {_megabytes(memory.total)}"
        yield f"  parameters {_megabytes(memory.parameters)}"
        yield f"  gradients {_megabytes(memory.gradients)}"
        yield f"  momentum of SGD {_megabytes(memory.optimizer)}"
        yield f"  outputs of the layers {_megabytes(memory.activations)}"


_HEADS = (
    *("layer", "kind", "output", "kernel", "stride", "padding"),
    *("parameters", "multiply-adds", "field", "jump", "start"),
)
_LEFT = 3  # columns that are aligned to the left


def _cells(row: SummaryRow, name: str) -> tuple[str, ...]:
    own = row.path.rpartition(".")[2]
    indented = "  " * row.depth + own if row.depth else name
    field: tuple[str, ...] = ("", "", "")
    if row.receptive_field is not None:
        sizes = [
            str(axis.size) if shared is None else "all"
            for axis, shared in zip(row.receptive_field, row.shared_field, strict=True)
        ]
        jumps = [str(axis.jump) if axis.jump else "" for axis in row.receptive_field]
        field = (_both(sizes), _both(jumps), _both([axis.start for axis in row.receptive_field]))
    return (
        indented,
        row.kind,
        "training only" if row.output_shape is None else _times(row.output_shape),
        *(_both(value) for value in (row.kernel_size, row.stride, row.padding)),
        *(f"{number:,}" if number else "" for number in (row.parameters, row.multiply_adds)),
        *field,
    )


def _both(values: Sequence[Any] | None) -> str:
    """Height x width, or one number if they are equal."""
    if values is None:
        return ""
    height, width = values
    return str(height) if height == width else f"{height} x {width}"


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def summary(
    model: Classifier | str,
    *,
    image_size: Size | None = None,
    channels: int = 3,
    batch_size: int = 1,
    depth: int | None = 2,
    **kwargs: Any,
) -> Summary:
    """Describe a network in evaluation, layer by layer, without computing or allocating anything.

    Args:
        model: a network, or its name.
        image_size: height and width of the images, in pixels; None: ``model.input_size``.
        channels: of the images.
        batch_size: number of images.
        depth: how far down the modules have rows; those below are added to the row above; None:
            all the way.
        **kwargs: with a name, arguments of its builder, such as ``num_classes``.

    Returns:
        The rows and totals; ``.text()`` is what ``jaxcnn summary`` prints.

    Raises:
        UserError: for an unknown name or argument, sizes that are not positive, or images that are
            too small for the network.

    Example::

        >>> models.summary("resnet50").multiply_adds
        4089184256
        >>> print(models.summary(models.resnet18(num_classes=10), image_size=96).text())
    """
    name = model if isinstance(model, str) else type(model).__name__
    if isinstance(model, str):
        model = create_model(model, **kwargs)
    elif kwargs:
        raise UserError(
            f"{', '.join(kwargs)} cannot be changed on a network that is built already; build it "
            "with them, or give its name."
        )
    size = pair(model.input_size if image_size is None else image_size)
    positive = {"image_size": min(size), "channels": channels, "batch_size": batch_size}
    for what, value in positive.items():
        if value < 1:
            raise UserError(f"{what}={value} must be at least 1.")
    if depth is not None and depth < 0:
        raise UserError(f"depth={depth} must be at least 0; 0 is the network as a whole.")
    input_shape = (batch_size, *size, channels)
    return _summarized(name, input_shape, _trace(model, input_shape), depth)


@dataclasses.dataclass
class _Module:
    """A module that was called, with what belongs to it alone.

    ``output`` is None, and ``multiply_adds`` 0, if it runs in training only.
    """

    kind: str
    details: dict[str, Any]
    multiply_adds: int = 0
    output: jax.ShapeDtypeStruct | None = None
    views: Views = None
    parameters: int = 0


@dataclasses.dataclass(frozen=True)
class _Trace:
    """The modules by path, each before its children, and the variables as shapes and dtypes."""

    modules: dict[Path, _Module]
    variables: Mapping[str, Any]


def _trace(model: Classifier, input_shape: tuple[int, ...]) -> _Trace:
    # Random initial weights take longer to trace than the network.
    model = model.clone(weight_init=0.0)
    key = jax.eval_shape(lambda: jax.random.key(0))
    images = jax.ShapeDtypeStruct(input_shape, jnp.float32)

    def apply(key: jax.Array, images: jax.Array) -> Any:
        """The variables that evaluation needs, created on the way, and all modules' outputs."""
        # Not __call__: with an image that is too small, it would look for missing variables.
        return model.apply(
            {},
            images,
            method="forward",
            rngs={"params": key},
            mutable=["params", "batch_stats", "intermediates"],  # not the switches of pooling
            capture_intermediates=_has_row,
        )[1]

    modules: dict[Path, _Module] = {}
    try:
        with traced_for("any"), nn.intercept_methods(functools.partial(_record, modules)):
            jaxpr, variables = jax.make_jaxpr(apply, return_shape=True)(key, images)
    except UserError:
        jax.eval_shape(model.init, key, images)  # its message knows the smallest size
        raise
    views = receptive_fields(jaxpr, images=1)
    _add_outputs(modules, variables, views)

    if len(model.classifier) > 1:  # auxiliary heads
        all_modules: dict[Path, _Module] = {}
        with nn.intercept_methods(functools.partial(_record, all_modules)):
            variables = jax.eval_shape(model.init, key, images)
        for path, module in all_modules.items():
            modules.setdefault(path, dataclasses.replace(module, multiply_adds=0))

    for (*path, _), leaf in traverse_util.flatten_dict(variables["params"]).items():
        modules[tuple(path)].parameters += leaf.size
    return _Trace(modules, variables)


def _has_row(module: nn.Module, method: str) -> bool:
    if isinstance(module, nn.Dropout):  # it is within ours, which has one
        return False
    return method == ("__call__" if module.path else "forward")


def _record(
    modules: dict[Path, _Module],
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Note a module that is called, and call it: an interceptor of Flax."""
    module = context.module
    if not _has_row(module, context.method_name):
        return call(*args, **kwargs)
    noted = modules.setdefault(module.path, _Module(*_description(module)))
    output = call(*args, **kwargs)
    noted.multiply_adds += _multiply_adds(module, args[0], output) if args else 0
    return output


def _description(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """The kind of a module, and the fields of its row that describe its window."""
    kind = type(module).__name__
    if isinstance(module, (Conv, ConvTranspose)):
        fields = ("kernel_size", "stride", "padding", "dilation")
        window = {field: pair(getattr(module, field)) for field in fields}
        return kind, window | {"groups": module.groups}
    if isinstance(module, MaxPool):
        return kind, _pooling_window(module.kernel_size, module.stride, module.padding)
    if isinstance(module, Lambda):
        function, given = module.function, {}
        if isinstance(function, functools.partial):
            function, given = function.func, function.keywords
        name = getattr(function, "__name__", "<lambda>")
        if function in (max_pool, avg_pool):
            fields = {"kernel_size", "stride", "padding"} & given.keys()
            return name, _pooling_window(**{field: given[field] for field in fields})
        return (kind if name == "<lambda>" else name), {}
    return kind, {}


def _pooling_window(
    kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> dict[str, Any]:
    return {
        "kernel_size": pair(kernel_size),
        "stride": pair(kernel_size if stride is None else stride),
        "padding": pair(padding),
        "dilation": (1, 1),
    }


def _multiply_adds(module: nn.Module, x: Any, output: Any) -> int:
    """Of a call of a convolution or a dense layer; 0 of any other module."""
    if isinstance(module, (Conv, ConvTranspose)):
        # A transposed convolution costs what the one costs whose gradient it is.
        images, *size, _ = x.shape if isinstance(module, ConvTranspose) else output.shape
        return images * conv_multiply_adds(
            x.shape[-1], module.features, module.kernel_size, tuple(size), module.groups
        )
    if isinstance(module, Linear):
        positions = math.prod(x.shape[:-1])
        return dense_multiply_adds(x.shape[-1], module.features, positions)
    return 0


@dataclasses.dataclass(frozen=True)
class _Output:
    shape: jax.ShapeDtypeStruct
    views: Views


def _add_outputs(
    modules: dict[Path, _Module], variables: Mapping[str, Any], views: list[Views]
) -> None:
    """Add the captured outputs, and what they see of the image, to the modules."""
    shapes, tree = jax.tree.flatten(variables)
    outputs = jax.tree.unflatten(tree, map(_Output, shapes, views))
    for (*path, _), calls in traverse_util.flatten_dict(outputs["intermediates"]).items():
        last = jax.tree.leaves(calls)[-1]
        module = modules[tuple(path)]
        module.output, module.views = last.shape, last.views


def _summarized(
    name: str, input_shape: tuple[int, int, int, int], trace: _Trace, depth: int | None
) -> Summary:
    modules, parents = trace.modules, {path[:-1] for path in trace.modules}
    sums: dict[Path, list[int]] = {}  # parameters and multiply-adds of each row
    for path, module in modules.items():
        shown = sums.setdefault(path if depth is None else path[:depth], [0, 0])
        shown[0] += module.parameters
        shown[1] += module.multiply_adds
    rows = tuple(_row(path, modules[path], *totals) for path, totals in sums.items())
    params = _bytes(trace.variables["params"])
    layers = [m.output for path, m in modules.items() if path not in parents and m.output]
    return Summary(
        name=name,
        input_shape=input_shape,
        rows=rows,
        parameters=sum(m.parameters for m in modules.values()),
        training_only=sum(m.parameters for m in modules.values() if m.output is None),
        multiply_adds=sum(m.multiply_adds for m in modules.values()),
        memory=Memory(
            parameters=params + _bytes(trace.variables.get("batch_stats", {})),
            gradients=params,
            optimizer=params,
            activations=_bytes(layers),
        ),
    )


def _row(path: Path, module: _Module, parameters: int, multiply_adds: int) -> SummaryRow:
    seen: dict[str, Any] = {}
    if module.views is not None:
        seen["receptive_field"] = tuple(view.field for view in module.views)
        seen["shared_field"] = tuple(view.shared if view.local else None for view in module.views)
    return SummaryRow(
        path=".".join(path),
        kind=module.kind,
        depth=len(path),
        output_shape=module.output and module.output.shape,
        parameters=parameters,
        multiply_adds=multiply_adds,
        **module.details,
        **seen,
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
