"""Crops, resizes and flips on the host, to the network's image size.

Images are ``[H, W, C]`` uint8 with 1 or 3 channels. Random numbers come from a generator that is
made for one example in one epoch.
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
    """Draw a box as ``torchvision.transforms.RandomResizedCrop.get_params`` does.

    Up to ten times a fraction of the area (uniform in 0.08 to 1) and an aspect ratio (log-uniform
    in 3/4 to 4/3) are drawn and rounded to pixels; the first box that fits is placed uniformly.
    If none fits, the box is the largest central one whose aspect ratio is within the bounds.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
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
    """Crop at random and resize, as ``torchvision.transforms.RandomResizedCrop(size)``.

    Resizes with :func:`fast_resize`.
    """
    top, left, height, width = random_resized_crop_box(*image.shape[:2], rng)
    return fast_resize(image[top : top + height, left : left + width], size, size, interpolation)


def resize_and_crop(
    image: np.ndarray,
    resize_size: int,
    size: int,
    rng: np.random.Generator,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """Resize the shorter side to ``resize_size`` pixels and crop at random to a square.

    As torchvision's ``Resize(resize_size)`` and ``RandomCrop(size)``, and as AlexNet and VGG were
    trained. Resizes with :func:`fast_resize`: random_resized_crop does, and only evaluation has
    to be exact.

    Raises:
        BadImageError: see :func:`resize_shorter`.
    """
    height, width = _shape_with_shorter(image, resize_size)
    return random_crop(fast_resize(image, height, width, interpolation), size, size, rng)


def fast_resize(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """Resize like :func:`resize` in a quarter of the time, to within one level of 255.

    The antialiased filter is the same, with smaller integers as its weights: most values are
    equal. (Bicubic: within two levels for photographs; more where values overshoot 0 or 255.)
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
    """Resize as ``torchvision.transforms.Resize`` does a Pillow image: antialiased, by Pillow."""
    if image.shape[:2] == (height, width):
        return image
    return from_pillow(to_pillow(image).resize((width, height), INTERPOLATIONS[interpolation]))


def resize_shorter(image: np.ndarray, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Resize the shorter side to ``size`` pixels, as ``torchvision.transforms.Resize(size)``.

    Raises:
        BadImageError: if the result would have more than 179 million pixels.
    """
    return resize(image, *_shape_with_shorter(image, size), interpolation)


def _shape_with_shorter(image: np.ndarray, size: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side is resized to ``size`` pixels."""
    shorter = min(image.shape[:2])
    height, width = (int(size * length / shorter) for length in image.shape[:2])
    if height * width > MAX_PIXELS:
        raise BadImageError(
            f"its aspect ratio is so extreme that it would be resized to {height}x{width} pixels"
        )
    return height, width


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Crop the center after adding a black border where the image is smaller.

    As ``torchvision.transforms.CenterCrop(size)``.
    """
    short = [max(0, size - length) for length in image.shape[:2]]
    if any(short):
        image = np.pad(image, [*((n // 2, (n + 1) // 2) for n in short), (0, 0)])
    top, left = (round((length - size) / 2) for length in image.shape[:2])
    return image[top : top + size, left : left + size]


def ten_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Crop four corners and the center, then mirrored: ``torchvision.transforms.TenCrop(size)``.

    Source: Krizhevsky et al. 2012, section 4.1. The image must not be smaller than ``size``.

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
    """Bring an image to ``size`` x ``size``: ``how`` is ``"resize"`` or ``"pad"``.

    ``"pad"`` adds a black border to a smaller image and crops the center of a larger one.
    """
    return center_crop(image, size) if how == "pad" else resize(image, size, size, interpolation)


def pad_and_crop(image: np.ndarray, padding: int, rng: np.random.Generator) -> np.ndarray:
    """Crop at random to the image's own size after adding a black border of ``padding`` pixels.

    As ``torchvision.transforms.RandomCrop(size, padding)``.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
    return random_crop(padded, height, width, rng)


def random_crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Crop ``height`` x ``width`` pixels at random from an image that is not smaller."""
    top = rng.integers(0, image.shape[0] - height + 1)
    left = rng.integers(0, image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the images left to right."""
    if rng.random() >= 0.5:
        return image
    mirrored = np.empty_like(image)
    for channel in range(image.shape[-1]):  # five times as fast as all channels at once
        mirrored[..., channel] = image[:, ::-1, channel]
    return mirrored
