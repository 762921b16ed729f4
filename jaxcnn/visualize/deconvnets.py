"""What a unit of a layer has seen: activations projected back to the pixels of an image.

Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", section 2.1.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import Conv
from jaxcnn.visualize.layers import Interceptor, apply_to_layer, check_layer, check_units
from jaxcnn.visualize.rules import DECONVNET, with_rules


@dataclasses.dataclass(frozen=True)
class Projection:
    """The strongest activation of a unit in each image, and what it comes from.

    Attributes:
        pixels: the projection, ``[N, H, W, C]``, in the units of the network's input.
        activation: the value of the activation, ``[N]``.
        position: its row and column in the layer's map, ``[N, 2]``; zeros for a layer without
            height and width.
    """

    pixels: jax.Array
    activation: jax.Array
    position: jax.Array


def deconvnet(
    model: Classifier,
    variables: Mapping[str, Any],
    images: jax.Array,
    layer: str,
    unit: int | jax.Array,
    *,
    biases: bool = False,
) -> Projection:
    """Project the strongest activation of a unit back to the pixels.

    All other activations of the layer are set to zero, and the rest is passed down: through the
    transposed convolutions, rectified where the network rectifies, unpooled by the switches of the
    forward pass (see :mod:`jaxcnn.visualize.rules`).

    Args:
        model: the network, of any architecture.
        variables: its variables.
        images: ``[N, H, W, C]``, normalised as the network takes them.
        layer: dotted path of a layer, such as ``"features.8"`` or ``"layer2.0.conv1"``.
        unit: number of a channel of the layer's map, or of a value of a dense layer; one, or one
            per image ``[N]``.
        biases: whether to add the convolutions' biases on the way down: to what a convolution
            passes down the bias of the convolution before it, as copies of the textbook's
            deconvnet of VGG do. The paper adds none. It is meant for networks that are a chain
            (AlexNet, ZFNet, VGG), and refused for others.

    Raises:
        UserError: if there is no such layer or unit.

    Example::

        projection = deconvnet(model, variables, images, "features.8", unit=7)
        projection.pixels  # [N, 224, 224, 3]
    """
    shape = check_layer(model, images.shape, layer)
    units = np.broadcast_to(np.asarray(unit), (len(images),))
    check_units(layer, shape, units.tolist())
    return Projection(*_projector(model, layer, biases)(variables, images, jnp.asarray(units)))


@functools.lru_cache(maxsize=8)
def _projector(model: Classifier, layer: str, biases: bool) -> Callable[..., Any]:
    """A compiled function for all units of a layer."""

    def project(variables: Any, images: jax.Array, units: jax.Array) -> Any:
        def activations_of(images: jax.Array) -> jax.Array:
            interceptor = _with_biases() if biases else None
            _, output = apply_to_layer(model, variables, images, layer, interceptor=interceptor)
            return output

        activations, pull_back = jax.vjp(with_rules(activations_of, DECONVNET), images)
        strongest, position = strongest_of(activations, units)
        index = (jnp.arange(len(images)), *jnp.moveaxis(position, -1, 0), units)
        if activations.ndim == 2:
            index = (index[0], units)
        alone = jnp.zeros_like(activations).at[index].set(strongest)
        (pixels,) = pull_back(alone)
        return pixels, strongest, position

    return jax.jit(project)


def strongest_of(activations: jax.Array, units: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest activation ``[N]`` of one unit per image, and its row and column ``[N, 2]``.

    Args:
        activations: ``[N, H, W, units]`` or ``[N, units]``.
        units: ``[N]``.
    """
    if activations.ndim == 2:
        strongest = jnp.take_along_axis(activations, units[:, None], axis=-1)[:, 0]
        return strongest, jnp.zeros((len(units), 2), jnp.int32)
    maps = jnp.take_along_axis(activations, units[:, None, None, None], axis=-1)[..., 0]
    flat = maps.reshape(len(maps), -1)
    place = jnp.argmax(flat, axis=-1)
    position = jnp.stack(jnp.divmod(place, maps.shape[2]), axis=-1)
    return jnp.max(flat, axis=-1), position


def _with_biases() -> Interceptor:
    """Let each convolution add the bias of the one before it on the way down."""
    before: list[jax.Array | None] = [None]

    def intercept(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, Conv):
            return next_function(*args, **kwargs)
        images, *others = args
        if before[0] is not None:
            if images.shape[-1:] != before[0].shape:
                raise UserError(
                    f"biases=True needs a chain of convolutions: {'.'.join(module.path)!r} does "
                    f"not follow the one before it; leave it False."
                )
            images = _plus_on_the_way_down(images, before[0])
        output = next_function(images, *others, **kwargs)
        before[0] = module.variables["params"].get("bias")
        return output

    return intercept


@jax.custom_vjp
def _plus_on_the_way_down(x: jax.Array, bias: jax.Array) -> jax.Array:
    """``x``; its gradient has the bias added."""
    return x


_plus_on_the_way_down.defvjp(
    lambda x, bias: (x, bias),
    lambda bias, signal: (signal + bias, jnp.zeros_like(bias)),
)


@dataclasses.dataclass(frozen=True)
class TopActivations:
    """The images of a set in which units are most active.

    Attributes:
        units: numbers of the units, ``[U]``.
        images: numbers of the images, the strongest first, ``[U, top]``.
        activations: the values, ``[U, top]``.
        positions: rows and columns in the layer's map, ``[U, top, 2]``.
    """

    units: np.ndarray
    images: np.ndarray
    activations: np.ndarray
    positions: np.ndarray


def top_activations(
    model: Classifier,
    variables: Mapping[str, Any],
    batches: Iterable[jax.Array],
    layer: str,
    *,
    units: Iterable[int] | None = None,
    num_units: int = 9,
    top: int = 9,
) -> TopActivations:
    """Find the images in which units of a layer are most active.

    Each image counts with its strongest activation, as in the paper's figure 2.

    Args:
        model: the network.
        variables: its variables.
        batches: normalised images, ``[N, H, W, C]``, all of one size; only the last batch may
            have fewer than the first.
        layer: dotted path.
        units: which; None: the ``num_units`` whose strongest activation is farthest above the
            unit's mean over the images.
        num_units: see ``units``.
        top: how many images per unit; fewer if there are fewer.

    Raises:
        UserError: if there is no such layer or unit, or no image.
    """

    @jax.jit
    def strongest(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        _, output = apply_to_layer(model, variables, images, layer)
        if output.ndim == 2:
            return output, jnp.zeros(output.shape, jnp.int32)
        flat = output.reshape(len(output), -1, output.shape[-1])
        return jnp.max(flat, axis=1), jnp.argmax(flat, axis=1)

    values, places, shape, size = [], [], None, 0
    for images in batches:
        count = len(images)
        size = size or count
        shape = shape or check_layer(model, images.shape, layer)
        # A last batch of another size would be compiled for again.
        images = jnp.pad(images, [(0, size - count), (0, 0), (0, 0), (0, 0)])
        value, place = strongest(variables, images)
        values.append(np.asarray(value)[:count])
        places.append(np.asarray(place)[:count])
    if shape is None:
        raise UserError("There are no images to look for activations in; give at least one.")
    all_values, all_places = np.concatenate(values), np.concatenate(places)
    if units is None:
        contrast = all_values.max(axis=0) - all_values.mean(axis=0)
        chosen = np.argsort(-contrast, kind="stable")[:num_units]
    else:
        chosen = np.asarray(list(units))
        check_units(layer, shape, chosen.tolist())
    order = np.argsort(-all_values[:, chosen], axis=0, kind="stable")[:top].T
    places_of = all_places[order, chosen[:, None]]
    width = shape[2] if len(shape) == 4 else 1
    return TopActivations(
        units=chosen,
        images=order,
        activations=all_values[order, chosen[:, None]],
        positions=np.stack(np.divmod(places_of, width), axis=-1),
    )
