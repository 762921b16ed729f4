"""What image excites a unit or a class most: activation maximisation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.visualize.layers import apply_to_layer, check_layer


def maximize(
    model: Classifier,
    variables: Mapping[str, Any],
    image_shape: Sequence[int],
    *,
    layer: str | None = None,
    unit: int,
    normalize: Callable[[jax.Array], jax.Array] = lambda image: image,
    steps: int = 256,
    learning_rate: float = 0.05,
    jitter: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Find an image that excites a class, or a unit of a layer, by gradient ascent.

    Erhan et al. 2009, "Visualizing higher-layer features of a deep network"; Simonyan et al. 2013,
    section 2, for classes (their score, not their probability). The image is a sigmoid of a sum of
    waves, whose amplitudes are changed in inverse proportion to their frequency, and is shifted at
    random in every step (Olah et al. 2017, "Feature visualization"): both keep it from being noise
    of high frequencies.

    Args:
        model: the network.
        variables: its variables.
        image_shape: ``(H, W, C)``.
        layer: dotted path; None: the logits.
        unit: number of a class, of a channel of the layer's map (its mean over the map is
            maximised), or of a value of a dense layer.
        normalize: maps pixels 0 to 1 to the network's input, ``[N, H, W, C]``.
        steps: of Adam.
        learning_rate: of Adam.
        jitter: largest shift, in pixels; None: a sixteenth of the image.
        seed: of the first image and the shifts.

    Returns:
        The image, ``[H, W, C]`` with pixels 0 to 1, and the value that it reaches.

    Raises:
        UserError: if there is no such layer, unit or class.
    """
    height, width, channels = image_shape
    if layer is None:
        units = model.num_classes
    else:
        units = check_layer(model, (1, *image_shape), layer)[-1]
    if not 0 <= unit < units:
        what = f"layer {layer!r} has the units" if layer else "the network has the classes"
        raise UserError(f"unit {unit} does not exist: {what} 0 to {units - 1}.")
    jitter = min(height, width) // 16 if jitter is None else jitter
    key = jax.random.key(seed)
    waves = 0.01 * jax.random.normal(key, (2, height, width // 2 + 1, channels))
    optimizer = optax.adam(learning_rate)
    step, value_of = _steps(model, layer, (height, width), normalize, optimizer, jitter)
    state = optimizer.init(waves)
    for number in range(steps):
        waves, state = step(variables, waves, state, jax.random.fold_in(key, number), unit)
    image, value = value_of(variables, waves, unit)
    return np.asarray(image), float(value)


def _steps(
    model: Classifier,
    layer: str | None,
    size: tuple[int, int],
    normalize: Callable[[jax.Array], jax.Array],
    optimizer: optax.GradientTransformation,
    jitter: int,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compiled functions: one step of ascent, and the image of some waves with its value."""

    def value(variables: Any, image: jax.Array, unit: jax.Array) -> jax.Array:
        _, output = apply_to_layer(model, variables, normalize(image[None]), layer)
        return jnp.mean(output[..., unit])

    def loss(waves: Any, variables: Any, shift: jax.Array, unit: jax.Array) -> jax.Array:
        image = jnp.roll(_image(waves, size), shift, axis=(0, 1))
        return -value(variables, image, unit)

    @functools.partial(jax.jit, donate_argnums=(1, 2))
    def step(variables: Any, waves: Any, state: Any, key: jax.Array, unit: jax.Array) -> Any:
        shift = jax.random.randint(key, (2,), -jitter, jitter + 1)
        gradients = jax.grad(loss)(waves, variables, shift, unit)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(waves, updates), state

    @jax.jit
    def value_of(variables: Any, waves: Any, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
        image = _image(waves, size)
        return image, value(variables, image, unit)

    return step, value_of


def _image(waves: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Pixels 0 to 1, ``[H, W, C]``, of real and imaginary amplitudes ``[2, H, W / 2 + 1, C]``."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    scale = np.sqrt(height * width) / np.maximum(frequency, 1 / max(size))
    spectrum = jax.lax.complex(waves[0], waves[1]) * scale[..., None].astype(waves.dtype)
    pixels = jnp.fft.irfft2(spectrum, s=size, axes=(0, 1))
    return jax.nn.sigmoid(pixels / 4)
