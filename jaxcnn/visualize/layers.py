"""The layers of a network by name, and what they output."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.summary import SummaryRow, summary

Interceptor = Callable[..., Any]


def layer_shapes(model: Classifier, image_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The layers of a network, each before those within it, in the order in which they run.

    Args:
        model: the network.
        image_shape: ``(N, H, W, C)``.

    Returns:
        The shapes of their outputs by dotted path (``"layer1.0.conv1"``).

    Raises:
        UserError: if the network does not run on such images.
    """
    batch_size = image_shape[0]
    rows = _layers(model, tuple(image_shape[1:])).values()
    return {row.path: (batch_size, *row.output_shape[1:]) for row in rows}


@functools.lru_cache(maxsize=16)
def _layers(model: Classifier, shape: tuple[int, int, int]) -> dict[str, SummaryRow]:
    """What runs in evaluation for images ``[H, W, C]``, by path."""
    *size, channels = shape
    rows = summary(model, image_size=tuple(size), channels=channels, depth=None).rows
    return {row.path: row for row in rows if row.path and row.output_shape is not None}


def receptive_boxes(
    model: Classifier, image_shape: Sequence[int], layer: str, positions: np.ndarray
) -> np.ndarray:
    """The receptive fields of units at positions of a layer's map.

    Args:
        model: the network.
        image_shape: ``(N, H, W, C)``.
        layer: dotted path.
        positions: rows and columns, ``[N, 2]``.

    Returns:
        Top, left, height and width, ``[N, 4]``; they may reach beyond the image. Where that would
        be more than the image, the whole image.
    """
    row = _layers(model, tuple(image_shape[1:]))[layer]
    size = image_shape[1:3]
    fields = row.receptive_field
    if (
        fields is None
        or any(shared is not None for shared in row.shared_field)
        or any(f.size >= length for f, length in zip(fields, size, strict=True))
    ):
        return np.tile((0, 0, *size), (len(positions), 1))
    corners = [f.start + f.jump * positions[:, axis] for axis, f in enumerate(fields)]
    sizes = [np.full(len(positions), f.size) for f in fields]
    return np.stack([*corners, *sizes], axis=-1)


def check_layer(
    model: Classifier, image_shape: Sequence[int], layer: str, *, spatial: bool = False
) -> tuple[int, ...]:
    """The shape of a layer's output.

    Args:
        model: the network.
        image_shape: ``(N, H, W, C)``.
        layer: dotted path.
        spatial: whether it has to be a map, ``[N, H, W, C]`` of more than one pixel.

    Raises:
        UserError: if there is no such layer, or it is no map.
    """
    shapes = layer_shapes(model, image_shape)
    if layer not in shapes:
        raise UserError(f"layer {layer!r} is unknown in this network; {suggest(layer, shapes)}")
    shape = shapes[layer]
    if spatial and not _is_map(shape):
        raise UserError(
            f"layer {layer!r} outputs {list(shape)}, which has no height and width; use one before "
            f"it, such as {default_map(model, image_shape)!r}."
        )
    return shape


def check_units(layer: str, shape: Sequence[int], units: Iterable[int]) -> None:
    """Check that a layer has some units.

    Args:
        layer: its path.
        shape: of its output, whose last axis are the units.
        units: their numbers.

    Raises:
        UserError: for the first that it does not have.
    """
    for unit in units:
        if not 0 <= unit < shape[-1]:
            raise UserError(
                f"unit {unit} does not exist: layer {layer!r} has the units 0 to {shape[-1] - 1}."
            )


def one_per_image(values: Any, count: int, what: str) -> np.ndarray:
    """Units or classes, ``[N]``, from one for all images or one for each.

    Raises:
        UserError: if there is another number of them.
    """
    values = np.asarray(values)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise UserError(
            f"There are {what} of shape {values.shape} for {count} images; give one for all "
            f"images, or one for each."
        )
    return np.broadcast_to(values, (count,))


def check_classes(model: Classifier, classes: Iterable[int]) -> None:
    """Check that a network has some classes.

    Raises:
        UserError: for the first that it does not have.
    """
    for number in classes:
        if not 0 <= number < model.num_classes:
            raise UserError(
                f"class {number} does not exist: the network has the classes 0 to "
                f"{model.num_classes - 1}."
            )


def default_map(model: Classifier, image_shape: Sequence[int]) -> str:
    """The last layer that outputs a map, ``[N, H, W, C]`` of more than one pixel.

    Of a layer and those within it the outer one is meant: the whole of ``layer4``.

    Raises:
        UserError: if there is none.
    """
    shapes = layer_shapes(model, image_shape)
    maps = [name for name, s in shapes.items() if _is_map(s)]
    if not maps:
        raise UserError(
            f"No layer of this network outputs a map for images of {image_shape[1]}x"
            f"{image_shape[2]} pixels; use larger images."
        )
    parts = maps[-1].split(".")
    outer = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next(name for name in outer if name in maps)


def _is_map(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and shape[1] * shape[2] > 1


def apply_to_layer(
    model: Classifier,
    variables: Mapping[str, Any],
    images: jax.Array,
    layer: str | None,
    *,
    offset: jax.Array | None = None,
    interceptor: Interceptor | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Run a network in evaluation.

    Args:
        model: the network.
        variables: its variables.
        images: ``[N, H, W, C]``, as the network takes them.
        layer: dotted path; None: the logits.
        offset: added to the output of the layer; its gradient is that of the layer's output.
        interceptor: of all methods, see ``flax.linen.intercept_methods``.

    Returns:
        The logits, and the output of the layer.
    """

    def add_offset(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_function(*args, **kwargs)
        return output + offset if is_call(context.module, context.method_name) else output

    def is_call(module: nn.Module, method: str) -> bool:
        return method == "__call__" and ".".join(module.path) == layer

    with contextlib.ExitStack() as stack:
        if interceptor is not None:
            stack.enter_context(nn.intercept_methods(interceptor))
        if offset is not None:
            stack.enter_context(nn.intercept_methods(add_offset))
        if layer is None:
            logits = model.apply(variables, images)
            return logits, logits
        logits, state = model.apply(
            variables, images, capture_intermediates=is_call, mutable=["intermediates"]
        )
    (output,) = jax.tree.leaves(state["intermediates"])
    return logits, output
