"""Encoded images, and arrays that are images, to uint8 pixels.

The pixels are exactly those that torchvision's loader gets from Pillow; JPEGs are decoded faster.
"""

import io

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

_JPEG = b"\xff\xd8\xff"
# Pillow's modes with 1 and 3 channels.
MODES = {1: "L", 3: "RGB"}
_JPEG_SPACES = {1: ("Gray",), 3: ("Gray", "YCbCr", "RGB")}
_TURBO = {1: "GRAY", 3: "RGB"}
# Not all formats of Pillow: it decodes some of them with external programs.
_WANTED = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "PPM", "TIFF", "AVIF")
Image.init()  # otherwise Pillow knows only the most common formats
_FORMATS = [name for name in _WANTED if name in Image.OPEN]
# Pillow refuses larger images, which may be meant to exhaust the memory.
MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS


class BadImageError(Exception):
    """An image that cannot be decoded; the message says why."""


def decode(encoded: bytes, channels: int) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, BMP, GIF (its first frame), ... to uint8 pixels.

    As torchvision's loader does: ``Image.open(file).convert("RGB")``. The format is detected from
    the content. CMYK is converted, transparency dropped and a palette resolved; the orientation
    in EXIF is ignored. Unlike there, 16-bit images are scaled to 8 bits (Pillow clips them to
    255).

    Args:
        encoded: the content of the file.
        channels: 3 (color; a gray image gets three equal channels) or 1 (luma).

    Returns:
        ``[H, W, channels]`` uint8.

    Raises:
        BadImageError: if it is not an image, is damaged or truncated, or has more than 179
            million pixels.
    """
    if encoded.startswith(_JPEG):
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(encoded)
            if height * width <= MAX_PIXELS and space in _JPEG_SPACES[channels]:
                return simplejpeg.decode_jpeg(encoded, _TURBO[channels])
        except ValueError:
            pass  # truncated, or merely unusual: Pillow decides
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            if image.mode[0] in "IF":
                return from_array(_to_eight_bits(image), channels)
            return from_pillow(image.convert(MODES[channels]))
    except UnidentifiedImageError as error:
        raise BadImageError("it is not an image" if encoded else "it is empty") from error
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # for a damaged file Pillow's parsers raise all kinds of errors
        raise BadImageError(str(error) or type(error).__name__) from error


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    """Scale gray values of 16 bits to uint8 ``[H, W]``; floating ones stay as they are."""
    values = np.asarray(image)
    if image.mode == "F":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError("it has values outside 0 to 65535")
    return (values >> 8).astype(np.uint8)


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Convert pixels ``[H, W, C]`` to a Pillow image, which has no axis for a single channel."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image to pixels ``[H, W, C]`` uint8."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def from_array(array: np.ndarray, channels: int) -> np.ndarray:
    """Convert an array to the pixels of an image.

    Args:
        array: ``[H, W]`` or ``[H, W, C]``, uint8, or floating with values in 0 to 1.
        channels: see :func:`decode`; colors are converted to gray as Pillow does.

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
            raise BadImageError("it has values outside 0 to 1 (convert it to uint8)")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise BadImageError(f"it is {array.dtype}, not uint8 or floating")
    if array.shape[-1] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    return from_pillow(to_pillow(array).convert("L"))
