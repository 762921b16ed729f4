"""Operations of automatic augmentation, as torchvision's on a uint8 tensor, which AugMix uses.

Their results differ from those on a Pillow image: positions of shears, translations and rotations,
and values, are computed in float32, and values are truncated. The float32 operations and their
order are torch's on an x86 processor, so that the images are equal bit for bit. (Contrast: up to
65,793 pixels; above, torch may round the sum for the mean brightness.)
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from jaxcnn.data import operations
from jaxcnn.data.images import from_pillow, to_pillow

# torchvision has no bicubic operations on a tensor.
INTERPOLATIONS = ("nearest", "bilinear")
_ONE = np.float32(1)


def _fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``a * b + c`` in float32, rounded once: in float64 the product is exact."""
    return (a.astype(np.float64, copy=False) * b + c).astype(np.float32)


def _positions(weights: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
    """Map the pixels of the result to positions on one axis of the image, ``[H, W]`` float32.

    Source: ``_gen_affine_grid`` of torchvision, and ``unnormalize`` of torch's ``grid_sample``.

    Args:
        weights: of x and y, measured from the center, and a constant, ``[3]`` float32.
        height: of the image, in pixels.
        width: of the image, in pixels.
        size: of the axis: height or width.
    """
    x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
    for_x, for_y, constant = weights / np.float32(0.5 * size)
    relative = x * for_x + y * for_y + constant  # -1 to 1 within the image
    return _fused_multiply_add(relative + _ONE, np.float32(size / 2), np.float32(-0.5))


def _affine(pixels: np.ndarray, interpolation: str, *inverse: float) -> np.ndarray:
    """Transform by the six numbers that map a position, from the center, to one in ``pixels``."""
    height, width, channels = pixels.shape
    weights = np.array(inverse, np.float32).reshape(2, 3)
    x = _positions(weights[0], height, width, width)
    y = _positions(weights[1], height, width, height)
    if interpolation == "nearest":
        bordered = np.pad(pixels, [(1, 1), (1, 1), (0, 0)])
        return bordered[_bordered_index(np.rint(y), height), _bordered_index(np.rint(x), width)]
    left, top = np.floor(x), np.floor(y)
    right_part, lower_part = x - left, y - top
    parts_x, parts_y = (_ONE - right_part, right_part), (_ONE - lower_part, lower_part)
    columns = [_bordered_index(left + i, width) for i in (0, 1)]
    rows = [_bordered_index(top + i, height) for i in (0, 1)]

    # The channels come first: numpy is slow along a short last axis.
    bordered = np.pad(pixels, [(1, 1), (1, 1), (0, 0)]).reshape(-1, channels).T.astype(np.float64)
    result = np.zeros((channels, height, width), np.float32)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        neighbors = bordered.take(rows[i] * (width + 2) + columns[j], axis=1)
        result = _fused_multiply_add(neighbors, parts_x[j] * parts_y[i], result)
    return np.ascontiguousarray(np.moveaxis(np.rint(result).astype(np.uint8), 0, -1))


def _bordered_index(positions: np.ndarray, size: int) -> np.ndarray:
    """The indices of whole positions on an axis that has a border of one pixel."""
    return np.clip(positions, -1, size).astype(np.intp) + 1


def _shear_x(pixels: np.ndarray, magnitude: float, interpolation: str) -> np.ndarray:
    tangent = operations.tangent(magnitude)
    center_y, center_x = (length / 2 for length in pixels.shape[:2])
    shift = center_x + tangent * center_y - center_x
    return _affine(pixels, interpolation, 1.0, tangent, shift, 0.0, 1.0, 0.0)


def _shear_y(pixels: np.ndarray, magnitude: float, interpolation: str) -> np.ndarray:
    tangent = operations.sine_by_cosine(magnitude)
    center_y, center_x = (length / 2 for length in pixels.shape[:2])
    shift = tangent * center_x + center_y - center_y
    return _affine(pixels, interpolation, 1.0, 0.0, 0.0, tangent, 1.0, shift)


def _rotate(pixels: np.ndarray, degrees: float, interpolation: str) -> np.ndarray:
    angle = math.radians(-degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    return _affine(pixels, interpolation, cosine, sine, 0.0, -sine, cosine, 0.0)


def _blend(pixels: np.ndarray, others: np.ndarray, magnitude: float) -> np.ndarray:
    """Mix ``pixels`` by 1 + ``magnitude`` with ``others`` by the rest of 1."""
    factor = 1.0 + magnitude
    return _truncated(np.float32(factor) * pixels + np.float32(1.0 - factor) * others)


def _truncated(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def _gray(pixels: np.ndarray) -> np.ndarray:
    """The brightness of each pixel, ``[H, W, 1]`` uint8."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    gray = np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return gray.astype(np.uint8)[..., None]


def _color(pixels: np.ndarray, magnitude: float) -> np.ndarray:
    return pixels if pixels.shape[-1] == 1 else _blend(pixels, _gray(pixels), magnitude)


def _contrast(pixels: np.ndarray, magnitude: float) -> np.ndarray:
    gray = _gray(pixels)
    return _blend(pixels, np.float32(gray.sum()) / np.float32(gray.size), magnitude)


def _sharpness(pixels: np.ndarray, magnitude: float) -> np.ndarray:
    if min(pixels.shape[:2]) <= 2:
        return pixels
    values = pixels.astype(np.int16)
    rows = values[:-2] + values[1:-1] + values[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * values[1:-1, 1:-1]
    smooth = pixels.copy()
    smooth[1:-1, 1:-1] = (2 * total + 13) // 26  # total / 13, rounded; it is never halfway
    return _blend(pixels, smooth, magnitude)


def _auto_contrast(pixels: np.ndarray) -> np.ndarray:
    low, high = (  # per channel; numpy is slow with both axes at once
        limit(limit(pixels, axis=0), axis=0).astype(np.float32) for limit in (np.min, np.max)
    )
    flat = low == high
    scale = _ONE / np.where(flat, _ONE, high - low) * np.float32(255)
    return np.where(flat, pixels, _truncated((pixels - low) * scale))


_GEOMETRIC: dict[str, Callable[[np.ndarray, float, str], np.ndarray]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": lambda pixels, m, by: _affine(pixels, by, 1.0, 0.0, -int(m), 0.0, 1.0, 0.0),
    "TranslateY": lambda pixels, m, by: _affine(pixels, by, 1.0, 0.0, 0.0, 0.0, 1.0, -int(m)),
    "Rotate": _rotate,
}
_OTHERS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "Brightness": lambda pixels, m: _blend(pixels, np.zeros_like(pixels), m),
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "AutoContrast": lambda pixels, _: _auto_contrast(pixels),
}


def apply(
    image: Image.Image, operation: str, magnitude: float, interpolation: str = "bilinear"
) -> Image.Image:
    """Apply one operation, as :func:`jaxcnn.data.operations.apply`, with a tensor's results.

    Source: ``_apply_op`` of ``torchvision.transforms.autoaugment``.

    Raises:
        UserError: as there, and for an interpolation that is not of :data:`INTERPOLATIONS`.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> row = Image.fromarray(np.array([[10, 20, 30]], np.uint8))
        >>> np.asarray(apply(row, "AutoContrast", 0.0)).tolist()
        [[0, 127, 255]]
    """
    operations.check_interpolation(interpolation, INTERPOLATIONS)
    if operation in _GEOMETRIC:
        return to_pillow(_GEOMETRIC[operation](from_pillow(image), magnitude, interpolation))
    if operation in _OTHERS:
        return to_pillow(_OTHERS[operation](from_pillow(image), magnitude))
    return operations.apply(image, operation, magnitude)  # equal for both
