"""What the policies of automatic augmentation draw from: operations and their magnitudes."""

import dataclasses
from typing import Literal

import numpy as np


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
# AutoAugment names its operations; their magnitudes have ten bins.
AUTO_AUGMENT: dict[str, Magnitudes | None] = {
    **{name: RAND_AUGMENT[name] for name in RAND_AUGMENT if name != "Identity"},
    "Invert": None,
}
AUG_MIX: dict[str, Magnitudes | None] = {
    "ShearX": Magnitudes(0.0, 0.3, signed=True),
    "ShearY": Magnitudes(0.0, 0.3, signed=True),
    "TranslateX": Magnitudes(0.0, 1.0 / 3.0, "width", signed=True),
    "TranslateY": Magnitudes(0.0, 1.0 / 3.0, "height", signed=True),
    "Rotate": Magnitudes(0.0, 30.0, signed=True),
    "Posterize": Magnitudes(4, 0, "bits"),
    "Solarize": Magnitudes(255.0, 0.0),
    "AutoContrast": None,
    "Equalize": None,
    "Brightness": Magnitudes(0.0, 0.9, signed=True),
    "Color": Magnitudes(0.0, 0.9, signed=True),
    "Contrast": Magnitudes(0.0, 0.9, signed=True),
    "Sharpness": Magnitudes(0.0, 0.9, signed=True),
}

# By dataset: pairs of operations, each with its probability and the index of its magnitude.
SubPolicy = tuple[tuple[str, float, int | None], tuple[str, float, int | None]]
AUTO_AUGMENT_POLICIES: dict[str, tuple[SubPolicy, ...]] = {
    "imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
        (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
        (("Color", 0.4, 0), ("Equalize", 0.6, None)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    ),
    "cifar10": (
        (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
        (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
        (("Color", 0.9, 9), ("Equalize", 0.6, None)),
        (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, None), ("Invert", 0.1, None)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
    ),
    "svhn": (
        (("ShearX", 0.9, 4), ("Invert", 0.2, None)),
        (("ShearY", 0.9, 8), ("Invert", 0.7, None)),
        (("Equalize", 0.6, None), ("Solarize", 0.6, 6)),
        (("Invert", 0.9, None), ("Equalize", 0.6, None)),
        (("Equalize", 0.6, None), ("Rotate", 0.9, 3)),
        (("ShearX", 0.9, 4), ("AutoContrast", 0.8, None)),
        (("ShearY", 0.9, 8), ("Invert", 0.4, None)),
        (("ShearY", 0.9, 5), ("Solarize", 0.2, 6)),
        (("Invert", 0.9, None), ("AutoContrast", 0.8, None)),
        (("Equalize", 0.6, None), ("Rotate", 0.9, 3)),
        (("ShearX", 0.9, 4), ("Solarize", 0.3, 3)),
        (("ShearY", 0.8, 8), ("Invert", 0.7, None)),
        (("Equalize", 0.9, None), ("TranslateY", 0.6, 6)),
        (("Invert", 0.9, None), ("Equalize", 0.6, None)),
        (("Contrast", 0.3, 3), ("Rotate", 0.8, 4)),
        (("Invert", 0.8, None), ("TranslateY", 0.0, 2)),
        (("ShearY", 0.7, 6), ("Solarize", 0.4, 8)),
        (("Invert", 0.6, None), ("Rotate", 0.8, 4)),
        (("ShearY", 0.3, 7), ("TranslateX", 0.9, 3)),
        (("ShearX", 0.1, 6), ("Invert", 0.6, None)),
        (("Solarize", 0.7, 2), ("TranslateY", 0.6, 7)),
        (("ShearY", 0.8, 4), ("Invert", 0.8, None)),
        (("ShearX", 0.7, 9), ("TranslateY", 0.8, 3)),
        (("ShearY", 0.8, 5), ("AutoContrast", 0.7, None)),
        (("ShearX", 0.7, 2), ("Invert", 0.1, None)),
    ),
}
