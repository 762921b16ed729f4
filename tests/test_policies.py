"""Augmentation policies, against torchvision's on the same images."""

import doctest
import functools
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torchvision.transforms import (
    AugMix,
    AutoAugment,
    AutoAugmentPolicy,
    Compose,
    InterpolationMode,
    RandAugment,
    RandomHorizontalFlip,
    TrivialAugmentWide,
    autoaugment,
)
from torchvision.transforms import functional as F

from jaxcnn.data import operations, pipeline, policies, spaces, tensor_operations
from jaxcnn.data.images import to_pillow
from jaxcnn.errors import UserError

SIZES = [(1, 1), (2, 3), (17, 31), (33, 20), (64, 64), (225, 151)]  # height, width
SPACES = {
    "rand_augment": (spaces.RAND_AUGMENT, RandAugment),
    "trivial_augment_wide": (spaces.TRIVIAL_AUGMENT_WIDE, TrivialAugmentWide),
    "auto_augment": (spaces.AUTO_AUGMENT, AutoAugment),
    "aug_mix": (spaces.AUG_MIX, AugMix),
}
DRAWN_ALIKE = ["rand_augment", "trivial_augment_wide"]  # one draw of an operation after another
TRANSFORMS = {
    "rand_augment": RandAugment,
    "trivial_augment_wide": TrivialAugmentWide,
    **{
        f"auto_augment_{policy.value}": functools.partial(AutoAugment, policy)
        for policy in AutoAugmentPolicy
    },
    "aug_mix": AugMix,
}
GEOMETRIC = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]
OPERATIONS = [
    *((operations, operation) for operation in [*spaces.RAND_AUGMENT, "Invert"]),
    *((tensor_operations, operation) for operation in spaces.AUG_MIX),
]
all_operations = pytest.mark.parametrize(
    "module, operation",
    [pytest.param(*case, id=f"{case[0].__name__.split('.')[-1]}-{case[1]}") for case in OPERATIONS],
)


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
    size = () if name == "trivial_augment_wide" else ((height, width),)
    return transform._augmentation_space(bins, *size)


def torchvision_operation(
    module, image: Image.Image, operation: str, magnitude: float, interpolation: str | None = None
) -> Image.Image:
    """On the Pillow image, or on a tensor as in AugMix; by default with its classes' defaults."""
    on_pillow = module is operations
    mode = InterpolationMode(interpolation or ("nearest" if on_pillow else "bilinear"))
    if on_pillow:
        return autoaugment._apply_op(image, operation, magnitude, mode, None)
    tensor = F.pil_to_tensor(image)[None]
    tensor = autoaugment._apply_op(tensor, operation, magnitude, mode, None)
    return F.to_pil_image(tensor[0])


def all_magnitudes(module, operation: str, height: int, width: int) -> list[float]:
    """Every magnitude that a policy gives the operation by default, of both signs."""
    tables = [(spaces.AUG_MIX, 10, 3)]  # space, bins, how many of them are used
    if module is operations:
        tables = [
            (spaces.RAND_AUGMENT, 31, 31),
            (spaces.TRIVIAL_AUGMENT_WIDE, 31, 31),
            (spaces.AUTO_AUGMENT, 10, 10),
        ]
    values = {0.0}
    for space, bins, used in tables:
        magnitudes = space.get(operation)
        if magnitudes is not None:
            found = magnitudes.table(bins, height, width)[:used].tolist()
            values |= {*found, *(-m for m in found if magnitudes.signed)}
    if operation == "Posterize":
        values.remove(0.0)
    return sorted(values)


# --- operations


@pytest.mark.parametrize("mode", ["RGB", "L"])
@all_operations
def test_operations_equal_torchvision(module, operation, mode):
    for height, width in SIZES:
        image = picture(mode, height, width)
        before = image.tobytes()
        for magnitude in all_magnitudes(module, operation, height, width):
            actual = module.apply(image, operation, magnitude)
            expected = torchvision_operation(module, image, operation, magnitude)
            assert_same(actual, expected, (operation, magnitude, mode, height, width))
        assert image.tobytes() == before


@all_operations
def test_operations_equal_torchvision_at_any_magnitude(module, operation):
    rng = np.random.default_rng(1)
    for magnitude in [*rng.uniform(-1, 1, 20), *rng.uniform(-200, 200, 20), 90.0, 180.0, -270.0]:
        if operation == "Posterize":
            magnitude = 1 + abs(magnitude) % 8
        elif operation in ("Brightness", "Color", "Contrast", "Sharpness"):
            if module is tensor_operations:  # torchvision rejects negative factors for a tensor
                magnitude = abs(magnitude)
        image = picture("RGB", 41, 30)
        expected = torchvision_operation(module, image, operation, magnitude)
        assert_same(module.apply(image, operation, magnitude), expected, magnitude)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("operation", GEOMETRIC)
@pytest.mark.parametrize(
    ("module", "interpolation"),
    [(operations, "bilinear"), (operations, "bicubic"), (tensor_operations, "nearest")],
)
def test_operations_equal_torchvision_with_other_interpolations(
    module, operation, interpolation, mode
):
    rng = np.random.default_rng(2)
    for height, width in SIZES:
        image = picture(mode, height, width)
        known = all_magnitudes(module, operation, height, width)[::3]
        for magnitude in [*known, *rng.uniform(-1, 1, 8), *rng.uniform(-200, 200, 8), 90.0, 180.0]:
            actual = module.apply(image, operation, magnitude, interpolation)
            expected = torchvision_operation(module, image, operation, magnitude, interpolation)
            assert_same(actual, expected, (magnitude, height, width))


@all_operations
def test_operations_change_the_image(module, operation):
    image = picture("RGB", 33, 20)
    magnitudes = all_magnitudes(module, operation, 33, 20)
    largest = magnitudes[0 if operation in ("Posterize", "Solarize") else -1]
    changed = module.apply(image, operation, largest)
    assert (np.asarray(changed) != np.asarray(image)).any() == (operation != "Identity")


@pytest.mark.parametrize("operation", ["AutoContrast", "Contrast", "Equalize"])
@pytest.mark.parametrize("module", [operations, tensor_operations])
def test_operations_equal_torchvision_on_a_constant_channel(module, operation):
    pixels = np.asarray(picture("RGB", 20, 30)).copy()
    pixels[..., 1] = 77
    image = Image.fromarray(pixels)
    expected = torchvision_operation(module, image, operation, 0.5)
    assert_same(module.apply(image, operation, 0.5), expected)


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


@pytest.mark.parametrize("policy", AutoAugmentPolicy)
def test_auto_augment_pairs_are_torchvisions(policy):
    expected = AutoAugment()._get_policies(policy)
    assert list(spaces.AUTO_AUGMENT_POLICIES[policy.value]) == expected


# --- what is drawn


@pytest.fixture
def torch_draws_from(monkeypatch):
    """Has torch draw from a generator of numpy's."""

    def use(rng: np.random.Generator) -> None:
        def randint(high, size, low=0, dtype=None):
            return torch.tensor(rng.integers(low, high, size))

        def dirichlet(concentration):
            (alpha,) = concentration.numpy()
            return torch.tensor(rng.dirichlet(alpha), dtype=torch.float32)[None]

        monkeypatch.setattr(torch, "randint", randint)
        monkeypatch.setattr(torch, "rand", lambda size: torch.tensor(rng.random(size)))
        monkeypatch.setattr(torch, "_sample_dirichlet", dirichlet)

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
        ("auto_augment_imagenet", {}),
        ("auto_augment_cifar10", {}),
        ("auto_augment_svhn", {}),
        ("aug_mix", {}),
    ],
)
def test_policies_equal_torchvision_for_the_same_draws(name, options, mode, torch_draws_from):
    transform = TRANSFORMS[name](**options)
    for seed in range(40 if name == "aug_mix" else 150):  # AugMix has six operations per image
        image = picture(mode, 37 + seed % 5, 50 - seed % 7, seed)
        torch_draws_from(np.random.default_rng(seed))
        expected = transform(image)
        actual = policies.POLICIES[name](image, np.random.default_rng(seed), **options)
        assert_same(actual, expected, seed)


@pytest.mark.parametrize(
    ("name", "interpolation"),
    [
        *((name, "bilinear") for name in TRANSFORMS),
        *((name, "bicubic") for name in TRANSFORMS if name != "aug_mix"),
        ("aug_mix", "nearest"),
    ],
)
def test_training_images_equal_torchvisions_training_reference(
    name, interpolation, torch_draws_from
):
    """``ClassificationPresetTrain``'s transforms of an image that needs no resize."""
    mode, size = InterpolationMode(interpolation), 40
    transform = Compose([RandomHorizontalFlip(0.5), TRANSFORMS[name](interpolation=mode)])
    preprocess = pipeline.TrainPreprocess(
        size, 3, "none", "resize", interpolation, flip=True, policy=name
    )
    for seed in range(20 if name == "aug_mix" else 50):
        image = picture("RGB", size, size, seed)
        torch_draws_from(np.random.default_rng(seed))
        expected = transform(image)
        actual = preprocess(np.asarray(image), np.random.default_rng(seed))
        assert_same(to_pillow(actual), expected, seed)


def recorded(module, attribute, monkeypatch) -> list[tuple[str, float]]:
    """Record the operations and magnitudes that a module applies."""
    calls = []

    def record(image, operation, magnitude, *_, **__):
        calls.append((operation, magnitude))
        return image

    monkeypatch.setattr(module, attribute, record)
    return calls


def assert_same_distribution(ours: list, theirs: list, *views) -> None:
    """Compare how often each value of each view occurs in two samples."""
    for view in views:
        counts = [[view(item) for item in items] for items in (ours, theirs)]
        values = sorted(set(counts[0]) | set(counts[1]), key=str)
        table = [[side.count(value) for value in values] for side in counts]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3 or len(values) == 1, table


@pytest.mark.parametrize("name", DRAWN_ALIKE)
def test_draws_have_torchvision_distribution(name, monkeypatch):
    space, transform = SPACES[name]
    image, number = Image.new("L", (100, 80)), 6000
    ours = recorded(operations, "apply", monkeypatch)
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

    assert_same_distribution(
        ours,
        theirs,
        lambda call: call[0],  # the operation
        lambda call: (call[0], np.sign(call[1])),  # and its sign
        # the index: shears have the same magnitudes, of which each index has its own
        lambda call: abs(call[1]) if call[0].startswith("Shear") else None,
    )

    # Operations are uniform, and so are the signs of the signed.
    names = [operation for operation, _ in ours]
    assert scipy.stats.chisquare([names.count(o) for o in space]).pvalue > 1e-3
    positive = [m > 0 for o, m in ours if space[o] and space[o].signed and m]
    assert scipy.stats.binomtest(sum(positive), len(positive)).pvalue > 1e-3
    if name == "trivial_augment_wide":
        for operation in ("ShearX", "Solarize"):
            table = space[operation].table(31, 80, 100)
            drawn = [abs(m) for o, m in ours if o == operation]
            counts = [drawn.count(float(m)) for m in table]
            assert scipy.stats.chisquare(counts).pvalue > 1e-3, operation


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name not in DRAWN_ALIKE])
def test_operations_of_an_image_have_torchvision_distribution(name, monkeypatch):
    image = Image.new("L", (100, 80))
    module = tensor_operations if name == "aug_mix" else operations
    ours = recorded(module, "apply", monkeypatch)
    theirs = recorded(autoaugment, "_apply_op", monkeypatch)
    rng, transform = np.random.default_rng(4), TRANSFORMS[name]()
    lengths = ([], [])  # operations per image
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for _ in range(2000):
            before = len(ours), len(theirs)
            policies.POLICIES[name](image, rng)
            transform(image)
            lengths[0].append(len(ours) - before[0])
            lengths[1].append(len(theirs) - before[1])
    assert_same_distribution(*lengths, lambda length: length)
    assert_same_distribution(
        ours, theirs, lambda call: call[0], lambda call: (call[0], np.sign(call[1])), lambda c: c
    )


def test_aug_mix_images_have_torchvision_distribution():
    """The weights, too: of the images and of the chains."""
    image = picture("L", 8, 9)
    rng, transform = np.random.default_rng(6), AugMix()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        samples = [
            np.array([np.asarray(augment()) for _ in range(700)], float).reshape(700, -1)
            for augment in (lambda: policies.aug_mix(image, rng), lambda: transform(image))
        ]
    original = np.asarray(image, float).ravel()
    for view in (
        lambda images: images.mean(axis=1),
        lambda images: images.std(axis=1),
        lambda images: np.abs(images - original).mean(axis=1),
    ):
        assert scipy.stats.ks_2samp(*map(view, samples)).pvalue > 1e-3


@pytest.mark.parametrize("name", policies.POLICIES)
def test_the_same_seed_gives_the_same_image(name):
    policy, image = policies.POLICIES[name], picture("RGB", 32, 32)
    first, second = (
        [policy(image, np.random.default_rng([5, seed])).tobytes() for seed in range(60)]
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
        (lambda i, r: operations.apply(i, "Sheer", 0.1), "Unknown augmentation operation 'Sheer'"),
        (lambda i, r: operations.apply(i, "Rotate", float("nan")), "nan of Rotate is not finite"),
        (lambda i, r: operations.apply(i, "Posterize", 0.0), "cannot keep 0 of"),
        (lambda i, r: operations.apply(i.convert("RGBA"), "Rotate", 1.0), "RGB or L, not RGBA"),
        (lambda i, r: operations.apply(np.zeros((2, 2)), "Rotate", 1.0), "RGB or L, not ndarray"),
        (lambda i, r: operations.apply(i, "Rotate", 1.0, "box"), "'box' .* bilinear or bicubic"),
        (
            lambda i, r: policies.auto_augment(i, r, interpolation="box"),
            "'box' .* use nearest or bilinear or bicubic",
        ),
        (
            lambda i, r: policies.aug_mix(i, r, interpolation="bicubic"),
            "'bicubic' is not available .* use nearest or bilinear",
        ),
        (lambda i, r: policies.rand_augment(i.convert("P"), r), "RGB or L, not P"),
        (lambda i, r: policies.auto_augment(i.convert("P"), r), "RGB or L, not P"),
        (lambda i, r: policies.aug_mix(i.convert("P"), r), "RGB or L, not P"),
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


@pytest.mark.parametrize("module", [operations, tensor_operations, spaces, policies])
def test_docstring_examples_pass(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_no_framework_is_imported():
    code = "import sys, jaxcnn.data.policies; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "numpy" in loaded.split()
    assert not {"jax", "tensorflow", "torch", "torchvision"} & set(loaded.split())
