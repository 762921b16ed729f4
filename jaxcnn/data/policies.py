"""Automatic augmentation on the host: AutoAugment, RandAugment, TrivialAugment and AugMix.

They draw operations and magnitudes from the tables of :mod:`jaxcnn.data.spaces`. For the same
draws they give the same image as ``torchvision.transforms``, bit for bit; the defaults are its
classes'. (Its training reference passes them the interpolation of its resize instead.) All random
numbers come from the generator that the caller passes for one example.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from jaxcnn.data import operations, tensor_operations
from jaxcnn.data.operations import check_image
from jaxcnn.data.spaces import (
    AUG_MIX,
    AUTO_AUGMENT,
    AUTO_AUGMENT_POLICIES,
    RAND_AUGMENT,
    TRIVIAL_AUGMENT_WIDE,
    Magnitudes,
)
from jaxcnn.errors import UserError

# Of AutoAugment's and AugMix's magnitudes; AugMix draws one of the smallest AUG_MIX_SEVERITY.
NUM_BINS = 10
AUG_MIX_SEVERITY = 3
AUG_MIX_CHAINS = 3
AUG_MIX_DEPTHS = (1, 2, 3)


def rand_augment(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    num_magnitude_bins: int = 31,
    interpolation: str = "nearest",
) -> Image.Image:
    """Apply ``num_ops`` operations drawn from ``RAND_AUGMENT``, all of one magnitude.

    Source: Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced
    search space" (arXiv:1909.13719), section 3, as ``torchvision.transforms.RandAugment``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        rng: draws each operation, with replacement, and its sign.
        num_ops: how many operations, one after the other.
        magnitude: the index of each operation's magnitude, 0 to ``num_magnitude_bins`` - 1.
        num_magnitude_bins: how many magnitudes each operation has.
        interpolation: of shears, translations and rotations, one of
            :data:`jaxcnn.data.operations.INTERPOLATIONS`.

    Returns:
        An image of the same size and mode; it may be ``image`` itself.

    Raises:
        UserError: for another mode or interpolation, or a number out of range.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> gray = Image.new("RGB", (32, 24), (90, 90, 90))
        >>> rand_augment(gray, np.random.default_rng(0)).size
        (32, 24)
    """
    check_image(image)
    _check_bins(num_magnitude_bins)
    if num_ops < 0:
        raise UserError(f"num_ops={num_ops} of RandAugment is negative; set it to 0 or more.")
    if not 0 <= magnitude < num_magnitude_bins:
        raise UserError(
            f"magnitude={magnitude} of RandAugment is out of range; set it to 0 to "
            f"{num_magnitude_bins - 1}, or increase num_magnitude_bins."
        )
    operations.check_interpolation(interpolation)
    apply = functools.partial(operations.apply, interpolation=interpolation)
    for _ in range(num_ops):
        image = _apply_drawn(image, rng, RAND_AUGMENT, magnitude, num_magnitude_bins, apply)
    return image


def trivial_augment_wide(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    num_magnitude_bins: int = 31,
    interpolation: str = "nearest",
) -> Image.Image:
    """Apply one operation of ``TRIVIAL_AUGMENT_WIDE`` with a magnitude, both drawn.

    Source: Müller and Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data
    Augmentation" (arXiv:2103.10158), section 3 and the wide space of its tables, as
    ``torchvision.transforms.TrivialAugmentWide``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        rng: draws the operation, its magnitude and its sign.
        num_magnitude_bins: how many magnitudes each operation has.
        interpolation: of shears, translations and rotations, one of
            :data:`jaxcnn.data.operations.INTERPOLATIONS`.

    Returns:
        An image of the same size and mode; it may be ``image`` itself.

    Raises:
        UserError: for another mode or interpolation, or fewer than two magnitudes.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> gray = Image.new("L", (32, 24), 90)
        >>> trivial_augment_wide(gray, np.random.default_rng(0)).mode
        'L'
    """
    check_image(image)
    _check_bins(num_magnitude_bins)
    apply = functools.partial(operations.apply, interpolation=interpolation)
    indices = range(num_magnitude_bins)
    return _apply_drawn(image, rng, TRIVIAL_AUGMENT_WIDE, indices, num_magnitude_bins, apply)


def auto_augment(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    policy: str = "imagenet",
    interpolation: str = "nearest",
) -> Image.Image:
    """Apply one of the 25 pairs of operations that were found best for a dataset.

    Source: Cubuk et al. 2019, "AutoAugment: Learning Augmentation Strategies from Data"
    (arXiv:1805.09501), appendix A, as ``torchvision.transforms.AutoAugment``.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        rng: draws the pair, whether each of its operations is applied, and their signs.
        policy: a key of :data:`jaxcnn.data.spaces.AUTO_AUGMENT_POLICIES`.
        interpolation: of shears, translations and rotations, one of
            :data:`jaxcnn.data.operations.INTERPOLATIONS`.

    Returns:
        An image of the same size and mode; it may be ``image`` itself.

    Raises:
        UserError: for another mode or interpolation.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> gray = Image.new("RGB", (32, 24), (90, 90, 90))
        >>> auto_augment(gray, np.random.default_rng(0), policy="svhn").size
        (32, 24)
    """
    check_image(image)
    operations.check_interpolation(interpolation)
    pairs = AUTO_AUGMENT_POLICIES[policy]
    pair = pairs[rng.integers(len(pairs))]
    draws, signs = rng.random(len(pair)), rng.integers(2, size=len(pair))
    for (operation, probability, index), draw, sign in zip(pair, draws, signs, strict=True):
        if draw <= probability:
            magnitude = _magnitude(image, AUTO_AUGMENT[operation], index, NUM_BINS, not sign)
            image = operations.apply(image, operation, magnitude, interpolation)
    return image


def aug_mix(
    image: Image.Image, rng: np.random.Generator, *, interpolation: str = "bilinear"
) -> Image.Image:
    """Mix an image with three chains of one to three operations drawn from ``AUG_MIX``.

    Source: Hendrycks et al. 2020, "AugMix: A Simple Data Processing Method to Improve Robustness
    and Uncertainty" (arXiv:1912.02781), section 3, as ``torchvision.transforms.AugMix``. Only the
    images are mixed; the paper's consistency loss is not part of it.

    Args:
        image: of mode ``RGB`` or ``L``, ``[H, W]`` pixels, uint8; it is not changed.
        rng: draws the weights, and the length and operations of each chain.
        interpolation: of shears, translations and rotations, one of
            :data:`jaxcnn.data.tensor_operations.INTERPOLATIONS`.

    Returns:
        An image of the same size and mode.

    Raises:
        UserError: for another mode or interpolation; bicubic, too, as in torchvision.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> gray = Image.new("L", (32, 24), 90)
        >>> aug_mix(gray, np.random.default_rng(0)).mode
        'L'
    """
    check_image(image)
    apply = functools.partial(tensor_operations.apply, interpolation=interpolation)
    # As torchvision: weights and sums in float32, the result truncated.
    kept, mixed_in = rng.dirichlet([1.0, 1.0]).astype(np.float32)
    weights = rng.dirichlet([1.0] * AUG_MIX_CHAINS).astype(np.float32) * mixed_in
    mix = kept * np.asarray(image, np.float32)
    for weight in weights:
        chain = image
        for _ in range(AUG_MIX_DEPTHS[rng.integers(len(AUG_MIX_DEPTHS))]):
            chain = _apply_drawn(chain, rng, AUG_MIX, range(AUG_MIX_SEVERITY), NUM_BINS, apply)
        mix += weight * np.asarray(chain, np.float32)
    return Image.fromarray(mix.astype(np.uint8))


POLICIES: dict[str, Callable[..., Image.Image]] = {
    "rand_augment": rand_augment,
    "trivial_augment_wide": trivial_augment_wide,
    **{
        f"auto_augment_{policy}": functools.partial(auto_augment, policy=policy)
        for policy in AUTO_AUGMENT_POLICIES
    },
    "aug_mix": aug_mix,
}


def _apply_drawn(
    image: Image.Image,
    rng: np.random.Generator,
    space: Mapping[str, Magnitudes | None],
    index: int | range,
    num_bins: int,
    apply: Callable[[Image.Image, str, float], Image.Image],
) -> Image.Image:
    """Draw an operation, the index of its magnitude from a range, and its sign, in this order."""
    operation = list(space)[rng.integers(len(space))]
    magnitudes, negative = space[operation], False
    if magnitudes is not None:
        if isinstance(index, range):
            index = index[rng.integers(len(index))]
        negative = magnitudes.signed and bool(rng.integers(2))
    return apply(image, operation, _magnitude(image, magnitudes, index, num_bins, negative))


def _magnitude(
    image: Image.Image,
    magnitudes: Magnitudes | None,
    index: int | None,
    num_bins: int,
    negative: bool,
) -> float:
    """The magnitude of an operation on an image; ``negative`` counts only where it is signed."""
    if magnitudes is None:
        return 0.0
    magnitude = float(magnitudes.table(num_bins, image.height, image.width)[index])
    return -magnitude if magnitudes.signed and negative else magnitude


def _check_bins(num_bins: int) -> None:
    if num_bins < 2:
        raise UserError(
            f"num_magnitude_bins={num_bins} is too small to space magnitudes; set it to 2 or more."
        )
