"""How far arrays are apart, and how far they may be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Relative errors in float64: of outputs, and of what three training steps change.
LOGITS = 1e-12
STEPS = 1e-9


def relative_error(ours: Any, reference: Any) -> float:
    """The largest difference, relative to the largest value: ``max |a - b| / max |b|``.

    Args:
        ours: an array.
        reference: an array of the same shape.

    Raises:
        AssertionError: if the shapes differ, or a value is NaN or infinite.
    """
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    assert np.isfinite(ours).all() and np.isfinite(reference).all()  # max() would drop a NaN
    difference = np.abs(ours - reference).max(initial=0)
    return float(difference / max(np.abs(reference).max(initial=0), np.finfo(np.float64).tiny))


def relative_errors(ours: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """The relative errors of arrays by name.

    Raises:
        AssertionError: if the names differ, and as :func:`relative_error`.
    """
    assert ours.keys() == reference.keys()
    return {name: relative_error(ours[name], reference[name]) for name in reference}


def channels_first(x: np.ndarray) -> np.ndarray:
    """``[N, H, W, C]`` to ``[N, C, H, W]``; arrays with another number of axes as they are."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x
