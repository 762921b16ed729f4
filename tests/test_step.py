"""The step: what it computes, and that replicas agree."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torchvision
from flax import jax_utils
from flax import linen as nn

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier
from jaxcnn.training import devices
from jaxcnn.training.losses import cross_entropy, in_top_k
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import (
    init_state,
    make_eval_step,
    make_train_step,
    normalizer,
)


def batch(count: int, seed: int = 0, size: int = 32, channels: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.standard_normal((count, size, size, channels)).astype(np.float32),
        "label": rng.integers(0, 10, count).astype(np.int32),
    }


def shard(tree, devices: int = 4):
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), tree)


def test_four_devices_are_available():
    assert jax.local_device_count() == 4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torchs(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((6, 9)).astype(np.float32) * 5, rng.integers(0, 9, 6)
    reference = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        label_smoothing=smoothing,
        reduction="none",
    )
    np.testing.assert_allclose(cross_entropy(logits, labels, smoothing), reference, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "distributions"])
def test_cross_entropy_equals_torchs_in_float64(kind, smoothing):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 9)) * 5
    targets = rng.integers(0, 9, 6) if kind == "labels" else rng.dirichlet(np.ones(9), 6)
    reference = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(targets),
        label_smoothing=smoothing,
        reduction="none",
    )
    with jax.enable_x64(True):
        ours = cross_entropy(jnp.array(logits), jnp.array(targets), smoothing)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)


def test_targets_of_another_shape_raise():
    # a column of labels would broadcast
    with pytest.raises(UserError, match=r"\[N, num_classes\]"):
        cross_entropy(jnp.ones((2, 3)), jnp.zeros((2, 1), jnp.int32))


def test_cross_entropy_of_bfloat16_logits_is_float32():
    logits = jnp.ones((2, 3), jnp.bfloat16)
    assert cross_entropy(logits, jnp.array([0, 1])).dtype == jnp.float32


def test_top_k_counts_labels_among_the_k_highest():
    logits = jnp.array([[0.1, 0.5, 0.3, 0.2], [0.1, 0.5, 0.3, 0.2]])
    labels = jnp.array([1, 3])
    assert in_top_k(logits, labels, 1).tolist() == [1, 0]
    assert in_top_k(logits, labels, 2).tolist() == [1, 0]
    assert in_top_k(logits, labels, 3).tolist() == [1, 1]


def test_equal_logits_are_right_k_times_in_n():
    labels = jnp.arange(10)
    assert in_top_k(jnp.zeros((10, 10)), labels, 1).sum() == 1
    assert in_top_k(jnp.zeros((10, 10)), labels, 5).sum() == 5
    assert in_top_k(jnp.full((10, 10), jnp.nan), labels, 5).sum() == 0


def test_normalizer_equals_torchvisions_to_tensor_and_normalize():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = torchvision.transforms.functional.normalize(
        torchvision.transforms.functional.to_tensor(image), mean, std
    )
    ours = normalizer(mean, std)(image[None])[0]
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, reference.permute(1, 2, 0), rtol=1e-5, atol=1e-6)


def test_normalizer_accepts_floating_images():
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    normalize = normalizer((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    scaled = image.astype(np.float32) / 255
    np.testing.assert_array_equal(normalize(scaled), normalize(image))


def train(model, data, steps: int = 3, devices: int | None = None, size: int = 32, **kwargs):
    optimizer = sgd(0.05, momentum=0.9, weight_decay=1e-4)
    state = init_state(model, optimizer, (1, size, size, 1))
    step = make_train_step(model, optimizer, **kwargs)
    if devices:
        state, data = jax_utils.replicate(state, jax.devices()[:devices]), shard(data, devices)
        step = jax.pmap(step, axis_name="batch", devices=jax.devices()[:devices])
    else:
        step = jax.jit(functools.partial(step, axis_name=None))
    for _ in range(steps):
        state, metrics = step(state, data)
    if devices:
        for leaf in jax.tree.leaves(state):
            assert all((replica == leaf[0]).all() for replica in leaf[1:])
        state, metrics = jax.tree.map(lambda leaf: leaf[0], (state, metrics))
    return jax.device_get((state, metrics))


def assert_close(a, b, tolerance: float = 1e-5) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=tolerance), a, b)


def test_four_replicas_without_batch_norm_equal_one():
    model, data = models.lenet5(), batch(16)
    (four, metrics), (one, reference) = train(model, data, devices=4), train(model, data)
    assert_close((four, metrics), (one, reference))
    assert four.step == 3


class TinyNet(Classifier):
    """A convolution, a norm, a layer: enough to see whose statistics are used."""

    norm_layer: layers.LayerFactory = layers.BatchNorm
    num_classes: int = 10

    @nn.compact
    def forward(self, x, train=False):
        x = layers.Conv(8, 3, stride=2, use_bias=False, name="conv")(x)
        x = nn.relu(self.norm_layer(name="bn")(x, train))
        return layers.Linear(self.num_classes, name="fc")(x.mean((1, 2)))


def test_four_replicas_with_synchronized_batch_norm_equal_one():
    four = train(TinyNet(axis_name="batch"), batch(16), devices=4)
    assert_close(four, train(TinyNet(), batch(16)))


def test_replica_normalizes_with_its_own_batch_unless_synchronized():
    data = batch(16)
    data["image"] *= np.arange(1, 17, dtype=np.float32)[:, None, None, None]  # unequal replicas
    (four, _), (one, _) = train(TinyNet(), data, devices=4), train(TinyNet(), data)
    assert np.abs(four.params["conv"]["kernel"] - one.params["conv"]["kernel"]).max() > 1e-3


class ManyArrays(Classifier):
    """Of more arrays than XLA combines in one all-reduce."""

    num_classes: int = 10

    @nn.compact
    def forward(self, x, train=False):
        x = layers.BatchNorm(name="bn")(x, train).mean((1, 2))
        weights = [self.param(str(n), nn.initializers.ones, (1,)) for n in range(300)]
        return layers.Linear(self.num_classes, name="fc")(x) * jnp.concatenate(weights).sum()


def test_replicas_meet_in_one_all_reduce():
    optimizer = sgd(0.05, momentum=0.9)
    state = init_state(ManyArrays(), optimizer, (1, 8, 8, 1))
    averaged = [*jax.tree.leaves(state.variables), *["loss", "top1", "top5"]]
    assert len(averaged) > 256
    step = devices.pmap(make_train_step(ManyArrays(), optimizer))
    data = devices.split(batch(16, size=8))
    program = step.lower(devices.replicate(state), data).compile().as_text()
    ((elements,),) = [
        re.findall(r"f32\[(\d+)\]", result)
        for result in re.findall(r"= (.*) all-reduce(?:-start)?\(", program)
    ]
    assert int(elements) == sum(np.size(leaf) for leaf in averaged)
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert other not in program


def test_pmapped_step_needs_no_more_memory_than_a_jitted_one():
    model, optimizer = models.lenet5(), sgd(0.05, momentum=0.9)
    state, data = init_state(model, optimizer, (1, 32, 32, 1)), batch(2)
    step = make_train_step(model, optimizer)
    one = jax.devices()[:1]
    pmapped = jax.pmap(step, axis_name="batch", devices=one, donate_argnums=0)
    pmapped = pmapped.lower(jax_utils.replicate(state, one), shard(data, 1)).compile()
    jitted = jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    jitted = jitted.lower(state, data).compile()
    memory = [program.memory_analysis().temp_size_in_bytes for program in (pmapped, jitted)]
    assert memory[0] <= 1.1 * memory[1]  # a second copy of the momentum makes it 1.9


def test_accumulated_parts_without_batch_norm_equal_the_whole_batch():
    model, data = TinyNet(norm_layer="group1"), batch(16, size=16)
    whole, metrics = train(model, data, size=16)
    parts, parts_metrics = train(model, data, size=16, accumulate_steps=4)
    assert_close((parts, parts_metrics), (whole, metrics))


def test_batch_norms_take_the_statistics_of_each_accumulated_part():
    data = batch(8, size=16)
    data["image"] *= np.arange(1, 9, dtype=np.float32)[:, None, None, None]  # unequal parts
    model = TinyNet()
    parts, _ = train(model, data, steps=1, size=16, accumulate_steps=2)
    variables = init_state(model, sgd(0.05), (1, 16, 16, 1)).variables
    expected = variables["batch_stats"]
    for part in np.split(data["image"], 2):
        _, mutated = model.apply(
            variables | {"batch_stats": expected}, part, train=True, mutable=["batch_stats"]
        )
        expected = mutated["batch_stats"]
    assert_close(parts.batch_stats, expected)


class Masks(Classifier, kw_only=True):
    """Returns the mask of a dropout as logits, and so in its gradients."""

    classifier = first_conv = "none"

    @nn.compact
    def forward(self, x, train=False):
        bias = self.param("bias", nn.initializers.zeros, (10,))
        return bias * layers.Dropout(0.5)(jnp.ones((x.shape[0], 10)), train)


def test_accumulated_parts_drop_out_other_units():
    """The gradients of equal halves of a batch are equal unless their masks differ."""
    half = batch(1, size=1)
    data = {name: np.concatenate([value, value]) for name, value in half.items()}
    (one, _), (two, _) = (
        train(Masks(), examples, steps=1, size=1, accumulate_steps=parts)
        for examples, parts in ((half, 1), (data, 2))
    )
    # Two masks that are drawn apart leave some units half of their gradient.
    assert len(np.unique(np.abs(two.params["bias"]).round(6))) > len(
        np.unique(np.abs(one.params["bias"]).round(6))
    )


def test_norms_of_gradients_parameters_and_updates_are_reported():
    model, data = TinyNet(), batch(8, size=16)
    state = init_state(model, optax.sgd(0.1), (1, 16, 16, 1))
    step = make_train_step(model, optax.sgd(0.1), log_norms=True)
    new, metrics = jax.jit(functools.partial(step, axis_name=None))(state, data)

    def norm(tree) -> float:
        return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree))))

    update = jax.tree.map(lambda a, b: a - b, new.params, state.params)
    np.testing.assert_allclose(metrics["parameter_norm"], norm(state.params), rtol=1e-5)
    np.testing.assert_allclose(metrics["update_norm"], norm(update), rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_norm"], norm(update) / 0.1, rtol=1e-4)


def test_bfloat16_computation_keeps_float32_state():
    state, metrics = train(TinyNet(dtype=jnp.bfloat16), batch(8))
    reference, reference_metrics = train(TinyNet(), batch(8))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))} <= {
        np.dtype("float32"),
        np.dtype("int32"),
    }
    assert metrics["loss"].dtype == np.float32
    assert metrics["loss"] != reference_metrics["loss"]
    assert_close((state, metrics), (reference, reference_metrics), 0.02)


def eval_step_of(model):
    """The evaluation step of one replica."""
    return jax.jit(functools.partial(make_eval_step(model), axis_name=None))


def test_evaluation_counts_masked_examples_only():
    model = models.lenet5()
    data = batch(8)
    variables = model.init(jax.random.key(0), data["image"])
    step = eval_step_of(model)
    whole, _ = step(variables, data | {"mask": np.ones(8, np.float32)})
    spoilt = data["image"].copy()
    spoilt[5:] = np.nan  # padding may hold anything
    mask = np.float32([1, 1, 1, 1, 1, 0, 0, 0])
    part, _ = step(variables, {**data, "image": spoilt, "mask": mask})
    first, _ = step(
        variables, {k: v[:5] for k, v in data.items()} | {"mask": np.ones(5, np.float32)}
    )
    assert (whole["examples"], part["examples"]) == (8, 5)
    assert_close(part, first)


def test_several_crops_are_scored_by_the_mean_of_their_softmaxes():
    model = models.lenet5()
    data = batch(6)
    crops = np.stack([data["image"], data["image"][::-1], 2 * data["image"]], axis=1)
    variables = model.init(jax.random.key(0), data["image"])
    variables = jax.tree.map(lambda leaf: 3 * leaf, variables)  # far from equal softmaxes
    sums, examples = eval_step_of(model)(
        variables,
        {"image": crops, "label": data["label"], "mask": np.float32([1] * 5 + [0])},
    )
    each = [jax.nn.softmax(model.apply(variables, crops[:, n])) for n in range(3)]
    mean = np.mean(each, axis=0)[:5]
    labels = data["label"][:5]
    expected = -np.log(np.take_along_axis(mean, labels[:, None], 1)).sum()
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)
    assert sums["top1"] == (mean.argmax(axis=1) == labels).sum()
    assert sums["examples"] == 5
    assert examples["prediction"][:5].tolist() == mean.argmax(axis=1).tolist()
    np.testing.assert_allclose(examples["confidence"][:5], mean.max(axis=1), rtol=1e-5)
    best = (-mean).argsort(axis=1)[:, :5]
    assert examples["top5"][:5].tolist() == (best == labels[:, None]).any(axis=1).tolist()
    np.testing.assert_allclose(examples["loss"][:5].sum(), expected, rtol=1e-5)


def test_evaluation_sums_over_replicas():
    model = models.lenet5()
    data = batch(8) | {"mask": np.float32([1, 1, 1, 1, 1, 1, 1, 0])}
    variables = model.init(jax.random.key(0), data["image"])
    alone, _ = eval_step_of(model)(variables, data)
    replicas, _ = jax.pmap(make_eval_step(model), axis_name="batch")(
        jax_utils.replicate(variables), shard(data)
    )
    assert_close(jax.tree.map(lambda leaf: leaf[0], replicas), alone)


def test_labels_of_fewer_than_five_classes_are_always_in_the_top_five():
    assert in_top_k(jnp.zeros((2, 3)), jnp.array([0, 2]), 5).tolist() == [1, 1]
