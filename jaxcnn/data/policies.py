"""Automatic augmentation on the host: torchvision's RandAugment and TrivialAugment.

Both draw operations and their strengths from a table. They take Pillow images of mode ``RGB``
(``[H, W, 3]``, uint8) or ``L`` (``[H, W]``, uint8), keep size and mode, and give the same result
as ``torchvision.transforms``, bit for bit, for such an image with its defaults (nearest-neighbour
interpolation, black outside the image). All random numbers come from the generator that the
caller passes for one example.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from jaxcnn.errors import UserError, suggest

MODES = ("RGB", "L")

# --- operations


def _affine(image: Image.Image, *inverse: float) -> Image.Image:
    """Transform by the six numbers that map a position in the result to one in ``image``."""
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST)


def _shear_x(image: Image.Image, magnitude: float) -> Image.Image:
    # torchvision goes through degrees, whose rounding can move a pixel; so do both shears.
    angle = math.radians(math.degrees(math.atan(magnitude)))
    return _affine(image, 1.0, math.tan(angle), 0.0, 0.0, 1.0, 0.0)


def _shear_y(image: Image.Image, magnitude: float) -> Image.Image:
    angle = math.radians(math.degrees(math.atan(magnitude)))
    return _affine(image, 1.0, 0.0, 0.0, math.sin(angle) / math.cos(angle), 1.0, 0.0)


def _posterize(image: Image.Image, magnitude: float) -> Image.Image:
    bits = int(magnitude)
    if not 1 <= bits <= 8:
        raise UserError(
            f"Posterize cannot keep {bits} of a pixel's 8 bits; give a magnitude of 1 to 8."
        )
    return ImageOps.posterize(image, bits)


_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
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
}


def apply(image: Image.Image, operation: str, magnitude: float) -> Image.Image:
    """Apply one operation; nothing is random.

    Source: ``_apply_op`` of ``torchvision.transforms.autoaugment``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        operation: a name in :data:`RAND_AUGMENT` or :data:`TRIVIAL_AUGMENT_WIDE`.
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
    _check_image(image)
    if operation not in _OPERATIONS:
        raise UserError(
            f"Unknown augmentation operation {operation!r}; {suggest(operation, _OPERATIONS)}"
        )
    if not math.isfinite(magnitude):
        raise UserError(
            f"The magnitude {magnitude} of {operation} is not finite; give a finite number."
        )
    return _OPERATIONS[operation](image, magnitude)


# --- magnitudes


@dataclasses.dataclass(frozen=True)
class Magnitudes:
    """The magnitudes of an operation in a policy, evenly spaced.

    Attributes:
        first: the magnitude of index 0.
        last: the magnitude of the highest index.
        unit: ``"one"``, ``"width"`` or ``"height"`` (fractions of the image's), or ``"bits"``
            (rounded to whole ones).
        signed: whether the magnitude is negated half of the time.
    """

    first: float
    last: float
    unit: Literal["one", "width", "height", "bits"] = "one"
    signed: bool = False

    def table(self, num_bins: int, height: int, width: int) -> np.ndarray:
        """Compute the magnitudes for an image, ``[num_bins]`` float32, before any sign.

        Source: ``_augmentation_space`` of ``torchvision.transforms.RandAugment``.

        Args:
            num_bins: how many, at least 2.
            height: of the image, in pixels.
            width: of the image, in pixels.

        Example:
            >>> Magnitudes(8, 4, "bits").table(9, height=32, width=32).tolist()
            [8.0, 8.0, 7.0, 6.0, 6.0, 6.0, 5.0, 4.0, 4.0]
        """
        if self.unit == "bits":
            per_bit = np.float32((num_bins - 1) / (self.first - self.last))
            lost = np.round(np.arange(num_bins, dtype=np.float32) / per_bit)
            return np.float32(self.first) - lost
        scale = {"one": 1, "width": width, "height": height}[self.unit]
        return _linspace(self.first * scale, self.last * scale, num_bins)


def _linspace(first: float, last: float, num: int) -> np.ndarray:
    """``torch.linspace``, ``[num]`` float32, to the last bit.

    The last bit can change by how many pixels an image is translated. torch counts from both ends
    with a float32 step and a fused multiply-add; in float64 that product is exact, so there is
    only one rounding, as in torch.
    """
    first, last = np.float32(first), np.float32(last)
    step = np.float64((last - first) / np.float32(num - 1))
    index = np.arange(num)
    up, down = first + step * index, last - step * (num - 1 - index)
    return np.where(index < num // 2, up, down).astype(np.float32)


# By operation; None: no magnitude. The order is torchvision's, which draws by number.
RAND_AUGMENT: dict[str, Magnitudes | None] = {
    "Identity": None,
    "ShearX": Magnitudes(0.0, 0.3, signed=True),
    "ShearY": Magnitudes(0.0, 0.3, signed=True),
    "TranslateX": Magnitudes(0.0, 150.0 / 331.0, "width", signed=True),
    "TranslateY": Magnitudes(0.0, 150.0 / 331.0, "height", signed=True),
    "Rotate": Magnitudes(0.0, 30.0, signed=True),
    "Brightness": Magnitudes(0.0, 0.9, signed=True),
    "Color": Magnitudes(0.0, 0.9, signed=True),
    "Contrast": Magnitudes(0.0, 0.9, signed=True),
    "Sharpness": Magnitudes(0.0, 0.9, signed=True),
    "Posterize": Magnitudes(8, 4, "bits"),
    "Solarize": Magnitudes(255.0, 0.0),
    "AutoContrast": None,
    "Equalize": None,
}
TRIVIAL_AUGMENT_WIDE: dict[str, Magnitudes | None] = {
    "Identity": None,
    "ShearX": Magnitudes(0.0, 0.99, signed=True),
    "ShearY": Magnitudes(0.0, 0.99, signed=True),
    "TranslateX": Magnitudes(0.0, 32.0, signed=True),
    "TranslateY": Magnitudes(0.0, 32.0, signed=True),
    "Rotate": Magnitudes(0.0, 135.0, signed=True),
    "Brightness": Magnitudes(0.0, 0.99, signed=True),
    "Color": Magnitudes(0.0, 0.99, signed=True),
    "Contrast": Magnitudes(0.0, 0.99, signed=True),
    "Sharpness": Magnitudes(0.0, 0.99, signed=True),
    "Posterize": Magnitudes(8, 2, "bits"),
    "Solarize": Magnitudes(255.0, 0.0),
    "AutoContrast": None,
    "Equalize": None,
}

# --- policies


def rand_augment(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    num_magnitude_bins: int = 31,
) -> Image.Image:
    """Apply ``num_ops`` operations drawn from :data:`RAND_AUGMENT`, all of one magnitude.

    Source: Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced
    search space" (arXiv:1909.13719), section 3, as ``torchvision.transforms.RandAugment``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        rng: draws each operation, with replacement, and its sign.
        num_ops: how many operations, one after the other.
        magnitude: the index of each operation's magnitude, 0 to ``num_magnitude_bins`` - 1.
        num_magnitude_bins: how many magnitudes each operation has.

    Returns:
        An image of the same size and mode; it may be ``image`` itself.

    Raises:
        UserError: for another mode, or a number out of range.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> gray = Image.new("RGB", (32, 24), (90, 90, 90))
        >>> rand_augment(gray, np.random.default_rng(0)).size
        (32, 24)
    """
    _check_image(image)
    _check_bins(num_magnitude_bins)
    if num_ops < 0:
        raise UserError(f"num_ops={num_ops} of RandAugment is negative; set it to 0 or more.")
    if not 0 <= magnitude < num_magnitude_bins:
        raise UserError(
            f"magnitude={magnitude} of RandAugment is out of range; set it to 0 to "
            f"{num_magnitude_bins - 1}, or increase num_magnitude_bins."
        )
    for _ in range(num_ops):
        image = _apply_drawn(image, rng, RAND_AUGMENT, magnitude, num_magnitude_bins)
    return image


def trivial_augment_wide(
    image: Image.Image, rng: np.random.Generator, *, num_magnitude_bins: int = 31
) -> Image.Image:
    """Apply one operation of :data:`TRIVIAL_AUGMENT_WIDE` with a magnitude, both drawn.

    Source: Müller and Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
    Augmentation" (arXiv:2103.10158), section 3 and the wide space of its tables, as
    ``torchvision.transforms.TrivialAugmentWide``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        rng: draws the operation, its magnitude and its sign.
        num_magnitude_bins: how many magnitudes each operation has.

    Returns:
        An image of the same size and mode; it may be ``image`` itself.

    Raises:
        UserError: for another mode, or fewer than two magnitudes.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> gray = Image.new("L", (32, 24), 90)
        >>> trivial_augment_wide(gray, np.random.default_rng(0)).mode
        'L'
    """
    _check_image(image)
    _check_bins(num_magnitude_bins)
    return _apply_drawn(image, rng, TRIVIAL_AUGMENT_WIDE, None, num_magnitude_bins)


POLICIES: dict[str, Callable[..., Image.Image]] = {
    "rand_augment": rand_augment,
    "trivial_augment_wide": trivial_augment_wide,
}


def _apply_drawn(
    image: Image.Image,
    rng: np.random.Generator,
    space: Mapping[str, Magnitudes | None],
    index: int | None,
    num_bins: int,
) -> Image.Image:
    """Draw an operation, the index of its magnitude if None, and its sign, in this order."""
    operation = list(space)[rng.integers(len(space))]
    magnitudes = space[operation]
    magnitude = 0.0
    if magnitudes is not None:
        if index is None:
            index = rng.integers(num_bins)
        magnitude = float(magnitudes.table(num_bins, image.height, image.width)[index])
        if magnitudes.signed and rng.integers(2):
            magnitude = -magnitude
    return apply(image, operation, magnitude)


def _check_image(image: Image.Image) -> None:
    mode = getattr(image, "mode", type(image).__name__)
    if not isinstance(image, Image.Image) or mode not in MODES:
        raise UserError(
            f"Augmentation takes Pillow images of mode {' or '.join(MODES)}, not {mode}; "
            f"convert the image first, as with image.convert('RGB')."
        )


def _check_bins(num_bins: int) -> None:
    if num_bins < 2:
        raise UserError(
            f"num_magnitude_bins={num_bins} is too small to space magnitudes; set it to 2 or more."
        )
