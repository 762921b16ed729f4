"""Operations of automatic augmentation, as torchvision's on a Pillow image.

They take Pillow images of mode ``RGB`` (``[H, W, 3]``, uint8) or ``L`` (``[H, W]``, uint8), keep
size and mode, and give the same result as ``torchvision.transforms``, bit for bit, for such an
image (black outside the image). Nothing is random.
"""

import math
from collections.abc import Callable, Collection

from PIL import Image, ImageEnhance, ImageOps

from jaxcnn.data import transforms
from jaxcnn.errors import UserError, suggest

MODES = ("RGB", "L")
# "nearest" is for augmentation alone; images are resized by the others.
INTERPOLATIONS = {"nearest": Image.Resampling.NEAREST, **transforms.INTERPOLATIONS}


def _affine(image: Image.Image, resampling: Image.Resampling, *inverse: float) -> Image.Image:
    """Transform by the six numbers that map a position in the result to one in ``image``."""
    return image.transform(image.size, Image.Transform.AFFINE, inverse, resampling)


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


_GEOMETRIC: dict[str, Callable[[Image.Image, float, Image.Resampling], Image.Image]] = {
    "ShearX": lambda image, m, by: _affine(image, by, 1.0, tangent(m), 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda image, m, by: _affine(image, by, 1.0, 0.0, 0.0, sine_by_cosine(m), 1.0, 0.0),
    "TranslateX": lambda image, m, by: _affine(image, by, 1.0, 0.0, -int(m), 0.0, 1.0, 0.0),
    "TranslateY": lambda image, m, by: _affine(image, by, 1.0, 0.0, 0.0, 0.0, 1.0, -int(m)),
    "Rotate": lambda image, m, by: image.rotate(m, by),
}
_OTHERS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
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


def apply(
    image: Image.Image, operation: str, magnitude: float, interpolation: str = "nearest"
) -> Image.Image:
    """Apply one operation; nothing is random.

    Source: ``_apply_op`` of ``torchvision.transforms.autoaugment``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        operation: one of those of :mod:`jaxcnn.data.spaces`.
        magnitude: the tangent of the angle of a shear; the pixels of a translation to the right
            or down, rounded towards zero; the degrees of a rotation, counter-clockwise; the
            change of the factor 1 of brightness, color, contrast and sharpness; the bits that
            Posterize keeps; the value from which Solarize inverts. The others ignore it.
        interpolation: of shears, translations and rotations, one of :data:`INTERPOLATIONS`.

    Returns:
        An image of the same size and mode; for ``"Identity"``, ``image`` itself.

    Raises:
        UserError: for an unknown operation or interpolation, another mode, a magnitude that is
            not finite, or bits outside 1 to 8.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> row = Image.fromarray(np.array([[10, 20, 30]], np.uint8))
        >>> np.asarray(apply(row, "TranslateX", 1.0)).tolist()
        [[0, 10, 20]]
    """
    check_image(image)
    check_interpolation(interpolation)
    if operation not in _GEOMETRIC and operation not in _OTHERS:
        names = [*_GEOMETRIC, *_OTHERS]
        raise UserError(
            f"Unknown augmentation operation {operation!r}; {suggest(operation, names)}"
        )
    if not math.isfinite(magnitude):
        raise UserError(
            f"The magnitude {magnitude} of {operation} is not finite; give a finite number."
        )
    if operation in _GEOMETRIC:
        return _GEOMETRIC[operation](image, magnitude, INTERPOLATIONS[interpolation])
    return _OTHERS[operation](image, magnitude)


def check_image(image: Image.Image) -> None:
    """Raise a UserError unless ``image`` is a Pillow image of one of :data:`MODES`."""
    mode = getattr(image, "mode", type(image).__name__)
    if not isinstance(image, Image.Image) or mode not in MODES:
        raise UserError(
            f"Augmentation takes Pillow images of mode {' or '.join(MODES)}, not {mode}; "
            f"convert the image first, as with image.convert('RGB')."
        )


def check_interpolation(interpolation: str, accepted: Collection[str] = INTERPOLATIONS) -> None:
    """Raise a UserError unless ``interpolation`` is one of those accepted."""
    if interpolation not in accepted:
        raise UserError(
            f"The interpolation {interpolation!r} is not available for this augmentation; use "
            f"{' or '.join(accepted)}."
        )
