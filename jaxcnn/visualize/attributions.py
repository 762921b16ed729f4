"""Which pixels a prediction depends on: gradients, Grad-CAM, occlusion.

All functions take images ``[N, H, W, C]`` normalised as the network takes them, and the class of
each whose score (logit) is explained: ``[N]`` integers, one integer for all, or None for the
predicted ones.
"""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.visualize.layers import (
    apply_to_layer,
    check_classes,
    check_layer,
    default_map,
    one_per_image,
)
from jaxcnn.visualize.rules import GUIDED, Rules, with_rules

Classes = int | np.ndarray | jax.Array | None


def saliency(
    model: Classifier, variables: Mapping[str, Any], images: jax.Array, classes: Classes = None
) -> jax.Array:
    """The gradient of each image's class score, ``[N, H, W, C]``.

    Simonyan et al. 2013, "Deep inside convolutional networks", section 3: what they show is the
    largest absolute value over the channels of each pixel.

    Example::

        largest = jnp.max(jnp.abs(saliency(model, variables, images)), axis=-1)  # [N, H, W]
    """
    classes = _classes(model, variables, images, classes)
    return _gradients(model, None)(variables, images, classes)[1]


def smooth_saliency(
    model: Classifier,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: Classes = None,
    *,
    samples: int = 25,
    noise: float = 0.15,
    rng: jax.Array | None = None,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> jax.Array:
    """The mean of :func:`saliency` over noisy copies of each image, ``[N, H, W, C]``.

    Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise".

    Args:
        model: the network.
        variables: its variables.
        images: see above.
        classes: see above.
        samples: number of copies.
        noise: standard deviation of the noise, relative to the image's range of values.
        rng: key of the noise, from which that of copy number i is folded in; None: a fixed one.
        report: called with the number of copies that are done, and that of all.
    """
    classes = _classes(model, variables, images, classes)
    rng = jax.random.key(0) if rng is None else rng
    axes = (1, 2, 3)
    spread = jnp.max(images, axes, keepdims=True) - jnp.min(images, axes, keepdims=True)
    total = jnp.zeros_like(images)
    for sample in range(samples):
        normal = jax.random.normal(jax.random.fold_in(rng, sample), images.shape, images.dtype)
        noisy = images + noise * spread * normal
        total += _gradients(model, None)(variables, noisy, classes)[1]
        report(sample + 1, samples)
    return total / samples


def guided_backpropagation(
    model: Classifier, variables: Mapping[str, Any], images: jax.Array, classes: Classes = None
) -> jax.Array:
    """:func:`saliency` by gradients that are rectified on their way down, ``[N, H, W, C]``.

    Springenberg et al. 2014, "Striving for simplicity: the all convolutional net", section 3.4.
    For activations other than ReLU see :mod:`jaxcnn.visualize.rules`.
    """
    classes = _classes(model, variables, images, classes)
    return _gradients(model, "guided")(variables, images, classes)[1]


def integrated_gradients(
    model: Classifier,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: Classes = None,
    *,
    baseline: jax.Array | float = 0.0,
    tolerance: float = 1e-2,
    max_evaluations: int = 1000,
    warn: Callable[[str], Any] = warnings.warn,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> jax.Array:
    """Each value's contribution to the difference of scores from a baseline, ``[N, H, W, C]``.

    Sundararajan et al. 2017, "Axiomatic attribution for deep networks": the difference from the
    baseline times the mean gradient on the straight line from there. The contributions of an image
    add up to the difference of scores ("completeness"). The integral is refined where they do not:
    a part of the line is halved as long as its contributions do not add up to its difference.

    Args:
        model: the network.
        variables: its variables.
        images: see above.
        classes: see above.
        baseline: an image ``[H, W, C]``, or one value; 0 is the mean colour of normalised images.
        tolerance: by how much the contributions may fail to add up, over all parts of the line,
            relative to how much the score changes, up and down, along it.
        max_evaluations: scores and gradients per image, after which it stops refining; it needs
            25 at least.
        warn: called with a sentence about an image for which the tolerance is not reached then.
        report: called with the number of images that are done, and that of all.

    Example::

        contributions = integrated_gradients(model, variables, images)
        contributions.sum((1, 2, 3))  # score of the image less that of the baseline
    """
    classes = _classes(model, variables, images, classes)
    gradient = _gradients(model, None)
    results = []
    for image, label in zip(images, classes, strict=True):
        start = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
        difference = image - start

        def at(
            places: list[float],
            start: Any = start,
            difference: Any = difference,
            label: Any = label,
        ) -> tuple[np.ndarray, list[jax.Array]]:
            """Scores and gradients on the line, a batch of the same size at a time."""
            scores, gradients = [], []
            for first in range(0, len(places), _LINE_BATCH):
                part = places[first : first + _LINE_BATCH]
                padded = np.asarray(part + [part[-1]] * (_LINE_BATCH - len(part)))
                points = start + padded[:, None, None, None].astype(difference.dtype) * difference
                labels = jnp.full(_LINE_BATCH, label)
                score, grad = gradient(variables, points, labels)
                scores += np.asarray(score, np.float64)[: len(part)].tolist()
                gradients += list(grad[: len(part)])
            return np.asarray(scores), gradients

        mean, gap = _integral(at, difference, tolerance, max_evaluations)
        if gap > tolerance:
            warn(
                f"The contributions of image {len(results)} fail to add up by {gap:.1e} of "
                f"the score's change after {max_evaluations} evaluations; raise max_evaluations."
            )
        results.append(difference * mean)
        report(len(results), len(images))
    return jnp.stack(results)


_LINE_BATCH = 8
# Two points of Gauss and Legendre per part of the line.
_GAUSS = (0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6)


def _integral(
    at: Callable[[list[float]], tuple[np.ndarray, list[jax.Array]]],
    difference: jax.Array,
    tolerance: float,
    max_evaluations: int,
) -> tuple[jax.Array, float]:
    """The mean gradient on a line, by halving parts whose contributions do not add up.

    Args:
        at: scores and gradients at places between 0 and 1.
        difference: from the start to the end of the line.
        tolerance: see :func:`integrated_gradients`.
        max_evaluations: likewise.

    Returns:
        The mean gradient, and by how much the contributions fail to add up, relatively.
    """
    ends = np.linspace(0, 1, 9).tolist()
    known = dict(zip(ends, at(ends)[0], strict=True))
    evaluations = len(ends)
    pending = list(zip(ends, ends[1:], strict=False))
    parts: list[tuple[float, float, float, jax.Array]] = []  # |gap|, from, to, mean gradient
    while pending:
        places = [a + (b - a) * x for a, b in pending for x in _GAUSS]
        _, gradients = at(places)
        evaluations += len(places)
        for number, (a, b) in enumerate(pending):
            mean = (gradients[2 * number] + gradients[2 * number + 1]) / 2
            contribution = (b - a) * float(jnp.sum(mean * difference))
            parts.append((abs(known[b] - known[a] - contribution), a, b, mean))
        pending = []
        gap = sum(part[0] for part in parts)
        size = sum(abs(known[b] - known[a]) for _, a, b, _ in parts)
        if gap <= tolerance * size or evaluations >= max_evaluations:
            break
        # Halve the worst, until what is left of the others is small enough.
        parts.sort(key=lambda part: part[0])
        kept = int(np.sum(np.cumsum([part[0] for part in parts]) <= tolerance * size / 2))
        kept = max(kept, len(parts) - max(1, (max_evaluations - evaluations) // 5))
        parts, halved = parts[:kept], parts[kept:]
        middles = [(a + b) / 2 for _, a, b, _ in halved]
        known |= dict(zip(middles, at(middles)[0], strict=True))
        evaluations += len(middles)
        for (_, a, b, _), middle in zip(halved, middles, strict=True):
            pending += [(a, middle), (middle, b)]
    return sum((b - a) * mean for _, a, b, mean in parts), gap / size if size else 0.0


def grad_cam(
    model: Classifier,
    variables: Mapping[str, Any],
    images: jax.Array,
    classes: Classes = None,
    *,
    layer: str | None = None,
) -> jax.Array:
    """Where a layer's map speaks for a class, ``[N, H', W']`` as large as the layer's map.

    Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via gradient-based
    localization", section 3: the channels, weighted by the mean gradient of the class score over
    each of them, added and rectified.

    Args:
        model: the network.
        variables: its variables.
        images: see above.
        classes: see above.
        layer: dotted path of a layer that outputs a map; None: the last one.

    Raises:
        UserError: if there is no such layer, or it has no height and width.
    """
    if layer is None:
        layer = default_map(model, images.shape)
    check_layer(model, images.shape, layer, spatial=True)
    classes = _classes(model, variables, images, classes)
    return _grad_cam(model, layer)(variables, images, classes)


@functools.lru_cache(maxsize=8)
def _grad_cam(model: Classifier, layer: str) -> Callable[..., jax.Array]:
    def grad_cam_of(variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
        def score_and_map(offset: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, output = apply_to_layer(model, variables, images, layer, offset=offset)
            return jnp.sum(_of_classes(logits, classes)), output

        _, shape = jax.eval_shape(lambda: score_and_map(jnp.zeros((), images.dtype)))
        zeros = jnp.zeros(shape.shape, shape.dtype)
        gradients, maps = jax.grad(score_and_map, has_aux=True)(zeros)
        weights = jnp.mean(gradients, axis=(1, 2), keepdims=True)
        return jax.nn.relu(jnp.sum(weights * maps, axis=-1))

    return jax.jit(grad_cam_of)


def occlusion(
    model: Classifier,
    variables: Mapping[str, Any],
    image: jax.Array,
    label: int | None = None,
    *,
    size: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
    layer: str | None = None,
    batch_size: int = 32,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> dict[str, np.ndarray]:
    """What changes when a square of an image is covered: figure 7 of Zeiler and Fergus 2013.

    Args:
        model: the network.
        variables: its variables.
        image: ``[H, W, C]``, normalised.
        label: the class whose probability is mapped; None: the predicted one.
        size: height and width of the square in pixels; None: a quarter of the image.
        stride: pixels between its positions; None: a quarter of its size.
        fill: its value; 0 is the mean colour of a normalised image.
        layer: a layer that outputs a map; None: the last one.
        batch_size: covered images at a time.
        report: called with the number of positions that are done, and that of all.

    Returns:
        By name, each ``[rows, columns]`` by the position of the square: ``probability`` of the
        class; the ``prediction``; ``activation``, the sum over the map of that channel of the
        layer that is strongest in the whole image. And ``top`` ``[rows]`` and ``left``
        ``[columns]``, the square's upper left corner in pixels: its middle goes over the whole
        image, and it may reach beyond.

    Raises:
        UserError: if the square is larger than the image, or there is no such layer.
    """
    height, width = image.shape[:2]
    size = occlusion_size(image.shape) if size is None else size
    stride = max(1, size // 4) if stride is None else stride
    if size > min(height, width) or size < 1 or stride < 1:
        raise UserError(
            f"A square of {size} pixels, moved by {stride}, does not fit an image of {height}x"
            f"{width}; use a size from 1 to {min(height, width)} and a stride of at least 1."
        )
    shape = (1, *image.shape)
    layer = default_map(model, shape) if layer is None else layer
    check_layer(model, shape, layer, spatial=True)

    @jax.jit
    def outputs(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, maps = apply_to_layer(model, variables, images, layer)
        return jax.nn.softmax(logits), jnp.sum(maps, axis=(1, 2))

    probabilities, sums = outputs(variables, image[None])
    label = int(jnp.argmax(probabilities[0])) if label is None else label
    check_classes(model, [label])
    channel = int(jnp.argmax(sums[0]))
    top, left = (np.arange(0, length, stride) - size // 2 for length in (height, width))
    places = [(row, column) for row in top for column in left]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    found: dict[str, list[np.ndarray]] = {"probability": [], "prediction": [], "activation": []}
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        padded = np.asarray(part + [part[-1]] * (batch_size - len(part)))
        first_row, first_column = padded.T[:, :, None, None]
        covered = (rows >= first_row) & (rows < first_row + size)
        covered = covered & (columns >= first_column) & (columns < first_column + size)
        images = jnp.where(covered[..., None], jnp.asarray(fill, image.dtype), image)
        probabilities, sums = (np.asarray(x)[: len(part)] for x in outputs(variables, images))
        found["probability"].append(probabilities[:, label])
        found["prediction"].append(probabilities.argmax(axis=-1))
        found["activation"].append(sums[:, channel])
        report(first + len(part), len(places))
    maps = {k: np.concatenate(v).reshape(len(top), len(left)) for k, v in found.items()}
    return maps | {"top": top, "left": left}


def occlusion_size(image_shape: Sequence[int]) -> int:
    """The default height and width of the square that :func:`occlusion` covers images with."""
    return max(1, min(image_shape[:2]) // 4)


def predicted(model: Classifier, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """The class that a network predicts for each image, ``[N]``."""
    return jnp.argmax(_logits(model)(variables, images), axis=-1)


def _classes(
    model: Classifier, variables: Mapping[str, Any], images: jax.Array, classes: Classes
) -> jax.Array:
    """The class of each image, ``[N]``.

    Raises:
        UserError: for a class that the network does not have.
    """
    if classes is None:
        return predicted(model, variables, images)
    classes = one_per_image(classes, len(images), "classes")
    check_classes(model, classes.tolist())
    return jnp.asarray(classes)


@functools.lru_cache(maxsize=8)
def _logits(model: Classifier) -> Callable[..., jax.Array]:
    return jax.jit(model.apply)


def _of_classes(logits: jax.Array, classes: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]


_RULES: dict[str | None, Rules] = {None: {}, "guided": GUIDED}


@functools.lru_cache(maxsize=8)
def _gradients(model: Classifier, rules: str | None) -> Callable[..., Any]:
    """A compiled function to the scores ``[N]`` and their gradients ``[N, H, W, C]``."""

    def gradients(variables: Any, images: jax.Array, classes: jax.Array) -> Any:
        apply = with_rules(lambda x: model.apply(variables, x), _RULES[rules])

        def scores(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = _of_classes(apply(images), classes)
            return jnp.sum(own), own

        grads, own = jax.grad(scores, has_aux=True)(images)
        return own, grads

    return jax.jit(gradients)
