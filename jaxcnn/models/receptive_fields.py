"""The receptive field of every value that a network computes, read from its jaxpr.

The program is interpreted with, in place of each array, what its units see of the image. So what a
module does between its layers counts, too (pooling, branches, additions, squeeze-and-excitation),
and however a convolution is computed (see :mod:`jaxcnn.models.layers.convolve`).

Channels are not distinguished: the field of a unit is that of the channel that sees most.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from jaxcnn.models.arithmetic import ReceptiveField


@dataclasses.dataclass(frozen=True)
class View:
    """What the units of an array see of the image, along its height or its width.

    Attributes:
        axis: the array's axis along which the units of ``local`` lie; None: it has none.
        local: the field that moves with the unit, through convolutions, pooling and shortcuts.
        shared: what every unit sees, through global pooling or dense layers; its ``jump`` is 0.
    """

    axis: int | None = None
    local: ReceptiveField | None = None
    shared: ReceptiveField | None = None

    @property
    def field(self) -> ReceptiveField | None:
        """The field that moves with the unit, or if there is none the one that all units share."""
        return self.local or self.shared

    def moved(self, axis: int) -> "View":
        """The same for an array that has the units along another axis."""
        return dataclasses.replace(self, axis=axis)

    def through(
        self, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> "View":
        """The view after a window has moved along the axis."""
        # Parameters of jaxprs may be NumPy's integers.
        window = (int(value) for value in (kernel_size, stride, padding, dilation))
        local = self.local.through(*window)
        return dataclasses.replace(self, local=local)

    def collapsed(self, shape: Sequence[int]) -> "View":
        """The view of something that depends on all units of an array of a shape."""
        if self.local is None:
            return self
        return View(shared=_joined(self.local.of_all(shape[self.axis]), self.shared))

    def union(self, other: "View", shape: Sequence[int]) -> "View":
        """The view of something that depends on this and another array of the same shape."""
        one, two = self, other
        if one.local and two.local and (one.axis, one.local.jump) != (two.axis, two.local.jump):
            one, two = one.collapsed(shape), two.collapsed(shape)
        axis = one.axis if one.local else two.axis
        return View(axis, _joined(one.local, two.local), _joined(one.shared, two.shared))


# Of height and of width; None: the array does not depend on the image.
Views = tuple[View, View] | None
# An array whose values are known before the program runs, such as an averaging matrix; else None.
Known = Any


def receptive_fields(jaxpr: core.ClosedJaxpr, images: int) -> list[Views]:
    """What the outputs of a program see of its images.

    Args:
        jaxpr: the program.
        images: which of its arguments is the images, ``[N, H, W, C]``.

    Returns:
        The views of height and width for each output; None: it does not depend on the images.
        They contain every pixel that the output depends on. They are larger than necessary at the
        border, where a unit sees the padding of a map in between; for adaptive pooling to a size
        that does not divide the map's, whose windows differ; and for operations that no network
        here has (such as transposed convolutions or sorting), after which every unit counts as
        seeing the whole map.
    """
    arguments: list[Views] = [None] * len(jaxpr.in_avals)
    image = ReceptiveField()
    arguments[images] = (View(1, image), View(2, image))
    known = [None] * len(arguments)
    return [views for views, _ in _interpret(jaxpr.jaxpr, jaxpr.consts, arguments, known)]


def _interpret(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Views], known: Sequence[Known]
) -> list[tuple[Views, Known]]:
    environment: dict[Any, tuple[Views, Known]] = {}

    def read(atom: Any) -> tuple[Views, Known]:
        return (None, None) if isinstance(atom, core.Literal) else environment[atom]

    environment.update(zip(jaxpr.constvars, ((None, const) for const in consts), strict=True))
    environment.update(zip(jaxpr.invars, zip(arguments, known, strict=True), strict=True))
    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        results = _apply(equation, [v for v, _ in values], [k for _, k in values])
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, views: list[Views], known: list[Known]) -> list[tuple[Views, Known]]:
    """The views, and the values as far as they are known, of an operation's outputs."""
    inner = _called(equation)
    if inner is not None:
        return _interpret(inner.jaxpr, inner.consts, views, known)
    name = equation.primitive.name
    if not any(views):
        value = None
        if name in _EVALUATED and known[0] is not None:
            value = np.asarray(equation.primitive.bind(*known, **equation.params))
        return [(None, value)] * len(equation.outvars)
    if name == "optimization_barrier":
        return list(zip(views, known, strict=True))
    if name == "split":
        return [(view, None) for view in _split(equation, views[0])]
    rule = _RULES.get(name, _everything)
    shapes = [atom.aval.shape for atom in equation.invars]
    found = [
        tuple(
            rule(equation, operand, views_of[k], shapes, known)
            for k in range(2)  # height, width
        )
        for operand, views_of in enumerate(views)
        if views_of is not None
    ]
    shape = equation.outvars[0].aval.shape
    result = found[0]
    for other in found[1:]:
        result = tuple(a.union(b, shape) for a, b in zip(result, other, strict=True))
    return [(result, None)] * len(equation.outvars)


def _called(equation: Any) -> core.ClosedJaxpr | None:
    """The function that a call calls: of jit, a custom derivative, or rematerialization."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(key)
        if inner is not None and equation.primitive.name not in ("scan", "while", "cond"):
            return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
    return None


def _joined(one: ReceptiveField | None, other: ReceptiveField | None) -> ReceptiveField | None:
    return one.union(other) if one and other else one or other


# --- rules: (equation, which operand, its view, shapes of all operands, known values) -> view

_Rule = Callable[[Any, int, View, list[tuple[int, ...]], list[Known]], View]


def _everything(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    """Of an operation without a rule: each output depends on all of the operand."""
    return view.collapsed(shapes[operand])


def _elementwise(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    return view


def _convolution(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    parameters = equation.params
    numbers = parameters["dimension_numbers"]
    if operand != 0 or view.local is None:
        return view.collapsed(shapes[operand])
    if view.axis == numbers.lhs_spec[0]:
        return view.moved(numbers.out_spec[0])
    if view.axis not in numbers.lhs_spec[2:]:
        return view.collapsed(shapes[0])
    k = numbers.lhs_spec[2:].index(view.axis)
    if parameters["lhs_dilation"][k] != 1:
        return view.collapsed(shapes[0])
    return view.through(
        shapes[1][numbers.rhs_spec[2 + k]],
        parameters["window_strides"][k],
        parameters["padding"][k][0],
        parameters["rhs_dilation"][k],
    ).moved(numbers.out_spec[2 + k])


def _pooling(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    parameters = equation.params
    if view.local is None or parameters["base_dilation"][view.axis] != 1:
        return view.collapsed(shapes[operand])
    return view.through(
        parameters["window_dimensions"][view.axis],
        parameters["window_strides"][view.axis],
        parameters["padding"][view.axis][0],
        parameters["window_dilation"][view.axis],
    )


def _reduction(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    return _without(view, equation.params["axes"], shapes[operand])


def _squeeze(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    return _without(view, equation.params["dimensions"], shapes[operand])


def _without(view: View, axes: Sequence[int], shape: tuple[int, ...]) -> View:
    if view.local is None or view.axis in axes:
        return view.collapsed(shape)
    return view.moved(view.axis - sum(axis < view.axis for axis in axes))


def _product(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    contracted, batch = equation.params["dimension_numbers"]
    if view.local is None:
        return view
    if view.axis in batch[operand]:
        return view.moved(batch[operand].index(view.axis))

    def place(which: int, axis: int) -> int:
        """The output's axis of a free axis of an operand."""
        free = [
            [a for a in range(len(shapes[o])) if a not in (*contracted[o], *batch[o])]
            for o in (0, 1)
        ]
        return len(batch[0]) + (len(free[0]) if which else 0) + free[which].index(axis)

    if view.axis not in contracted[operand]:
        return view.moved(place(operand, view.axis))
    other = 1 - operand
    matrix = known[other]
    if matrix is None or np.ndim(matrix) != 2 or len(contracted[0]) != 1:
        return view.collapsed(shapes[operand])
    along = contracted[other][0]
    matrix = np.asarray(matrix) if along else np.asarray(matrix).T  # [outputs, inputs]
    return view.through(*_bands(matrix != 0)).moved(place(other, 1 - along))


def _bands(used: np.ndarray) -> tuple[int, int, int]:
    """Size, stride and padding of the windows in the rows ``[outputs, inputs]`` of a matrix.

    Where they differ, as large as one size and stride for all have to be.
    """
    first = used.argmax(1)
    last = used.shape[1] - 1 - used[:, ::-1].argmax(1)
    outputs = len(used)
    stride = max(1, round((first[-1] - first[0]) / max(1, outputs - 1)))
    steps = stride * np.arange(outputs)
    start, end = (first - steps).min(), (last - steps).max()
    return end - start + 1, stride, -start


def _transpose(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    if view.local is None:
        return view
    return view.moved(equation.params["permutation"].index(view.axis))


def _reshape(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    """Keep the axis if the output has one of the same size with as much before it."""
    shape, new = shapes[0], equation.params["new_sizes"]
    if view.local is not None:
        for axis, size in enumerate(new):
            before = math.prod(new[:axis]) == math.prod(shape[: view.axis])
            if before and size == shape[view.axis]:
                return view.moved(axis)
    return view.collapsed(shape)


def _broadcast(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    if view.local is None:
        return view
    axis = equation.params["broadcast_dimensions"][view.axis]
    same = equation.params["shape"][axis] == shapes[0][view.axis]
    return view.moved(axis) if same else view.collapsed(shapes[0])


def _slice(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    if view.local is None:
        return view
    strides = equation.params["strides"]
    stride = 1 if strides is None else strides[view.axis]
    return view.through(1, stride, -equation.params["start_indices"][view.axis])


def _pad(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    if view.local is None or operand != 0:
        return view.collapsed(shapes[operand])
    before, _, between = equation.params["padding_config"][view.axis]
    return view.collapsed(shapes[0]) if between else view.through(1, 1, before)


def _concatenation(equation: Any, operand: int, view: View, shapes: list, known: list) -> View:
    along = equation.params["dimension"] == view.axis
    return view.collapsed(shapes[operand]) if along else view


def _split(equation: Any, views: tuple[View, View]) -> list[tuple[View, View]]:
    shape, axis = equation.invars[0].aval.shape, equation.params["axis"]
    found = tuple(view.collapsed(shape) if view.axis == axis else view for view in views)
    return [found] * len(equation.outvars)


_ELEMENTWISE = """
abs add add_any and atan2 ceil clamp convert_element_type copy copy_p cos div eq erf erf_inv erfc
exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg
nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sqrt square
stop_gradient sub tan tanh xor
"""
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum"), _pooling
    ),
    **dict.fromkeys(
        ("argmax", "argmin", "reduce_max", "reduce_min", "reduce_prod", "reduce_sum"), _reduction
    ),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenation,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
# What may stand between an averaging matrix and the product that uses it.
_EVALUATED = {"convert_element_type", "copy", "transpose"}
