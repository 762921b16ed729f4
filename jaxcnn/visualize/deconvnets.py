"""What a unit of a layer has seen: activations projected back to the pixels of an image.

Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", section 2.1.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.models.alexnet import AlexNet
from jaxcnn.models.alexnet_original import AlexNetOriginal
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import Conv
from jaxcnn.models.lenet import LeNet5
from jaxcnn.models.nin import NiN
from jaxcnn.models.vgg import VGG
from jaxcnn.models.zfnet import ZFNet
from jaxcnn.visualize.layers import (
    Interceptor,
    apply_to_layer,
    check_layer,
    check_units,
    one_per_image,
)
from jaxcnn.visualize.rules import DECONVNET, with_rules

# Networks in which each convolution follows the one before it.
_CHAINS = (AlexNet, AlexNetOriginal, LeNet5, NiN, VGG, ZFNet)


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

    All other activations of the layer are set to zero, and the rest is passed back: through the
    transposed convolutions, rectified where the network rectifies, unpooled by the switches of the
    forward pass (see :mod:`jaxcnn.visualize.rules`). The strongest activation may be zero or
    negative, where the unit finds nothing in an image; then the projection shows nothing, or what
    the unit is against.

    Args:
        model: the network, of any architecture.
        variables: its variables.
        images: ``[N, H, W, C]``, normalised as the network takes them.
        layer: dotted path of a layer, such as ``"features.8"`` or ``"layer2.0.conv1"``.
        unit: number of a channel of the layer's map, or of a value of a dense layer; one, or one
            per image ``[N]``.
        biases: whether to add the convolutions' biases: to what a transposed convolution passes
            back, the bias of the convolution before it, as the textbooks' deconvnets of VGG do.
            The paper adds none.

    Raises:
        UserError: if there is no such layer or unit, or with ``biases`` for a network whose
            convolutions are not a chain, as they are in AlexNet, LeNet, NiN, VGG and ZFNet.

    Example::

        projection = deconvnet(model, variables, images, "features.8", unit=7)
        projection.pixels  # [N, 224, 224, 3]
    """
    shape = check_layer(model, images.shape, layer)
    units = one_per_image(unit, len(images), "units")
    check_units(layer, shape, units.tolist())
    if biases and not isinstance(model, _CHAINS):
        raise UserError(
            f"biases=True needs a network whose convolutions are a chain, as AlexNet's are; those "
            f"of {type(model).__name__} are not."
        )
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
    """Let the gradient of each convolution add the bias of the one before it."""
    before: list[jax.Array | None] = [None]

    def intercept(next_function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, Conv):
            return next_function(*args, **kwargs)
        images, *others = args
        if before[0] is not None:
            images = _with_bias_in_gradient(images, before[0])
        output = next_function(images, *others, **kwargs)
        before[0] = module.variables["params"].get("bias")
        return output

    return intercept


@jax.custom_vjp
def _with_bias_in_gradient(x: jax.Array, bias: jax.Array) -> jax.Array:
    """``x``; its gradient has the bias added."""
    return x


_with_bias_in_gradient.defvjp(
    lambda x, bias: (x, bias),
    lambda bias, signal: (signal + bias, jnp.zeros_like(bias)),
)


@dataclasses.dataclass(frozen=True)
class TopActivations:
    """The images of a set in which units are most active.

    Attributes:
        units: numbers of the units, ``[U]``.
        images: numbers of the images, the strongest first, ``[U, top]``.
        activations: the values, ``[U, top]``; zero or negative where a unit finds nothing.
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
    units: Sequence[int] | None = None,
    num_units: int = 9,
    top: int = 9,
) -> TopActivations:
    """Find the images in which units of a layer are most active.

    Each image counts with its strongest activation, as in the paper's figure 2.

    Args:
        model: the network.
        variables: its variables.
        batches: normalised images, ``[N, H, W, C]``, all of one size; a batch of fewer images than
            the one before it is padded, so that it is not compiled for again.
        layer: dotted path.
        units: which; None: the ``num_units`` whose strongest activation is farthest above their
            mean over images and positions.
        num_units: see ``units``.
        top: how many images per unit; fewer if there are fewer.

    Raises:
        UserError: if there is no such layer or unit, or no image.
    """

    @jax.jit
    def strongest(variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        _, output = apply_to_layer(model, variables, images, layer)
        flat = output.reshape(len(output), -1, output.shape[-1])
        return jnp.max(flat, axis=1), jnp.argmax(flat, axis=1), jnp.mean(flat, axis=1)

    found: list[list[np.ndarray]] = []
    shape, size = None, 0
    for images in batches:
        count = len(images)
        size = max(size, count)
        shape = shape or check_layer(model, images.shape, layer)
        images = jnp.pad(images, [(0, size - count), (0, 0), (0, 0), (0, 0)])
        found.append([np.asarray(x)[:count] for x in strongest(variables, images)])
    if shape is None:
        raise UserError("There are no images to look for activations in; give at least one.")
    values, places, means = (np.concatenate(column) for column in zip(*found, strict=True))
    if units is None:
        contrast = values.max(axis=0) - means.mean(axis=0)
        if not contrast.any():  # one value of each unit in all
            contrast = values.max(axis=0)
        chosen = np.argsort(-contrast, kind="stable")[:num_units]
    else:
        chosen = np.asarray(units, np.int64)
        check_units(layer, shape, chosen.tolist())
    order = np.argsort(-values[:, chosen], axis=0, kind="stable")[:top].T
    width = shape[2] if len(shape) == 4 else 1
    return TopActivations(
        units=chosen,
        images=order,
        activations=values[order, chosen[:, None]],
        positions=np.stack(np.divmod(places[order, chosen[:, None]], width), axis=-1),
    )
