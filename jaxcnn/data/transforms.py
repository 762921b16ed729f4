"""Encoded images to uint8 arrays of the network's size.

What is random is a function of a seed that the caller gives for each example. Images are
``[H, W, C]``, uint8; seeds are two integers, as TensorFlow's stateless random functions take.
"""

import math

from jaxcnn.data.tensorflow import tf

# torchvision.transforms.RandomResizedCrop's defaults.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10


def decode(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a JPEG, PNG, BMP or GIF (its first frame) accurately, as Pillow does."""
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels, expand_animations=False),
    )


def random_resized_crop_box(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws a box as ``torchvision.transforms.RandomResizedCrop.get_params`` does.

    Ten tries of a part of the area (uniform in 0.08 to 1) and an aspect (log-uniform in 3/4 to
    4/3), each rounded to pixels; the first that fits is placed uniformly. If none fits: the
    largest central box whose aspect is within the bounds.

    Args:
        height: of the image, in pixels, int32.
        width: likewise.
        seed: two integers.

    Returns:
        top, left, height and width of the box, int32.
    """
    draws = tf.random.stateless_uniform([4, TRIES], seed, dtype=tf.float64)
    h, w = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    areas = h * w * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])
    logs = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspects = tf.exp(logs[0] + (logs[1] - logs[0]) * draws[1])
    widths = tf.round(tf.sqrt(areas * aspects))
    heights = tf.round(tf.sqrt(areas / aspects))
    fits = (widths > 0) & (widths <= w) & (heights > 0) & (heights <= h)
    first = tf.argmax(fits)
    tops = tf.floor(draws[2] * (h - heights + 1))
    lefts = tf.floor(draws[3] * (w - widths + 1))
    drawn = tf.stack([tops[first], lefts[first], heights[first], widths[first]])

    central_width = tf.minimum(w, tf.round(h * ASPECT[1]))
    central_height = tf.minimum(h, tf.round(w / ASPECT[0]))
    central = tf.stack(
        [
            (h - central_height) // 2,
            (w - central_width) // 2,
            central_height,
            central_width,
        ]
    )
    box = tf.cast(tf.where(fits[first], drawn, central), tf.int32)
    return box[0], box[1], box[2], box[3]


def random_resized_crop(encoded: tf.Tensor, size: int, channels: int, seed: tf.Tensor) -> tf.Tensor:
    """``torchvision.transforms.RandomResizedCrop(size)`` of an encoded image.

    Of a JPEG only what the box needs is decoded.
    """

    def cropped_jpeg() -> tf.Tensor:
        shape = tf.io.extract_jpeg_shape(encoded)
        box = tf.stack(random_resized_crop_box(shape[0], shape[1], seed))
        return tf.io.decode_and_crop_jpeg(encoded, box, channels, dct_method="INTEGER_ACCURATE")

    def cropped() -> tf.Tensor:
        image = decode(encoded, channels)
        shape = tf.shape(image)
        top, left, height, width = random_resized_crop_box(shape[0], shape[1], seed)
        return image[top : top + height, left : left + width]

    return resize(tf.cond(tf.io.is_jpeg(encoded), cropped_jpeg, cropped), size, size)


def resize_and_center_crop(image: tf.Tensor, resize_size: int, size: int) -> tf.Tensor:
    """``Resize(resize_size)`` (the shorter side) and ``CenterCrop(size)`` of torchvision.

    ``size`` must not be larger than ``resize_size``.
    """
    shape = tf.cast(tf.shape(image), tf.int64)
    shorter = tf.minimum(shape[0], shape[1])
    height, width = resize_size * shape[0] // shorter, resize_size * shape[1] // shorter
    image = resize(image, tf.cast(height, tf.int32), tf.cast(width, tf.int32))
    top = tf.cast(tf.round(tf.cast(height - size, tf.float64) / 2), tf.int32)
    left = tf.cast(tf.round(tf.cast(width - size, tf.float64) / 2), tf.int32)
    return image[top : top + size, left : left + size]


def resize(image: tf.Tensor, height: tf.Tensor | int, width: tf.Tensor | int) -> tf.Tensor:
    """Resizes bilinearly; antialiased when it shrinks, as Pillow does."""
    resized = tf.image.resize(image, [height, width], antialias=True)
    return tf.saturate_cast(tf.round(resized), tf.uint8)


def fit(image: tf.Tensor, size: int, how: str) -> tf.Tensor:
    """Brings an image to ``size`` x ``size``: ``how`` is ``"resize"``, or ``"pad"``.

    ``"pad"`` puts black around a smaller image and cuts the centre out of a larger one.
    """
    if how == "pad":
        return tf.image.resize_with_crop_or_pad(image, size, size)
    shape = tf.shape(image)
    same = (shape[0] == size) & (shape[1] == size)
    return tf.cond(same, lambda: image, lambda: resize(image, size, size))


def pad_and_crop(image: tf.Tensor, padding: int, seed: tf.Tensor) -> tf.Tensor:
    """``torchvision.transforms.RandomCrop`` at the image's own size, with black ``padding``."""
    shape = tf.shape(image)
    image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
    top, left = tf.unstack(
        tf.random.stateless_uniform([2], seed, 0, 2 * padding + 1, dtype=tf.int32)
    )
    return image[top : top + shape[0], left : left + shape[1]]


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors half the images left to right."""
    return tf.cond(
        tf.random.stateless_uniform([], seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: image
    )
