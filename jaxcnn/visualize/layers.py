"""The layers of a network by name, and what they output."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier

Interceptor = Callable[..., Any]


@functools.lru_cache(maxsize=16)
def layer_shapes(model: Classifier, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The layers of a network that output one array, in the order in which they are called.

    Args:
        model: the network.
        image_shape: ``(N, H, W, C)``.

    Returns:
        The shapes of their outputs by dotted path (``"layer1.0.conv1"``).

    Raises:
        UserError: if the network does not run on such images.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def record(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_function(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path:
            if isinstance(output, jax.Array):
                shapes[".".join(context.module.path)] = output.shape
        return output

    def run(key: jax.Array, images: jax.Array) -> Any:
        variables = model.init(key, images)
        shapes.clear()  # init runs the auxiliary heads, too
        with nn.intercept_methods(record):
            return model.apply(variables, images)

    jax.eval_shape(
        run,
        jax.ShapeDtypeStruct((), jax.random.key(0).dtype),
        jax.ShapeDtypeStruct(image_shape, jnp.float32),
    )
    return dict(shapes)


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
    shapes = layer_shapes(model, tuple(image_shape))
    if layer not in shapes:
        raise UserError(f"layer {layer!r} is unknown in this network; {suggest(layer, shapes)}")
    shape = shapes[layer]
    if spatial and (len(shape) != 4 or shape[1] * shape[2] == 1):
        maps = [name for name, s in shapes.items() if len(s) == 4 and s[1] * s[2] > 1]
        raise UserError(
            f"layer {layer!r} outputs {list(shape)}, which has no height and width; use one before "
            f"it, such as {maps[-1]!r}."
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


def default_map(model: Classifier, image_shape: Sequence[int]) -> str:
    """The last layer that outputs a map, ``[N, H, W, C]`` of more than one pixel.

    Of a layer and those within it the outer one is meant: the whole of ``layer4``.

    Raises:
        UserError: if there is none.
    """
    shapes = layer_shapes(model, tuple(image_shape))
    maps = [name for name, s in shapes.items() if len(s) == 4 and s[1] * s[2] > 1]
    if not maps:
        raise UserError(
            f"No layer of this network outputs a map for images of {image_shape[1]}x"
            f"{image_shape[2]} pixels; use larger images."
        )
    return maps[-1]


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
        offset: added to the output of the layer.
        interceptor: of all methods, see ``flax.linen.intercept_methods``.

    Returns:
        The logits, and the output of the layer.
    """
    outputs = []

    def capture(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_function(*args, **kwargs)
        if context.method_name == "__call__" and ".".join(context.module.path) == (layer or ""):
            output = output if offset is None else output + offset
            outputs.append(output)
        return output

    if interceptor is None:
        with nn.intercept_methods(capture):
            logits = model.apply(variables, images)
    else:
        with nn.intercept_methods(interceptor), nn.intercept_methods(capture):
            logits = model.apply(variables, images)
    return logits, outputs[-1]
