"""Augmentation of batches on the device, inside the compiled training step.

Pure functions of a random key: the same key gives the same batch. One key serves a whole batch, in
which each image gets random numbers of its own. Images are ``[N, H, W, C]``, floating, with values
in 0 to 1 before normalization; amounts and probabilities are Python numbers, and 0 turns an
operation off. Everything is drawn in float32, and images and targets keep their dtype.

Example::

    augmentation = Augmentation(color_jitter=(0.4, 0.4, 0.4, 0.0), lighting=0.1, mixup=0.2)
    train_step = make_train_step(model, optimizer, augmentation=augmentation)
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.errors import UserError

Normalize = Callable[[jax.Array], jax.Array]

# Of the covariance of ImageNet's RGB values in 0 to 1; the eigenvectors are the columns, and the
# rows are red, green and blue.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def to_float(images: jax.Array) -> jax.Array:
    """Convert images to values in 0 to 1, as torchvision's ``ToTensor``.

    Args:
        images: integers of 0 to 255 (uint8, say), or floating, already in 0 to 1.

    Returns:
        Integers divided by 255, float32; floating images as they are.
    """
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images
    return images.astype(jnp.float32) / 255


def _check_colors(images: jax.Array, channels: tuple[int, ...] = (1, 3)) -> None:
    if images.shape[-1] not in channels:
        raise UserError(
            f"Images have {images.shape[-1]} channels; this augmentation of colors needs "
            f"{' or '.join(map(str, channels))}; turn it off."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(
            f"Images are {images.dtype}; colors are augmented in floating-point images: divide "
            f"them by 255 first."
        )


def _per_image(values: jax.Array, images: jax.Array) -> jax.Array:
    """Reshape ``[N]`` to broadcast with ``[N, H, W, C]``."""
    return jnp.asarray(values, images.dtype)[:, None, None, None]


def _grayscale(images: jax.Array) -> jax.Array:
    """``rgb_to_grayscale`` of torchvision, ``[N, H, W, 1]``."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = jnp.split(images, 3, axis=-1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _blend(images: jax.Array, others: jax.Array | float, factor: jax.Array) -> jax.Array:
    ratio = _per_image(factor, images)
    return jnp.clip(ratio * images + (1 - ratio) * others, 0, 1)


def adjust_brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """``adjust_brightness`` of torchvision: towards (or away from) black.

    Args:
        images: ``[N, H, W, C]`` of 1 or 3 channels, in 0 to 1.
        factor: ``[N]``, at least 0: 0 is black, 1 the image itself.
    """
    _check_colors(images)
    return _blend(images, 0.0, factor)


def adjust_contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """``adjust_contrast`` of torchvision: towards (or away from) the image's mean gray.

    Args:
        images: ``[N, H, W, C]`` of 1 or 3 channels, in 0 to 1.
        factor: ``[N]``, at least 0: 0 is all gray, 1 the image itself.
    """
    _check_colors(images)
    mean = jnp.mean(_grayscale(images), axis=(1, 2, 3), keepdims=True)
    return _blend(images, mean, factor)


def adjust_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """``adjust_saturation`` of torchvision: towards (or away from) the image in gray.

    Args:
        images: ``[N, H, W, C]`` of 1 or 3 channels, in 0 to 1; one channel has no colors, and
            stays as it is.
        factor: ``[N]``, at least 0: 0 is the image in gray, 1 the image itself.
    """
    _check_colors(images)
    return images if images.shape[-1] == 1 else _blend(images, _grayscale(images), factor)


def adjust_hue(images: jax.Array, factor: jax.Array) -> jax.Array:
    """``adjust_hue`` of torchvision: rotate the hue, in HSV.

    Torchvision computes this in float32; here it is computed in the images' own dtype.

    Args:
        images: ``[N, H, W, C]`` of 1 or 3 channels, in 0 to 1; one channel has no colors, and
            stays as it is.
        factor: ``[N]``, of -0.5 to 0.5 turns: 0 is the image itself.
    """
    _check_colors(images)
    if images.shape[-1] == 1:
        return images
    hue, saturation, value = _rgb_to_hsv(images)
    return _hsv_to_rgb((hue + _per_image(factor, images)) % 1, saturation, value)


def _rgb_to_hsv(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``[N, H, W, 3]`` to three ``[N, H, W, 1]``, each in 0 to 1."""
    red, green, blue = jnp.split(images, 3, axis=-1)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    saturation = chroma / jnp.where(value > 0, value, 1)
    # Gray has chroma 0 and so saturation 0, whatever its hue: any divisor does.
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Which channel is greatest is found by order, not by equality with ``value``: a compiler may
    # compute the pixels once per use, with different rounding, and then none would be equal.
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    return (sextant / 6) % 1, saturation, value


def _hsv_to_rgb(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """Three ``[N, H, W, 1]`` to ``[N, H, W, 3]``."""
    # Along the circle of hues a channel lies at its highest for two sextants, falls for one, lies
    # at its lowest for two and rises for one; so do the three, two sextants after one another.
    position = (jnp.array([5, 3, 1], hue.dtype) + hue * 6) % 6
    distance = jnp.clip(jnp.minimum(position, 4 - position), 0, 1)
    return value - value * saturation * distance


def color_jitter(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """``ColorJitter`` of torchvision, with factors and an order drawn per image.

    Args:
        key: a random key.
        images: ``[N, H, W, C]`` of 1 or 3 channels, in 0 to 1; saturation and hue leave one
            channel as it is.
        brightness: ``b``: the factor is uniform between ``max(0, 1 - b)`` and ``1 + b``.
        contrast: likewise.
        saturation: likewise.
        hue: ``h``, at most 0.5: the factor is uniform between ``-h`` and ``h``.
    """
    _check_colors(images)
    operations = [
        (adjust_brightness, max(0, 1 - brightness), 1 + brightness, brightness),
        (adjust_contrast, max(0, 1 - contrast), 1 + contrast, contrast),
    ]
    if images.shape[-1] == 3:
        operations += [
            (adjust_saturation, max(0, 1 - saturation), 1 + saturation, saturation),
            (adjust_hue, -hue, hue, hue),
        ]
    operations = [operation for operation in operations if operation[-1]]
    if not operations:
        return images
    order_key, *factor_keys = jax.random.split(key, 1 + len(operations))
    count = images.shape[0]
    factors = [
        jax.random.uniform(factor_key, (count,), jnp.float32, low, high)
        for factor_key, (_, low, high, _) in zip(factor_keys, operations, strict=True)
    ]
    numbers = jnp.tile(jnp.arange(len(operations)), (count, 1))
    order = jax.random.permutation(order_key, numbers, axis=1, independent=True)
    for turn in range(len(operations)):
        # All operations on all images, from which each image selects its own: branches would run
        # one image at a time.
        before = images
        for number, ((adjust, *_), factor) in enumerate(zip(operations, factors, strict=True)):
            chosen = (order[:, turn] == number)[:, None, None, None]
            images = jnp.where(chosen, adjust(before, factor), images)
    return images


def random_grayscale(key: jax.Array, images: jax.Array, p: float) -> jax.Array:
    """``RandomGrayscale`` of torchvision.

    Args:
        key: a random key.
        images: ``[N, H, W, C]`` of 1 or 3 channels, which they keep.
        p: the probability, of each image, that it becomes gray.
    """
    _check_colors(images)
    if images.shape[-1] == 1:
        return images
    gray = jax.random.uniform(key, images.shape[:1], jnp.float32) < p
    return jnp.where(gray[:, None, None, None], _grayscale(images), images)


def pca_lighting(key: jax.Array, images: jax.Array, std: float = 0.1) -> jax.Array:
    """Add to each image one color, drawn along the principal components of ImageNet's colors.

    Krizhevsky, Sutskever and Hinton 2012, section 4.1: to each pixel the eigenvectors times
    eigenvalues times ``alpha``. The sum may leave 0 to 1, as in the paper.

    Args:
        key: a random key.
        images: ``[N, H, W, 3]``.
        std: standard deviation of the three normally distributed ``alpha`` of each image.
    """
    _check_colors(images, channels=(3,))
    alpha = std * jax.random.normal(key, (images.shape[0], 1, 3), jnp.float32)
    # A product and a sum: a matrix product may have low precision on accelerators.
    color = jnp.sum(alpha * jnp.float32(EIGENVECTORS * EIGENVALUES), axis=-1)
    return images + color[:, None, None, :].astype(images.dtype)


def _inside(
    images: jax.Array,
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Which pixels are inside boxes, ``[N, H, W, 1]`` (or 1 for N), bool.

    Args:
        images: ``[N, H, W, C]``.
        rows: the first and the one after the last, each ``[N]`` or scalar.
        columns: likewise.
    """
    height, width = images.shape[1:3]
    (top, bottom), (left, right) = jax.tree.map(lambda edge: edge.reshape(-1, 1), (rows, columns))
    row, column = jnp.arange(height), jnp.arange(width)
    in_rows = (top <= row) & (row < bottom)
    in_columns = (left <= column) & (column < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    p: float,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> jax.Array:
    """``RandomErasing`` of torchvision with value 0: a box of zeros.

    The box must be smaller than the image in both directions; after ten draws that are not, the
    image is left unchanged.

    Args:
        key: a random key.
        images: ``[N, H, W, C]``, normalized, so that 0 is the mean.
        p: the probability, of each image, that it is erased.
        scale: minimum and maximum area of the box, as fractions of the image's.
        ratio: minimum and maximum height over width of the box.
    """
    tries = 10
    count, height, width, _ = images.shape
    p_key, area_key, ratio_key, top_key, left_key = jax.random.split(key, 5)
    shape = (tries, count)
    areas = height * width * jax.random.uniform(area_key, shape, jnp.float32, *scale)
    log_ratio = np.log(ratio)
    ratios = jnp.exp(jax.random.uniform(ratio_key, shape, jnp.float32, *log_ratio))
    heights = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = (jnp.argmax(fits, axis=0), jnp.arange(count))
    box_height, box_width = heights[first], widths[first]
    # Where no box fits, nothing is erased, and the position does not matter.
    top = jax.random.randint(top_key, (count,), 0, jnp.maximum(height - box_height, 0) + 1)
    left = jax.random.randint(left_key, (count,), 0, jnp.maximum(width - box_width, 0) + 1)
    box = _inside(images, (top, top + box_height), (left, left + box_width))
    erased = (jax.random.uniform(p_key, (count,), jnp.float32) < p) & fits[first]
    return jnp.where(box & erased[:, None, None, None], 0, images)


def _mix(values: jax.Array, part: jax.Array) -> jax.Array:
    part = part.astype(values.dtype)
    return part * values + (1 - part) * jnp.roll(values, 1, axis=0)


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """``MixUp`` of torchvision (``transforms.v2``): mix each example with the one before it.

    Args:
        key: a random key.
        images: ``[N, H, W, C]``.
        targets: ``[N, num_classes]``, floating: each example's distribution over the classes.
        alpha: of ``Beta(alpha, alpha)``, from which one mixing ratio is drawn for the batch.

    Returns:
        The mixed images and targets.
    """
    part = jax.random.beta(key, alpha, alpha, dtype=jnp.float32)
    return _mix(images, part), _mix(targets, part)


def cutmix(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """``CutMix`` of torchvision (``transforms.v2``): paste a box from the previous image into each.

    Args:
        key: a random key.
        images: ``[N, H, W, C]``.
        targets: ``[N, num_classes]``, floating: each example's distribution over the classes.
        alpha: of ``Beta(alpha, alpha)``, from which the fraction outside the box is drawn; the
            box is the same for the whole batch.

    Returns:
        The images, and the targets mixed by the area of the box that lies inside the image.
    """
    height, width = images.shape[1:3]
    part_key, row_key, column_key = jax.random.split(key, 3)
    part = jax.random.beta(part_key, alpha, alpha, dtype=jnp.float32)
    half_side = 0.5 * jnp.sqrt(1 - part)

    def edges(key: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
        center, half = jax.random.randint(key, (), 0, side), jnp.int32(half_side * side)
        return jnp.maximum(center - half, 0), jnp.minimum(center + half, side)

    rows, columns = edges(row_key, height), edges(column_key, width)
    mixed = jnp.where(_inside(images, rows, columns), jnp.roll(images, 1, axis=0), images)
    area = (rows[1] - rows[0]) * (columns[1] - columns[0])
    return mixed, _mix(targets, 1 - area / (height * width))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The augmentation of a batch in training, after cropping and flipping.

    Attributes:
        color_jitter: brightness, contrast, saturation and hue of :func:`color_jitter`.
        grayscale: probability of :func:`random_grayscale`.
        lighting: standard deviation of :func:`pca_lighting`.
        erasing: probability of :func:`random_erasing`.
        mixup: alpha of :func:`mixup`.
        cutmix: alpha of :func:`cutmix`; with ``mixup`` too, each batch gets one of the two.
    """

    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    grayscale: float = 0.0
    lighting: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def images(self, key: jax.Array, images: jax.Array, normalize: Normalize) -> jax.Array:
        """Augment each image by itself, and normalize.

        Args:
            key: a random key.
            images: ``[N, H, W, C]``, uint8 (or floating, in 0 to 1).
            normalize: maps images, uint8 or floating in 0 to 1, to the model's input.
        """
        if any(self.color_jitter):
            brightness, contrast, saturation, hue = self.color_jitter
            images = color_jitter(
                jax.random.fold_in(key, 0),
                to_float(images),
                brightness=brightness,
                contrast=contrast,
                saturation=saturation,
                hue=hue,
            )
        if self.grayscale:
            images = random_grayscale(jax.random.fold_in(key, 1), to_float(images), self.grayscale)
        if self.lighting:
            images = pca_lighting(jax.random.fold_in(key, 2), to_float(images), self.lighting)
        images = normalize(images)
        if self.erasing:
            images = random_erasing(jax.random.fold_in(key, 3), images, self.erasing)
        return images

    def batch(
        self, key: jax.Array, images: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mix the examples of a batch: torchvision's ``RandomChoice`` of the mixtures that are on.

        Args:
            key: a random key.
            images: ``[N, H, W, C]``, normalized.
            targets: ``[N, num_classes]``, floating: each example's distribution over the classes.

        Returns:
            The images and the targets.
        """
        if self.mixup and self.cutmix:
            choice_key, mix_key = jax.random.split(key)
            return lax.cond(
                jax.random.bernoulli(choice_key),
                lambda *batch: mixup(mix_key, *batch, self.mixup),
                lambda *batch: cutmix(mix_key, *batch, self.cutmix),
                images,
                targets,
            )
        if self.mixup:
            return mixup(key, images, targets, self.mixup)
        if self.cutmix:
            return cutmix(key, images, targets, self.cutmix)
        return images, targets
