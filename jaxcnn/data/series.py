"""Time series as images: Gramian angular fields, which convolutional networks can classify.

Series are ``[..., T]``, one value per point in time; the leading axes are examples. A set of
series becomes a dataset when its images are written to a ``.npy`` file: see
:func:`gramian_angular_field`.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from jaxcnn.errors import UserError, suggest

# cos(a + b) and sin(a - b) by the addition theorems, of (cosine, sine) of a and of b.
_KINDS: dict[str, Callable[..., np.ndarray]] = {
    "summation": lambda cos_a, sin_a, cos_b, sin_b: cos_a * cos_b - sin_a * sin_b,
    "difference": lambda cos_a, sin_a, cos_b, sin_b: sin_a * cos_b - cos_a * sin_b,
}
# How far a field may leave [-1, 1] by rounding (in float32, for example); it is clipped.
_SLACK = 1e-5


def gramian_angular_field(
    series: npt.ArrayLike, size: int | None = None, *, kind: str = "summation"
) -> np.ndarray:
    """Compute the Gramian angular field of each series.

    A series is rescaled to [-1, 1] by its own minimum and maximum, then reduced to ``size``
    points if given (pyts reduces first), and its values are the cosines of angles phi in [0, pi].

    A constant series has no scale; it becomes all 0, the middle of the range. Its field is -1
    everywhere for ``"summation"`` and 0 for ``"difference"``.

    Source: Wang and Oates 2015, "Imaging time-series to improve classification and imputation"
    (arXiv:1506.00327), section 2.

    Args:
        series: ``[..., T]``, floats or integers, at least one point in time.
        size: the points to reduce each series to, 1 to T, by piecewise aggregate approximation:
            point k is the mean of the points from ``k * T // size`` to
            ``(k + 1) * T // size - 1``. If T is not divisible by ``size``, the lengths of the
            parts differ by one point, as in pyts. None: T, without reduction.
        kind: ``"summation"``, cos(phi_i + phi_j), or ``"difference"``, sin(phi_i - phi_j).

    Returns:
        ``[..., size, size]`` float64 in [-1, 1]; symmetric for ``"summation"``, antisymmetric
        for ``"difference"``.

    Raises:
        UserError: if the series are not numbers, have no point in time, or have NaN or infinity;
            if ``size`` is out of range; if ``kind`` is unknown.

    Example:
        A set of 20 series of 100 points becomes a file of 20 images of 32 x 32 pixels:

        >>> import numpy as np
        >>> series = np.sin(np.linspace(0, 6, 100) * np.arange(1, 21)[:, None])
        >>> images = to_image(gramian_angular_field(series, 32))
        >>> images.shape, images.dtype
        ((20, 32, 32, 1), dtype('uint8'))
        >>> np.save("images.npy", images)
    """
    if kind not in _KINDS:
        raise UserError(f"Unknown kind of Gramian angular field {kind!r}; {suggest(kind, _KINDS)}")
    values = _numbers(series, "series")
    if values.ndim == 0 or values.shape[-1] == 0:
        raise UserError(
            f"Series of shape {list(values.shape)} have no points in time; pass [..., T] with T of "
            f"at least 1."
        )
    length = values.shape[-1]
    size = length if size is None else size
    if not isinstance(size, int | np.integer) or not 1 <= size <= length:
        raise UserError(
            f"Series of {length} points cannot be reduced to {size!r}; set size to an integer "
            f"from 1 to {length}."
        )
    cos = _aggregate(_rescale(values), size)
    # Near 1, 1 - cos**2 would lose the digits that make the sine.
    sin = np.sqrt((1 - cos) * (1 + cos))
    row, column = np.s_[..., :, None], np.s_[..., None, :]
    field = _KINDS[kind](cos[row], sin[row], cos[column], sin[column])
    return np.clip(field, -1, 1)


def to_image(field: npt.ArrayLike) -> np.ndarray:
    """Convert fields to gray images: -1 to 0 (black), 1 to 255 (white), linearly, rounded.

    A 0 is between 127 and 128 and becomes 128.

    Args:
        field: ``[..., size, size]``, floats in [-1, 1], of :func:`gramian_angular_field`.

    Returns:
        ``[..., size, size, 1]`` uint8.

    Raises:
        UserError: if the fields are not square, not finite, or leave [-1, 1].

    Example:
        >>> to_image([[-1.0, 0.0], [0.0, 1.0]])[..., 0].tolist()
        [[0, 128], [128, 255]]
    """
    values = _numbers(field, "field")
    if values.ndim < 2 or values.shape[-1] != values.shape[-2]:
        raise UserError(
            f"Fields of shape {list(values.shape)} are not square images; pass [..., size, size], "
            f"as gramian_angular_field returns them."
        )
    largest = np.max(np.abs(values), initial=0)
    if largest > 1 + _SLACK:
        raise UserError(
            f"The field has a value of magnitude {largest:.6g}, outside [-1, 1]; pass what "
            f"gramian_angular_field returns, unscaled."
        )
    gray = np.rint((values + 1) * 127.5)
    return gray.astype(np.uint8)[..., None]


def _numbers(array: npt.ArrayLike, what: str) -> np.ndarray:
    """Convert an array to float64 and check that its values are finite real numbers."""
    try:
        values = np.asarray(array)
    except ValueError as error:  # rows of different lengths
        raise UserError(
            f"The {what} is not an array ({error}); bring all rows to one length."
        ) from error
    if values.dtype.kind not in "iuf":
        raise UserError(
            f"The {what} is of type {values.dtype}, not of real numbers; convert it to floats."
        )
    values = values.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        first = tuple(np.argwhere(bad)[0].tolist())
        raise UserError(
            f"The {what} has {np.count_nonzero(bad)} values that are NaN or infinite, the first "
            f"at index {list(first)} ({values[first]}); fill or drop them first."
        )
    return values


def _rescale(values: np.ndarray) -> np.ndarray:
    """Rescale each series ``[..., T]`` to [-1, 1]; a constant one to 0."""
    # First by a power of two, which is exact: the span of huge values would overflow.
    _, exponent = np.frexp(np.max(np.abs(values), axis=-1, keepdims=True))
    values = np.ldexp(values, -exponent)
    low = np.min(values, axis=-1, keepdims=True)
    span = np.max(values, axis=-1, keepdims=True) - low
    constant = span == 0
    return np.where(constant, 0.0, (values - low) / np.where(constant, 1.0, span) * 2 - 1)


def _aggregate(values: np.ndarray, size: int) -> np.ndarray:
    """Piecewise aggregate approximation, ``[..., T]`` to ``[..., size]``.

    Source: Keogh and Pazzani 2000, "Scaling up dynamic time warping for datamining applications";
    the bounds are those of ``pyts.approximation.PiecewiseAggregateApproximation``.
    """
    bounds = np.arange(size + 1) * values.shape[-1] // size
    sums = np.add.reduceat(values, bounds[:-1], axis=-1)
    return sums / np.diff(bounds)
