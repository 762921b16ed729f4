"""Augmentation: each operation is torchvision's, with a draw of its own for each image."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
import torchvision
from flax import jax_utils
from flax import linen as nn
from torchvision.transforms import _functional_tensor, functional, v2

from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier
from jaxcnn.training import augmentation
from jaxcnn.training.augmentation import (
    Augmentation,
    color_jitter,
    cutmix,
    mixup,
    pca_lighting,
    random_erasing,
    random_grayscale,
)
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import init_state, make_train_step, normalizer

ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")
KEY = jax.random.key(0)


def pictures(count: int, channels: int = 3, dtype=np.float32, height: int = 6, width: int = 5):
    rng = np.random.default_rng(0)
    images = rng.random((count, height, width, channels)).astype(dtype)
    images[:, 0] = images[:, 0, :, :1]  # grays
    images[:, 1] = images[:, 1] > 0.5  # pure colors: ties of two channels
    images[:, 2, 0], images[:, 2, 1] = 0, 1
    return images


def to_torch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(np.array(image), -1, -3))


def from_torch(image: torch.Tensor) -> np.ndarray:
    return np.moveaxis(image.numpy(), -3, -1)


def distribution(classes: int, examples: int) -> np.ndarray:
    targets = np.random.default_rng(1).random((examples, classes)).astype(np.float32)
    return targets / targets.sum(-1, keepdims=True)


def assert_same_distribution(ours, reference) -> None:
    assert scipy.stats.ks_2samp(np.asarray(ours), np.asarray(reference)).pvalue > 1e-4


# Colors


def torchvisions_hue_in_float64(image: torch.Tensor, factor: float) -> torch.Tensor:
    """adjust_hue of torchvision, which makes float32 of any image, without that."""
    hue, saturation, value = _functional_tensor._rgb2hsv(image).unbind(-3)
    turned = torch.stack(((hue + factor) % 1.0, saturation, value), -3)
    return _functional_tensor._hsv2rgb(turned)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_adjustment_equals_torchvisions(name, channels):
    factors = [-0.5, -0.21, 0, 0.1, 0.5] if name == "hue" else [0, 0.4, 1, 1.7, 3]
    adjust = getattr(functional, f"adjust_{name}")
    with jax.enable_x64(True):
        images = pictures(len(factors), channels, np.float64)
        ours = getattr(augmentation, f"adjust_{name}")(images, jnp.array(factors))
        assert ours.dtype == np.float64
    for image, factor, our in zip(images, factors, ours, strict=True):
        tolerance = 2e-6 if name == "hue" else 1e-12
        np.testing.assert_allclose(our, from_torch(adjust(to_torch(image), factor)), 0, tolerance)
        if name == "hue" and channels == 3:
            reference = torchvisions_hue_in_float64(to_torch(image), factor)
            np.testing.assert_allclose(our, from_torch(reference), 0, 1e-12)


@functools.cache
def drawn_by_color_jitter(count: int, **amounts: float):
    """Order ``[N, k]`` and factors ``[N, 4]`` (NaN: not adjusted) of each image, for ``KEY``.

    Seen by replacing the adjustments with ones that write down that they ran, and how.
    """

    def note(number: int, images, factor):
        turn = jnp.sum(images[:, 0, :, 0] > 0, axis=-1)
        row = jnp.arange(images.shape[0])
        images = images.at[row, 0, turn, 0].set(number + 1)
        return images.at[:, 1, number, 0].set(factor)

    with pytest.MonkeyPatch.context() as patch:
        for number, name in enumerate(ADJUSTMENTS):
            patch.setattr(augmentation, f"adjust_{name}", functools.partial(note, number))
        notes = jnp.zeros((count, 2, 4, 3)).at[:, 1].set(jnp.nan)
        notes = np.asarray(jax.jit(functools.partial(color_jitter, **amounts))(KEY, notes))
    turns = sum(amount > 0 for amount in amounts.values())
    return notes[:, 0, :turns, 0].astype(int) - 1, notes[:, 1, :, 0]


ALL = {"brightness": 0.4, "contrast": 1.5, "saturation": 0.2, "hue": 0.1}


def test_color_jitter_order_differs_between_images():
    order, _ = drawn_by_color_jitter(4800, **ALL)
    permutations = list(itertools.permutations(range(4)))
    counts = [np.all(order == permutation, axis=1).sum() for permutation in permutations]
    assert sum(counts) == 4800
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_color_jitter_factors_have_torchvisions_distribution():
    _, factors = drawn_by_color_jitter(4800, **ALL)
    reference = torchvision.transforms.ColorJitter(**ALL)
    for name, own in zip(ADJUSTMENTS, factors.T, strict=True):
        low, high = getattr(reference, name)
        assert scipy.stats.kstest(own, scipy.stats.uniform(low, high - low).cdf).pvalue > 1e-4
    assert np.abs(np.corrcoef(factors.T) - np.eye(4)).max() < 0.06


def test_color_jitter_equals_torchvisions_adjustments():
    images = pictures(4800)
    drawn = drawn_by_color_jitter(4800, **ALL)
    # Compiled: then pixels may be rounded in one way where they are compared and in another
    # where they are used.
    ours = jax.jit(functools.partial(color_jitter, **ALL))(KEY, images)
    for image, turns, own, our in list(zip(images, *drawn, ours, strict=True))[:100]:
        reference = to_torch(image)
        for number in turns:
            adjust = getattr(functional, f"adjust_{ADJUSTMENTS[number]}")
            reference = adjust(reference, float(own[number]))
        np.testing.assert_allclose(our, from_torch(reference), 0, 1e-5)


def test_color_jitter_skips_what_is_off():
    order, factors = drawn_by_color_jitter(100, saturation=0.2, brightness=0.4)
    assert {tuple(turns) for turns in order} == {(0, 2), (2, 0)}
    assert np.isnan(factors).all(axis=0).tolist() == [False, True, False, True]


def test_color_jitter_of_one_channel_keeps_saturation_and_hue():
    images = pictures(8, channels=1)
    amounts = {"brightness": 0.4, "contrast": 0.4}
    of_two = color_jitter(KEY, images, **amounts)
    assert np.abs(of_two - images).max() > 0.1
    of_all = color_jitter(KEY, images, **amounts, saturation=0.4, hue=0.4)
    np.testing.assert_array_equal(of_all, of_two)
    np.testing.assert_array_equal(color_jitter(KEY, images, saturation=0.4, hue=0.4), images)


def test_random_grayscale_equals_torchvisions_on_a_fraction_of_the_images():
    images = pictures(2000)
    ours = np.asarray(jax.jit(functools.partial(random_grayscale, p=0.2))(KEY, images))
    changed = (ours != images).any(axis=(1, 2, 3))
    gray = from_torch(functional.rgb_to_grayscale(to_torch(images), 3))
    np.testing.assert_allclose(ours[changed], gray[changed], 0, 1e-6)
    assert scipy.stats.binomtest(int(changed.sum()), 2000, 0.2).pvalue > 1e-4
    one_channel = pictures(4, channels=1)
    np.testing.assert_array_equal(random_grayscale(KEY, one_channel, 1.0), one_channel)


def test_lighting_shifts_each_image_along_the_principal_components():
    images = pictures(4000)
    shifts = np.asarray(jax.jit(pca_lighting)(KEY, images) - images)
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:, :1, :1], shifts.shape), 0, 1e-6)
    # Krizhevsky et al. 2012: [p1, p2, p3] [a1 l1, a2 l2, a3 l3], where a ~ N(0, 0.1)
    p1 = [-0.5675, -0.5808, -0.5836]
    p2 = [0.7192, -0.0045, -0.6948]
    p3 = [0.4009, -0.8140, 0.4203]
    shift = shifts[:, 0, 0]
    for component, eigenvalue in zip((p1, p2, p3), (0.2175, 0.0188, 0.0045), strict=True):
        alpha = shift @ component / eigenvalue
        assert scipy.stats.kstest(alpha, scipy.stats.norm(0, 0.1).cdf).pvalue > 1e-4
    assert (
        np.abs(np.corrcoef(shift @ np.stack((p1, p2, p3), 1), rowvar=False) - np.eye(3)).max() < 0.1
    )
    twice = pca_lighting(KEY, images, 0.2) - images
    np.testing.assert_allclose(twice, 2 * shifts, 0, 1e-5)


@pytest.mark.parametrize(
    ("operation", "channels", "dtype"),
    [
        (pca_lighting, 1, np.float32),
        (functools.partial(random_grayscale, p=0.5), 4, np.float32),
        (functools.partial(color_jitter, brightness=0.5), 2, np.float32),
        (functools.partial(color_jitter, brightness=0.5), 3, np.uint8),
    ],
)
def test_wrong_channels_or_dtype_raise(operation, channels, dtype):
    with pytest.raises(UserError, match=r"channels|floating"):
        operation(KEY, np.zeros((2, 4, 4, channels), dtype))


# Erasing


def erased_boxes(count: int, height: int, width: int, p: float = 1.0, **ranges):
    """Which images lost a box, and the top, left, height and width ``[n, 4]`` of each."""
    images = 1 + np.random.default_rng(0).random((count, height, width, 2)).astype(np.float32)
    erase = jax.jit(functools.partial(random_erasing, p=p, **ranges))
    erased = np.asarray(erase(KEY, images))
    gone = erased == 0
    np.testing.assert_array_equal(erased[~gone], images[~gone])
    boxes, lost = [], gone.any(axis=(1, 2, 3))
    for own in gone[lost]:
        rows, columns = np.flatnonzero(own.any((1, 2))), np.flatnonzero(own.any((0, 2)))
        box = rows[0], columns[0], len(rows), len(columns)
        assert own[box[0] : box[0] + box[2], box[1] : box[1] + box[3]].all()
        assert own.sum() == box[2] * box[3] * 2
        boxes.append(box)
    return lost, np.array(boxes)


def torchvisions_boxes(count: int, height: int, width: int, scale, ratio):
    """The same of torchvision."""
    torch.manual_seed(0)
    get_params = torchvision.transforms.RandomErasing.get_params
    image = torch.zeros(1, height, width)
    boxes = np.array([get_params(image, scale, ratio, [0.0])[:4] for _ in range(count)])
    lost = ~(boxes[:, 2:] == (height, width)).all(axis=1)
    return lost, boxes[lost]


def test_erased_boxes_have_torchvisions_distribution():
    # few pixels, so that half a pixel tells
    _, ours = erased_boxes(3000, 16, 12)
    _, reference = torchvisions_boxes(3000, 16, 12, (0.02, 0.33), (0.3, 3.3))
    for column in range(4):
        assert_same_distribution(ours[:, column], reference[:, column])
    assert_same_distribution(ours[:, 2] * ours[:, 3], reference[:, 2] * reference[:, 3])
    assert_same_distribution(ours[:, 2] / ours[:, 3], reference[:, 2] / reference[:, 3])
    # to the edges, and no further
    assert (ours[:, :2].min(axis=0) == 0).all()
    assert ((ours[:, :2] + ours[:, 2:]).max(axis=0) == (16, 12)).all()


def test_erasing_gives_up_after_ten_boxes_that_do_not_fit():
    ranges = {"scale": (0.6, 1.0), "ratio": (0.3, 3.3)}
    count = 20000
    images = np.ones((count, 8, 8, 1), np.float32)
    erased = np.asarray(jax.jit(functools.partial(random_erasing, p=1.0, **ranges))(KEY, images))
    boxes = (erased == 0)[..., 0]
    rng = np.random.default_rng(0)
    area, ratio = 64 * rng.uniform(0.6, 1, 10**6), np.exp(rng.uniform(*np.log((0.3, 3.3)), 10**6))
    fits = (np.sqrt(area * ratio).round() < 8) & (np.sqrt(area / ratio).round() < 8)
    expected = 1 - (1 - fits.mean()) ** 10
    struck = boxes.any(axis=(1, 2)).sum()
    assert scipy.stats.binomtest(int(struck), count, expected).pvalue > 1e-4
    reference, _ = torchvisions_boxes(1000, 8, 8, **ranges)
    assert scipy.stats.binomtest(int(reference.sum()), 1000, expected).pvalue > 1e-4
    assert not boxes.all(axis=1).any() and not boxes.all(axis=2).any()


def test_erasing_applies_to_a_fraction_of_the_images():
    lost, _ = erased_boxes(2000, 16, 16, p=0.3)
    assert scipy.stats.binomtest(int(lost.sum()), 2000, 0.3).pvalue > 1e-4


# Mixtures


def mixed(operation, key, count: int = 6, alpha: float = 0.7, height: int = 12, width: int = 9):
    images, targets = pictures(count, height=height, width=width), distribution(5, count)
    return images, targets, *jax.jit(operation)(key, images, targets, alpha)


def ratio_of(targets, mixed_targets):
    """How much of itself an example kept, if it was mixed with the one before it."""
    rolled = np.roll(targets, 1, axis=0)
    difference = targets - rolled
    return float(np.sum((mixed_targets - rolled) * difference) / np.sum(difference**2))


@pytest.mark.parametrize("seed", range(3))
def test_mixup_equals_torchvisions(seed, monkeypatch):
    images, targets, *ours = mixed(mixup, jax.random.key(seed))
    reference = v2.MixUp(alpha=0.7)
    lam = ratio_of(targets, ours[1])
    assert 0.01 < lam < 0.99
    monkeypatch.setattr(reference, "make_params", lambda _: {"lam": lam})
    expected = reference(to_torch(images), torch.from_numpy(targets))
    np.testing.assert_allclose(ours[0], from_torch(expected[0]), 0, 1e-5)
    np.testing.assert_allclose(ours[1], expected[1], 0, 1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_cutmix_equals_torchvisions(seed, monkeypatch):
    images, targets, *ours = mixed(cutmix, jax.random.key(seed))
    inside = (np.asarray(ours[0]) != images).any(axis=(0, 3))
    assert inside.any()
    (y1, y2), (x1, x2) = (np.flatnonzero(inside.any(axis))[[0, -1]] + (0, 1) for axis in (1, 0))
    params = {
        "box": (x1, y1, x2, y2),
        "lam_adjusted": 1 - (x2 - x1) * (y2 - y1) / inside.size,
    }
    reference = v2.CutMix(alpha=0.7)
    monkeypatch.setattr(reference, "make_params", lambda _: params)
    expected = reference(to_torch(images), torch.from_numpy(targets))
    np.testing.assert_array_equal(ours[0], from_torch(expected[0]))
    np.testing.assert_allclose(ours[1], expected[1], 0, 1e-6)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def mixup_ratio(key, alpha):
    return mixup(key, jnp.zeros((2, 1, 1, 1)), jnp.eye(2), alpha)[1][0, 0]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_ratio_is_beta_distributed(alpha):
    ratios = mixup_ratio(jax.random.split(KEY, 3000), alpha)
    assert scipy.stats.kstest(ratios, scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def cutmix_box_and_ratio(key, alpha):
    images = jnp.stack((jnp.zeros((16, 24, 1)), jnp.ones((16, 24, 1))))
    out, targets = cutmix(key, images, jnp.eye(2), alpha)
    return out[0, :, :, 0] == 1, targets[0, 0]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_boxes_have_torchvisions_distribution(alpha):
    height, width = 16, 24
    inside, ours = map(np.asarray, cutmix_box_and_ratio(jax.random.split(KEY, 3000), alpha))
    np.testing.assert_allclose(ours, 1 - inside.mean(axis=(1, 2)), 0, 1e-6)
    torch.manual_seed(0)
    reference = v2.CutMix(alpha=alpha)
    params = [reference.make_params([torch.zeros(2, 1, height, width)]) for _ in range(3000)]
    areas = [(1 - own["lam_adjusted"]) * height * width for own in params]
    # whole pixels: equal ones must not differ by rounding
    assert_same_distribution(inside.sum(axis=(1, 2)), np.round(areas))
    boxes = np.array([own["box"] for own in params if own["lam_adjusted"] < 1])
    inside = inside[inside.any(axis=(1, 2))]
    rows, columns = inside.any(axis=2), inside.any(axis=1)
    assert_same_distribution(columns.argmax(1), boxes[:, 0])
    assert_same_distribution(rows.argmax(1), boxes[:, 1])
    assert_same_distribution(columns.sum(1), boxes[:, 2] - boxes[:, 0])
    assert_same_distribution(rows.sum(1), boxes[:, 3] - boxes[:, 1])


# All of them

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EVERYTHING = Augmentation((0.4, 0.4, 0.4, 0.1), 0.2, 0.1, 0.5, 0.2, 1.0)


def photographs(count: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 16, 16, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("settings", "operation"),
    [
        ({"color_jitter": (0.4, 0, 0, 0)}, functools.partial(color_jitter, brightness=0.4)),
        ({"color_jitter": (0, 0.4, 0, 0)}, functools.partial(color_jitter, contrast=0.4)),
        ({"color_jitter": (0, 0, 0.4, 0)}, functools.partial(color_jitter, saturation=0.4)),
        ({"color_jitter": (0, 0, 0, 0.4)}, functools.partial(color_jitter, hue=0.4)),
        ({"grayscale": 0.5}, functools.partial(random_grayscale, p=0.5)),
        ({"lighting": 0.3}, functools.partial(pca_lighting, std=0.3)),
        ({"erasing": 0.5}, functools.partial(random_erasing, p=0.5)),
    ],
)
def test_each_setting_turns_on_its_operation(settings, operation, monkeypatch):
    # whichever key it has
    monkeypatch.setattr(jax.random, "fold_in", lambda key, data: key)
    normalize, images = normalizer(MEAN, STD), photographs(8)
    ours = jax.jit(Augmentation(**settings).images, static_argnums=2)(KEY, images, normalize)
    if "erasing" in settings:
        expected = jax.jit(operation)(KEY, normalize(images))
    else:
        expected = normalize(jax.jit(operation)(KEY, images.astype(np.float32) / 255))
    np.testing.assert_allclose(ours, expected, 0, 1e-5)
    assert np.abs(ours - normalize(images)).max() > 0.1


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_each_setting_turns_on_its_mixture(name):
    batch = pictures(6), distribution(5, 6)
    ours = jax.make_jaxpr(Augmentation(**{name: 0.7}).batch)(KEY, *batch)
    operation = functools.partial(getattr(augmentation, name), alpha=0.7)
    assert str(ours) == str(jax.make_jaxpr(operation)(KEY, *batch))


def test_two_mixtures_are_equally_likely():
    both = Augmentation(mixup=1.0, cutmix=1.0)
    images = jnp.stack((jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))))
    draw = jax.jit(jax.vmap(lambda key: both.batch(key, images, jnp.eye(2))))
    out, targets = map(np.asarray, draw(jax.random.split(KEY, 1000)))
    was_mixed_up = ((out > 0) & (out < 1)).any(axis=(1, 2, 3, 4))
    assert scipy.stats.binomtest(int(was_mixed_up.sum()), 1000).pvalue > 1e-4
    # the targets are those of the mixture that the images had, on average over the pixels
    np.testing.assert_allclose(out[:, 1].mean(axis=(1, 2, 3)), targets[:, 1, 1], 0, 1e-5)


def test_batch_is_a_function_of_the_key():
    @jax.jit
    def augment(key, images):
        images = EVERYTHING.images(key, images, normalizer(MEAN, STD))
        return images, EVERYTHING.batch(key, images, jnp.eye(8))

    images = photographs(1).repeat(8, axis=0)
    one, same, other = (
        augment(KEY, images),
        augment(KEY, images),
        augment(jax.random.key(1), images),
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    for ours, another in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.abs(ours - another).max() > 0.01
    alone = np.asarray(one[0])  # the same image, augmented in 8 ways
    distances = np.abs(alone[:, None] - alone[None]).max(axis=(2, 3, 4))
    assert (distances[~np.eye(8, dtype=bool)] > 1e-3).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_images_and_targets_keep_their_dtype(dtype):
    def augment(images, targets):
        images = EVERYTHING.images(KEY, images, lambda images: images)
        return EVERYTHING.batch(KEY, images, targets)

    with jax.enable_x64(True):
        batch = jnp.zeros((4, 8, 8, 3), dtype), jnp.zeros((4, 5), dtype)
        assert [leaf.dtype for leaf in jax.eval_shape(augment, *batch)] == [dtype] * 2


def test_nothing_is_computed_for_what_is_off():
    normalize, off = normalizer(MEAN, STD), Augmentation()
    images, targets = photographs(2), np.eye(2, dtype=np.float32)
    plain = jax.make_jaxpr(lambda key, images: normalize(images))(KEY, images)
    ours = jax.make_jaxpr(lambda key, images: off.images(key, images, normalize))(KEY, images)
    assert str(ours) == str(plain)
    assert not jax.make_jaxpr(off.batch)(KEY, images, targets).eqns


# In the training step


class Net(Classifier):
    """A linear classifier with dropout, and an auxiliary head that is twice as sure."""

    aux_weight = 0.5
    num_classes: int = 10
    rate: float = 0.5

    @nn.compact
    def forward(self, x, train=False):
        x = nn.Dropout(self.rate)(x.reshape(x.shape[0], -1), deterministic=not train)
        logits = layers.Linear(self.num_classes, name="fc")(x)
        return (logits, 2 * logits) if train else logits


@dataclasses.dataclass(frozen=True)
class Known(Augmentation):
    """Leaves images as they are, gives targets if told to, and writes its keys down."""

    targets: Any = None
    keys: list = dataclasses.field(default_factory=list)

    def note(self, key):
        jax.debug.callback(lambda data: self.keys.append(tuple(data.tolist())), key)

    def images(self, key, images, normalize):
        self.note(jax.random.key_data(key))
        return normalize(images)

    def batch(self, key, images, targets):
        self.note(jax.random.key_data(key))
        return images, targets if self.targets is None else self.targets


@functools.cache
def initial_state():
    return init_state(Net(), sgd(0.05), (1, 16, 16, 3))


def steps(augmentation, count: int):
    """State and metrics after some steps on four replicas of 2 images."""
    state = jax_utils.replicate(initial_state())
    batch = {
        "image": photographs(8).reshape(4, 2, 16, 16, 3),
        "label": np.arange(8, dtype=np.int32).reshape(4, 2),
    }
    step = make_train_step(
        Net(), sgd(0.05), normalize=normalizer(MEAN, STD), augmentation=augmentation
    )
    step = jax.pmap(step, axis_name="batch")
    for _ in range(count):
        state, metrics = step(state, batch)
    jax.effects_barrier()
    return jax.device_get((state, metrics))


def test_steps_and_replicas_have_their_own_keys_and_dropout_is_unchanged():
    known = Known()
    ours = steps(known, 2)
    assert len(known.keys) == len(set(known.keys)) == 2 * 4 * 2  # steps, replicas, methods
    jax.tree.map(np.testing.assert_array_equal, ours, steps(None, 2))


def single_step(augmentation, **settings):
    """A step without replicas and dropout, and a batch for it."""
    batch = {"image": photographs(6) / np.float32(255), "label": np.int32([0, 1, 2, 3, 4, 5])}
    step = make_train_step(Net(rate=0.0), sgd(0.05), augmentation=augmentation, **settings)
    return batch, functools.partial(step, axis_name=None)


def test_loss_uses_mixed_targets_and_scores_use_labels():
    targets = distribution(10, 6)
    batch, step = single_step(Known(targets=targets), label_smoothing=0.1)
    logits = np.array(Net().apply(initial_state().variables, batch["image"]))
    _, metrics = jax.jit(step)(initial_state(), batch)
    logits, targets = torch.from_numpy(logits), torch.from_numpy(targets)
    loss = functools.partial(torch.nn.functional.cross_entropy, target=targets, label_smoothing=0.1)
    np.testing.assert_allclose(metrics["loss"], loss(logits) + 0.5 * loss(2 * logits), rtol=1e-5)
    for k in (1, 5):
        highest = logits.topk(k).indices.numpy()
        right = (highest == batch["label"][:, None]).any(-1).mean()
        assert right != (highest == targets.argmax(-1).numpy()[:, None]).any(-1).mean()
        np.testing.assert_allclose(metrics[f"top{k}"], right, rtol=1e-6)


def test_empty_augmentation_leaves_the_step_unchanged():
    batch, plain = single_step(None)
    _, off = single_step(Augmentation())
    _, on = single_step(Augmentation(mixup=0.2))
    programs = [str(jax.make_jaxpr(step)(initial_state(), batch)) for step in (plain, off, on)]
    assert programs[0] == programs[1] != programs[2]
