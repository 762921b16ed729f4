"""What image excites a unit or a class most: activation maximisation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.models.classifier import Classifier
from jaxcnn.visualize.layers import apply_to_layer, check_classes, check_layer, check_units


def maximize(
    model: Classifier,
    variables: Mapping[str, Any],
    image_shape: Sequence[int],
    units: Sequence[int],
    *,
    layer: str | None = None,
    normalize: Callable[[jax.Array], jax.Array] = lambda images: images,
    steps: int = 256,
    learning_rate: float = 0.05,
    jitter: int | None = None,
    seed: int = 0,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find images that excite classes, or units of a layer, by gradient ascent.

    Erhan et al. 2009, "Visualizing higher-layer features of a deep network"; Simonyan et al. 2013,
    section 2, for classes (their score, not their probability). An image is a sigmoid of a sum of
    waves, whose amplitudes are changed in inverse proportion to their frequency, and is shifted at
    random in every step (Olah et al. 2017, "Feature visualization"): both keep it from being noise
    of high frequencies.

    Args:
        model: the network.
        variables: its variables.
        image_shape: ``(H, W, C)``.
        units: numbers of classes, of channels of the layer's map (whose mean over the map is
            maximised), or of values of a dense layer; an image is made for each.
        layer: dotted path; None: the logits.
        normalize: maps pixels 0 to 1 to the network's input, ``[N, H, W, C]``.
        steps: of Adam.
        learning_rate: of Adam.
        jitter: largest shift, in pixels; None: a sixteenth of the image.
        seed: of the first image and the shifts.
        report: called with the number of steps that are done, and that of all.

    Returns:
        The images, ``[U, H, W, C]`` with pixels 0 to 1, and the values that they reach, ``[U]``.

    Raises:
        UserError: if there is no such layer, unit or class.
    """
    height, width, channels = image_shape
    if layer is None:
        check_classes(model, units)
    else:
        check_units(layer, check_layer(model, (1, *image_shape), layer), units)
    largest_shift = min(height, width) // 16 if jitter is None else jitter
    chosen = jnp.asarray(units)
    optimizer = optax.adam(learning_rate)

    def values_of(variables: Any, images: jax.Array) -> jax.Array:
        _, output = apply_to_layer(model, variables, normalize(images), layer)
        own = output.reshape(len(images), -1, output.shape[-1]).mean(axis=1)
        return jnp.take_along_axis(own, chosen[:, None], axis=1)[:, 0]

    def loss(waves: jax.Array, variables: Any, shift: jax.Array) -> jax.Array:
        shifted = jnp.roll(_images(waves, (height, width)), shift, axis=(1, 2))
        return -jnp.sum(values_of(variables, shifted))

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def step(variables: Any, waves: jax.Array, state: Any, key: jax.Array) -> Any:
        shift = jax.random.randint(key, (2,), -largest_shift, largest_shift + 1)
        gradients = jax.grad(loss)(waves, variables, shift)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(waves, updates), state

    @jax.jit
    def result(variables: Any, waves: jax.Array) -> tuple[jax.Array, jax.Array]:
        images = _images(waves, (height, width))
        return images, values_of(variables, images)

    key = jax.random.key(seed)
    start = 0.01 * jax.random.normal(key, (2, height, width // 2 + 1, channels))
    waves = jnp.broadcast_to(start, (len(units), *start.shape)).copy()
    state = optimizer.init(waves)
    for number in range(steps):
        waves, state = step(variables, waves, state, jax.random.fold_in(key, number))
        report(number + 1, steps)
    images, values = result(variables, waves)
    return np.asarray(images), np.asarray(values)


def _images(waves: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Pixels ``[N, H, W, C]`` of real and imaginary amplitudes ``[N, 2, H, W / 2 + 1, C]``."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    scale = np.sqrt(height * width) / np.maximum(frequency, 1 / max(size))
    spectrum = jax.lax.complex(waves[:, 0], waves[:, 1]) * scale[..., None].astype(waves.dtype)
    return jax.nn.sigmoid(jnp.fft.irfft2(spectrum, s=size, axes=(1, 2)) / 4)
