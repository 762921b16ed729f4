"""Encoded images, and arrays that are images, to uint8 pixels.

What comes out is what torchvision's loader gets from Pillow, value for value; JPEGs take a faster
way there.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image

_JPEG = b"\xff\xd8\xff"
# Pillow's modes of 1 channel and of 3.
MODES = {1: "L", 3: "RGB"}
_JPEG_SPACES = {1: ("Gray",), 3: ("Gray", "YCbCr", "RGB")}
_TURBO = {1: "GRAY", 3: "RGB"}


class BadImageError(Exception):
    """An image that cannot be decoded; the message says why."""


def decode(encoded: bytes, channels: int) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, BMP or GIF (its first frame), whatever its name said.

    As torchvision's loader does: ``Image.open(file).convert("RGB")``. So a CMYK image is converted,
    transparency dropped and a palette resolved; the orientation in EXIF is ignored. Beyond that,
    images of 16 bits are brought to 8 (Pillow would cut them off at 255).

    Args:
        encoded: the file's content.
        channels: 3 (colour; a gray image gets three equal ones) or 1 (luma).

    Returns:
        ``[H, W, channels]`` uint8.

    Raises:
        BadImageError: if it is no image, damaged or cut short.
    """
    if encoded.startswith(_JPEG):
        try:
            space = simplejpeg.decode_jpeg_header(encoded)[2]
            if space in _JPEG_SPACES[channels]:
                return simplejpeg.decode_jpeg(encoded, _TURBO[channels])
        except ValueError:
            pass  # cut short, or merely odd: Pillow knows
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return from_pillow(_eight_bits(image).convert(MODES[channels]))
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file Pillow raises whatever its parsers trip over
        reason = "it is empty" if not encoded else str(error) or type(error).__name__
        raise BadImageError(reason) from error


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Pixels ``[H, W, C]`` as Pillow's image, which has no axis for a single channel."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Pillow's image as pixels ``[H, W, C]`` uint8."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    return Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))


def from_array(array: np.ndarray, channels: int) -> np.ndarray:
    """An array as an image.

    Args:
        array: ``[H, W]`` or ``[H, W, C]``, uint8, or floating of values in 0 to 1.
        channels: see :func:`decode`; colours become gray as Pillow makes them.

    Returns:
        ``[H, W, channels]`` uint8.

    Raises:
        BadImageError: for another shape, dtype or range.
    """
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in MODES or 0 in array.shape:
        raise BadImageError(f"it has shape {array.shape}, which is not [H, W], [H, W, 1 or 3]")
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
        if not ((array >= 0) & (array <= 1)).all():
            raise BadImageError("it has values outside 0 to 1 (or make it uint8)")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise BadImageError(f"it is {array.dtype}, not uint8 or floating")
    if array.shape[-1] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    return from_pillow(to_pillow(array).convert("L"))
