"""Operations of automatic augmentation, as torchvision's on a Pillow image.

They take Pillow images of mode ``RGB`` (``[H, W, 3]``, uint8) or ``L`` (``[H, W]``, uint8), keep
size and mode, and give the same result as ``torchvision.transforms``, bit for bit, for such an
image (nearest-neighbour interpolation, black outside the image). Nothing is random.
"""

import math
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

from jaxcnn.errors import UserError, suggest

MODES = ("RGB", "L")


def _affine(image: Image.Image, *inverse: float) -> Image.Image:
    """Transform by the six numbers that map a position in the result to one in ``image``."""
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST)


def tangent(magnitude: float) -> float:
    """The tangent of a shear along x, with torchvision's rounding, which can move a pixel."""
    return math.tan(_sheared_angle(magnitude))


def sine_by_cosine(magnitude: float) -> float:
    """The tangent of a shear along y, which torchvision computes otherwise."""
    angle = _sheared_angle(magnitude)
    return math.sin(angle) / math.cos(angle)


def _sheared_angle(magnitude: float) -> float:
    return math.radians(math.degrees(math.atan(magnitude)))  # torchvision goes through degrees


def _posterize(image: Image.Image, magnitude: float) -> Image.Image:
    bits = int(magnitude)
    if not 1 <= bits <= 8:
        raise UserError(
            f"Posterize cannot keep {bits} of a pixel's 8 bits; give a magnitude of 1 to 8."
        )
    return ImageOps.posterize(image, bits)


_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, m: _affine(image, 1.0, tangent(m), 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda image, m: _affine(image, 1.0, 0.0, 0.0, sine_by_cosine(m), 1.0, 0.0),
    "TranslateX": lambda image, m: _affine(image, 1.0, 0.0, -float(int(m)), 0.0, 1.0, 0.0),
    "TranslateY": lambda image, m: _affine(image, 1.0, 0.0, 0.0, 0.0, 1.0, -float(int(m))),
    "Rotate": lambda image, m: image.rotate(m, Image.Resampling.NEAREST),
    "Brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1.0 + m),
    "Color": lambda image, m: ImageEnhance.Color(image).enhance(1.0 + m),
    "Contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1.0 + m),
    "Sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1.0 + m),
    "Posterize": _posterize,
    "Solarize": lambda image, m: ImageOps.solarize(image, m),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
}


def apply(image: Image.Image, operation: str, magnitude: float) -> Image.Image:
    """Apply one operation; nothing is random.

    Source: ``_apply_op`` of ``torchvision.transforms.autoaugment``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        operation: one of those of :mod:`jaxcnn.data.spaces`.
        magnitude: the tangent of the angle of a shear; the pixels of a translation to the right
            or down, rounded towards zero; the degrees of a rotation, counter-clockwise; the
            change of the factor 1 of brightness, colour, contrast and sharpness; the bits that
            Posterize keeps; the value from which Solarize inverts. The others ignore it.

    Returns:
        An image of the same size and mode; for ``"Identity"``, ``image`` itself.

    Raises:
        UserError: for an unknown operation, another mode, a magnitude that is not finite, or
            bits outside 1 to 8.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> row = Image.fromarray(np.array([[10, 20, 30]], np.uint8))
        >>> np.asarray(apply(row, "TranslateX", 1.0)).tolist()
        [[0, 10, 20]]
    """
    check_image(image)
    if operation not in _OPERATIONS:
        raise UserError(
            f"Unknown augmentation operation {operation!r}; {suggest(operation, _OPERATIONS)}"
        )
    if not math.isfinite(magnitude):
        raise UserError(
            f"The magnitude {magnitude} of {operation} is not finite; give a finite number."
        )
    return _OPERATIONS[operation](image, magnitude)


def check_image(image: Image.Image) -> None:
    """Raise a UserError unless ``image`` is a Pillow image of one of :data:`MODES`."""
    mode = getattr(image, "mode", type(image).__name__)
    if not isinstance(image, Image.Image) or mode not in MODES:
        raise UserError(
            f"Augmentation takes Pillow images of mode {' or '.join(MODES)}, not {mode}; "
            f"convert the image first, as with image.convert('RGB')."
        )
