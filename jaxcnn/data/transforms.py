"""What an image goes through on the host, on its way to the network's size.

Images are ``[H, W, C]`` uint8 with 1 or 3 channels. What is random is drawn from a generator that
is made for one example in one epoch.
"""

import math

import numpy as np
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from jaxcnn.data.images import MAX_PIXELS, BadImageError, from_pillow, to_pillow

# torchvision.transforms.RandomResizedCrop's defaults.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_FAST_OPTIONS = {
    "bilinear": ResizeOptions(ResizeAlg.convolution(FilterType.bilinear)),
    "bicubic": ResizeOptions(ResizeAlg.convolution(FilterType.catmull_rom)),
}
_PIXEL_TYPES = {1: PixelType.U8, 3: PixelType.U8x3}

Box = tuple[int, int, int, int]


def random_resized_crop_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """Draws a box as ``torchvision.transforms.RandomResizedCrop.get_params`` does.

    Ten tries of a part of the area (uniform in 0.08 to 1) and an aspect (log-uniform in 3/4 to
    4/3), each rounded to pixels; the first that fits is placed uniformly. If none fits: the
    largest central box whose aspect is within the bounds.

    Args:
        height: of the image, in pixels.
        width: likewise.
        rng: of this example.

    Returns:
        top, left, height and width of the box.
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(TRIES):
        area = height * width * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return int(top), int(left), h, w
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
    image: np.ndarray, size: int, rng: np.random.Generator, interpolation: str = "bilinear"
) -> np.ndarray:
    """``torchvision.transforms.RandomResizedCrop(size)``.

    The resize is :func:`fast_resize`.
    """
    top, left, height, width = random_resized_crop_box(*image.shape[:2], rng)
    return fast_resize(image[top : top + height, left : left + width], size, size, interpolation)


def fast_resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """:func:`resize` in a quarter of the time, within one level.

    The same antialiased filter, of smaller integers: most values are equal. (Bicubic: of
    photographs within two levels; more where the weights overshoot 0 or 255.)
    """
    if image.shape[:2] == (height, width):
        return image
    channels = image.shape[-1]
    kind = _PIXEL_TYPES[channels]
    source = ImageData(image.shape[1], image.shape[0], kind, image.tobytes())
    target = ImageData(width, height, kind)
    Resizer().resize(source, target, _FAST_OPTIONS[interpolation])
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(height, width, channels)


def resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """``torchvision.transforms.Resize`` of a Pillow image: antialiased, by Pillow itself."""
    if image.shape[:2] == (height, width):
        return image
    return from_pillow(to_pillow(image).resize((width, height), INTERPOLATIONS[interpolation]))


def resize_shorter(image: np.ndarray, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """``torchvision.transforms.Resize(size)``: the shorter side comes to ``size`` pixels.

    Raises:
        BadImageError: if the longer side becomes too long for any memory.
    """
    shorter = min(image.shape[:2])
    height, width = (int(size * length / shorter) for length in image.shape[:2])
    if height * width > MAX_PIXELS:
        raise BadImageError(
            f"its sides are so unequal that it would be resized to {height}x{width} pixels"
        )
    return resize(image, height, width, interpolation)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """``torchvision.transforms.CenterCrop(size)``: black is put around a smaller image."""
    short = [max(0, size - length) for length in image.shape[:2]]
    if any(short):
        image = np.pad(image, [*((n // 2, (n + 1) // 2) for n in short), (0, 0)])
    top, left = (round((length - size) / 2) for length in image.shape[:2])
    return image[top : top + size, left : left + size]


def ten_crop(image: np.ndarray, size: int) -> np.ndarray:
    """``torchvision.transforms.TenCrop(size)``: four corners and the centre, then mirrored.

    Krizhevsky et al. 2012, section 4.1. The image must not be smaller than ``size``.

    Returns:
        ``[10, size, size, C]``.
    """
    first, last = slice(None, size), slice(-size, None)
    crops = []
    for view in (image, image[:, ::-1]):
        crops += [view[top, left] for top in (first, last) for left in (first, last)]
        crops.append(center_crop(view, size))
    return np.stack(crops)


def fit(image: np.ndarray, size: int, how: str, interpolation: str = "bilinear") -> np.ndarray:
    """Brings an image to ``size`` x ``size``: ``how`` is ``"resize"``, or ``"pad"``.

    ``"pad"`` puts black around a smaller image and cuts the centre out of a larger one.
    """
    return center_crop(image, size) if how == "pad" else resize(image, size, size, interpolation)


def pad_and_crop(image: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """``torchvision.transforms.RandomCrop`` at the image's own size, with black ``padding``."""
    height, width = image.shape[:2]
    top, left = rng.integers(0, 2 * padding + 1, size=2)
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    return padded[top : top + height, left : left + width]


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors half the images left to right."""
    if rng.random() >= 0.5:
        return image
    mirrored = np.empty_like(image)
    for channel in range(image.shape[-1]):  # five times as fast as all at once
        mirrored[..., channel] = image[:, ::-1, channel]
    return mirrored
