"""Augmentation policies, against torchvision's on the same images."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandAugment, TrivialAugmentWide, autoaugment

from jaxcnn.data import policies
from jaxcnn.errors import UserError

SIZES = [(1, 1), (2, 3), (17, 31), (33, 20), (64, 64), (225, 151)]  # height, width
SPACES = {
    "rand_augment": (policies.RAND_AUGMENT, RandAugment),
    "trivial_augment_wide": (policies.TRIVIAL_AUGMENT_WIDE, TrivialAugmentWide),
}
OPERATIONS = list(policies.RAND_AUGMENT)


def picture(mode: str, height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth with noise, and not of the full range, so that every operation changes it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(20, 200, (4, 4, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth // 2 + rng.integers(30, 90, smooth.shape, dtype=np.uint8)
    return Image.fromarray(noisy).convert(mode)


def assert_same(actual: Image.Image, expected: Image.Image, message: object = "") -> None:
    assert (actual.mode, actual.size) == (expected.mode, expected.size), message
    np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected), str(message))


def torchvision_space(name: str, bins: int, height: int, width: int) -> dict:
    transform = SPACES[name][1]()
    size = ((height, width),) if name == "rand_augment" else ()
    return transform._augmentation_space(bins, *size)


def both_tables(operation: str, height: int, width: int) -> list[float]:
    """Every magnitude that a policy gives the operation by default, of both signs."""
    values = {0.0}
    for space, _ in SPACES.values():
        magnitudes = space[operation]
        if magnitudes is not None:
            found = magnitudes.table(31, height, width).tolist()
            values |= {*found, *(-m for m in found if magnitudes.signed)}
    if operation == "Posterize":
        values.remove(0.0)
    return sorted(values)


# --- operations


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_equal_torchvision(operation, mode):
    for height, width in SIZES:
        image = picture(mode, height, width)
        before = image.tobytes()
        for magnitude in both_tables(operation, height, width):
            actual = policies.apply(image, operation, magnitude)
            expected = autoaugment._apply_op(
                image, operation, magnitude, InterpolationMode.NEAREST, None
            )
            assert_same(actual, expected, (operation, magnitude, mode, height, width))
        assert image.tobytes() == before


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_equal_torchvision_at_any_magnitude(operation):
    rng = np.random.default_rng(1)
    for magnitude in [*rng.uniform(-1, 1, 20), *rng.uniform(-200, 200, 20), 90.0, 180.0, -270.0]:
        if operation == "Posterize":
            magnitude = 1 + abs(magnitude) % 8
        image = picture("RGB", 41, 30)
        expected = autoaugment._apply_op(
            image, operation, magnitude, InterpolationMode.NEAREST, None
        )
        assert_same(policies.apply(image, operation, magnitude), expected, magnitude)


@pytest.mark.parametrize("operation", OPERATIONS[1:])
def test_operations_change_the_image(operation):
    image = picture("RGB", 33, 20)
    largest = both_tables(operation, 33, 20)[0 if operation in ("Posterize", "Solarize") else -1]
    changed = policies.apply(image, operation, largest)
    assert np.any(np.asarray(changed) != np.asarray(image))


# --- magnitudes


@pytest.mark.parametrize("bins", [2, 3, 10, 11, 30, 31, 32, 101])
@pytest.mark.parametrize("name", SPACES)
def test_magnitude_tables_equal_torchvision(name, bins):
    for height, width in [*SIZES, (224, 224), (500, 333)]:
        expected = torchvision_space(name, bins, height, width)
        assert list(SPACES[name][0]) == list(expected)
        for operation, magnitudes in SPACES[name][0].items():
            table, signed = expected[operation]
            if magnitudes is None:
                assert (table.ndim, float(table), signed) == (0, 0.0, False)
                continue
            actual = magnitudes.table(bins, height, width)
            assert actual.dtype == np.float32 and actual.shape == (bins,)
            np.testing.assert_array_equal(actual, table.to(torch.float32).numpy(), operation)
            assert magnitudes.signed == signed


# --- what is drawn


@pytest.fixture
def torch_draws_from(monkeypatch):
    """Has ``torch.randint`` draw from a generator of numpy's."""

    def use(rng: np.random.Generator) -> None:
        def randint(high, size, dtype=None):
            return torch.tensor(rng.integers(high)).reshape(size)

        monkeypatch.setattr(torch, "randint", randint)

    return use


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "name, options",
    [
        ("rand_augment", {}),
        ("rand_augment", {"num_ops": 3, "magnitude": 4, "num_magnitude_bins": 10}),
        ("rand_augment", {"num_ops": 0}),
        ("trivial_augment_wide", {}),
        ("trivial_augment_wide", {"num_magnitude_bins": 5}),
    ],
)
def test_policies_equal_torchvision_for_the_same_draws(name, options, mode, torch_draws_from):
    transform = SPACES[name][1](**options)
    for seed in range(150):
        image = picture(mode, 37 + seed % 5, 50 - seed % 7, seed)
        torch_draws_from(np.random.default_rng(seed))
        expected = transform(image)
        actual = policies.POLICIES[name](image, np.random.default_rng(seed), **options)
        assert_same(actual, expected, seed)


def recorded(module, attribute, monkeypatch) -> list[tuple[str, float]]:
    """Record the operations and magnitudes that a module applies."""
    calls = []

    def record(image, operation, magnitude, *_, **__):
        calls.append((operation, magnitude))
        return image

    monkeypatch.setattr(module, attribute, record)
    return calls


@pytest.mark.parametrize("name", SPACES)
def test_draws_have_torchvision_distribution(name, monkeypatch):
    space, transform = SPACES[name]
    image, number = Image.new("L", (100, 80)), 6000
    ours = recorded(policies, "apply", monkeypatch)
    theirs = recorded(autoaugment, "_apply_op", monkeypatch)
    rng = np.random.default_rng(2)
    transform = transform()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for _ in range(number):
            policies.POLICIES[name](image, rng)
            transform(image)
    assert len(ours) == len(theirs) == number * (2 if name == "rand_augment" else 1)

    # Only what torchvision can draw is drawn.
    possible = set()
    for operation, (table, signed) in torchvision_space(name, 31, 80, 100).items():
        indices = [9] if name == "rand_augment" else range(31)
        values = [float(table[i]) for i in indices] if table.ndim else [0.0]
        possible |= {(operation, sign * v) for v in values for sign in ([1, -1] if signed else [1])}
    assert set(ours) <= possible

    same = []
    for view in (
        lambda call: call[0],  # the operation
        lambda call: (call[0], np.sign(call[1])),  # and its sign
        # the index: shears have the same magnitudes, of which each index has its own
        lambda call: abs(call[1]) if call[0].startswith("Shear") else None,
    ):
        counts = [[view(call) for call in calls] for calls in (ours, theirs)]
        values = sorted(set(counts[0]) | set(counts[1]), key=str)
        table = [[side.count(value) for value in values] for side in counts]
        same.append(scipy.stats.chi2_contingency(table).pvalue)
    assert min(same) > 1e-3, same

    # Operations are uniform, and so are the signs of the signed.
    operations = [operation for operation, _ in ours]
    assert scipy.stats.chisquare([operations.count(o) for o in space]).pvalue > 1e-3
    positive = [m > 0 for o, m in ours if space[o] and space[o].signed and m]
    assert scipy.stats.binomtest(sum(positive), len(positive)).pvalue > 1e-3
    if name == "trivial_augment_wide":
        for operation in ("ShearX", "Solarize"):
            table = space[operation].table(31, 80, 100)
            drawn = [abs(m) for o, m in ours if o == operation]
            counts = [drawn.count(float(m)) for m in table]
            assert scipy.stats.chisquare(counts).pvalue > 1e-3, operation


@pytest.mark.parametrize("name", SPACES)
def test_the_same_seed_gives_the_same_image(name):
    policy, image = policies.POLICIES[name], picture("RGB", 32, 32)
    first, second = (
        [policy(image, np.random.default_rng([5, seed])).tobytes() for seed in range(40)]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 20


def test_only_the_given_generator_is_used():
    image = picture("RGB", 32, 32)
    state = np.random.get_state()[1].tobytes()
    rng = np.random.default_rng(0)
    images = {policies.trivial_augment_wide(image, rng).tobytes() for _ in range(40)}
    assert len(images) > 20
    assert np.random.get_state()[1].tobytes() == state


# --- errors and the rest


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda i, r: policies.apply(i, "Sheer", 0.1), "Unknown augmentation operation 'Sheer'"),
        (lambda i, r: policies.apply(i, "Rotate", float("nan")), "nan of Rotate is not finite"),
        (lambda i, r: policies.apply(i, "Posterize", 0.0), "cannot keep 0 of"),
        (lambda i, r: policies.apply(i.convert("RGBA"), "Rotate", 1.0), "RGB or L, not RGBA"),
        (lambda i, r: policies.apply(np.zeros((2, 2)), "Rotate", 1.0), "RGB or L, not ndarray"),
        (lambda i, r: policies.rand_augment(i.convert("P"), r), "RGB or L, not P"),
        (lambda i, r: policies.rand_augment(i, r, num_ops=-1), "num_ops=-1"),
        (lambda i, r: policies.rand_augment(i, r, magnitude=31), "magnitude=31 .* 0 to 30"),
        (lambda i, r: policies.rand_augment(i, r, magnitude=-1), "magnitude=-1 "),
        (
            lambda i, r: policies.rand_augment(i, r, magnitude=0, num_magnitude_bins=1),
            "num_magnitude_bins=1 ",
        ),
        (lambda i, r: policies.trivial_augment_wide(i.convert("CMYK"), r), "RGB or L, not CMYK"),
        (
            lambda i, r: policies.trivial_augment_wide(i, r, num_magnitude_bins=0),
            "num_magnitude_bins=0 ",
        ),
    ],
)
def test_invalid_arguments_raise(call, message):
    with pytest.raises(UserError, match=message):
        call(picture("RGB", 4, 4), np.random.default_rng(0))


def test_docstring_examples_pass():
    result = doctest.testmod(policies)
    assert result.attempted and not result.failed


def test_only_numpy_and_pillow_are_needed():
    code = "import sys, jaxcnn.data.policies; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "numpy" in loaded.split()
    assert not {"jax", "tensorflow", "torch", "torchvision"} & set(loaded.split())
