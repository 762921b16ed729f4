"""Time series as images, against the formulas of the paper."""

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.data import series
from jaxcnn.data.series import gramian_angular_field, to_image
from jaxcnn.errors import UserError

KINDS = ["summation", "difference"]


def field_by_loops(values, size: int, kind: str) -> np.ndarray:
    """One series: the rescaling of the paper, means of parts, arccos, then cos and sin."""
    values = [float(v) for v in values]
    low, high, length = min(values), max(values), len(values)
    scaled = [((v - high) + (v - low)) / (high - low) for v in values]
    parts = [scaled[k * length // size : (k + 1) * length // size] for k in range(size)]
    phi = [math.acos(max(-1.0, min(1.0, sum(part) / len(part)))) for part in parts]
    if kind == "summation":
        return np.array([[math.cos(a + b) for b in phi] for a in phi])
    return np.array([[math.sin(a - b) for b in phi] for a in phi])


# --- the field


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 1, 2, 7, 10, 23, 24])
def test_field_equals_the_papers_formula(kind, size):
    batch = np.random.default_rng(0).normal(3, 5, (2, 3, 24))
    fields = gramian_angular_field(batch, size, kind=kind)
    side = 24 if size is None else size
    assert fields.shape == (2, 3, side, side) and fields.dtype == np.float64
    for index in np.ndindex(2, 3):
        expected = field_by_loops(batch[index], side, kind)
        np.testing.assert_allclose(fields[index], expected, atol=5e-8)


def test_field_of_a_ramp_by_hand():
    # Cosines -1, 0, 1: angles pi, pi/2, 0.
    summation = gramian_angular_field([10, 20, 30])
    np.testing.assert_allclose(summation, [[1, 0, -1], [0, -1, 0], [-1, 0, 1]], atol=1e-15)
    difference = gramian_angular_field([10, 20, 30], kind="difference")
    np.testing.assert_allclose(difference, [[0, 1, 0], [-1, 0, 1], [0, -1, 0]], atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.uint16])
def test_series_of_other_types(dtype):
    values = np.array([3, 100, 7, 50], dtype)
    np.testing.assert_array_equal(
        gramian_angular_field(values), gramian_angular_field(values.astype(np.float64))
    )


@pytest.mark.parametrize("value", [0.0, -3.5, 1e308, 5e-324])
def test_constant_series_is_in_the_middle_of_the_range(value):
    batch = np.array([[value] * 5, [1, 2, 3, 4, 5]])
    fields = gramian_angular_field(batch)
    np.testing.assert_array_equal(fields[0], np.full((5, 5), -1))
    np.testing.assert_array_equal(fields[1], gramian_angular_field([1, 2, 3, 4, 5]))
    np.testing.assert_array_equal(gramian_angular_field(batch[0], kind="difference"), 0)
    np.testing.assert_array_equal(gramian_angular_field([value]), [[-1]])


@pytest.mark.parametrize("scale", [1e308, 1e-308, 5e-324])
def test_extreme_values_are_scaled_exactly(scale):
    values = np.array([-1.0, 0.0, 1.0]) * scale
    np.testing.assert_array_equal(
        gramian_angular_field(values), gramian_angular_field([-1.0, 0.0, 1.0])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_stays_in_the_range(kind):
    for length in range(1, 60):  # unclipped, some of these reach 1 + 2e-16
        assert np.abs(gramian_angular_field(np.arange(length), kind=kind)).max() <= 1


def test_empty_input_gives_empty_output():
    assert gramian_angular_field(np.zeros((0, 6)), 3).shape == (0, 3, 3)
    assert to_image(np.zeros((0, 3, 3))).shape == (0, 3, 3, 1)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ANY_SERIES = st.lists(FLOATS, min_size=1, max_size=12)
SIZED = ANY_SERIES.flatmap(lambda v: st.tuples(st.just(v), st.integers(1, len(v))))


@settings(deadline=None)
@given(SIZED)
def test_fields_are_in_range_and_symmetric(sized):
    summation = gramian_angular_field(*sized)
    difference = gramian_angular_field(*sized, kind="difference")
    for field in (summation, difference):
        assert field.shape == (sized[1], sized[1])
        assert np.all(np.abs(field) <= 1)  # so none is NaN
        assert to_image(field).dtype == np.uint8
    np.testing.assert_array_equal(summation, summation.T)
    np.testing.assert_array_equal(difference, -difference.T)
    np.testing.assert_array_equal(np.diag(difference), 0)


@settings(deadline=None)
@given(
    st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=12),
    st.integers(1, 1000),
    st.integers(-(10**9), 10**9),
    st.sampled_from(KINDS),
)
def test_field_is_invariant_to_positive_affine_maps(values, scale, offset, kind):
    # On integers the map itself rounds nothing, so that not one bit may change.
    mapped = [scale * value + offset for value in values]
    np.testing.assert_array_equal(
        gramian_angular_field(mapped, kind=kind), gramian_angular_field(values, kind=kind)
    )


@settings(deadline=None)
@given(SIZED, st.sampled_from(KINDS))
def test_series_do_not_depend_on_each_other(sized, kind):
    values, size = sized
    batch = np.stack([values, np.arange(len(values)) * 1e3])
    np.testing.assert_array_equal(
        gramian_angular_field(batch, size, kind=kind)[0],
        gramian_angular_field(values, size, kind=kind),
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=12, unique=True),
    st.sampled_from(KINDS),
)
def test_field_has_the_angles_of_the_formula(values, kind):
    expected = field_by_loops(values, len(values), kind)
    np.testing.assert_allclose(gramian_angular_field(values, kind=kind), expected, atol=1e-7)


# --- reduction


@pytest.mark.parametrize(
    "size, expected",
    [
        (1, [0.0]),
        (2, [-2 / 3, 1 / 2]),  # 3 and 4 points
        (3, [-5 / 6, -1 / 6, 2 / 3]),  # 2, 2 and 3
        (7, [-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1]),
    ],
)
def test_reduction_by_hand(size, expected):
    ramp = np.array([-1, -2 / 3, -1 / 3, 0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(series._aggregate(ramp, size), expected, atol=1e-15)
    # The diagonal of the summation is cos(2 phi) = 2 cos(phi)^2 - 1.
    diagonal = np.diag(gramian_angular_field(10 + 3 * ramp, size))
    np.testing.assert_allclose(diagonal, 2 * np.square(expected) - 1, atol=1e-14)


def test_series_is_rescaled_before_it_is_reduced():
    # 0, 0, 0, 8 is -1, -1, -1, 1, whose halves are -1 and 0.
    expected = [[1, 0], [0, -1]]
    np.testing.assert_allclose(gramian_angular_field([0, 0, 0, 8], 2), expected, atol=1e-15)


# --- images


def test_image_maps_the_range_to_256_steps():
    field = np.linspace(-1, 1, 256).reshape(16, 16)
    np.testing.assert_array_equal(to_image(field), np.arange(256).reshape(16, 16, 1))
    slightly_out = np.array([[-1 - 9e-6, 1 + 9e-6], [-0.0, 1]], np.float32)
    assert to_image(slightly_out)[..., 0].tolist() == [[0, 255], [128, 255]]


def test_docstring_example_writes_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(series)
    assert result.attempted and not result.failed
    images = np.load(tmp_path / "images.npy")
    assert images.shape == (20, 32, 32, 1) and images.dtype == np.uint8
    assert np.ptp(images) > 200


# --- errors


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: gramian_angular_field([[1, 2], [3, np.nan]]), r"1 values .* index \[1, 1\] \(nan"),
        (lambda: gramian_angular_field([1, -np.inf]), r"index \[1\] \(-inf\)"),
        (lambda: gramian_angular_field([1, 2], 3), "2 points cannot be reduced to 3"),
        (lambda: gramian_angular_field([1, 2], 0), "2 points cannot be reduced to 0"),
        (lambda: gramian_angular_field([1, 2], 1.5), "cannot be reduced to 1.5"),
        (lambda: gramian_angular_field([1, 2], kind="sum"), "kind of Gramian angular field 'sum'"),
        (lambda: gramian_angular_field(np.zeros((3, 0))), r"shape \[3, 0\] have no points"),
        (lambda: gramian_angular_field(5.0), r"shape \[\] have no points"),
        (lambda: gramian_angular_field(["a", "b"]), "series is of type <U1, not of real numbers"),
        (lambda: gramian_angular_field([1j, 2]), "complex128, not of real numbers"),
        (lambda: gramian_angular_field([[1, 2], [3]]), "bring all rows to one length"),
        (lambda: to_image(np.zeros((4, 3))), r"shape \[4, 3\] are not square"),
        (lambda: to_image(np.zeros(4)), r"shape \[4\] are not square"),
        (lambda: to_image([[1.5]]), r"magnitude 1.5, outside \[-1, 1\]"),
        (lambda: to_image([[np.nan]]), "NaN or infinite"),
    ],
)
def test_invalid_input_raises(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_only_numpy_is_needed():
    code = "import sys, jaxcnn.data.series; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "numpy" in loaded.split()
    assert not {"jax", "tensorflow", "torch"} & set(loaded.split())
