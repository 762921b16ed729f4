"""Norms compute what torch's, or their papers, do, in float64; networks accept any norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_parity import assert_same

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.layers.row_sums import repeat_rows, row_sum, sum_rows


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def array(*shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(0).standard_normal(shape) + 1


@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.integers(1, 16)] * 3, st.integers(1, 3)))
def test_sums_of_parts_by_products_and_their_gradients_are_sums(shape):
    how = row_sum(shape)
    rows = shape[0] * shape[1] * shape[2]
    if how is None:  # too few, or prime
        assert not any(rows % size == 0 for size in range(32, min(rows, 257)))
        return
    assert how.parts * how.block <= rows
    x, values = jnp.asarray(array(*shape)), jnp.asarray(array(shape[-1]))

    @jax.jit
    def results_and_gradients(x, values):
        total, of_total = jax.vjp(lambda x: sum_rows(x, how), x)
        repeated, of_repeated = jax.vjp(lambda values: repeat_rows(values, how), values)
        return (total, *of_repeated(x)), (repeated, *of_total(values))

    sums, repetitions = results_and_gradients(x, values)
    for total in sums:
        np.testing.assert_allclose(total, np.sum(x, (0, 1, 2)), rtol=1e-12, atol=1e-11)
    for repeated in repetitions:
        np.testing.assert_array_equal(repeated, np.broadcast_to(values, shape))


class LayerNorm2d(torch.nn.LayerNorm):
    """That of torchvision's ConvNeXt."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TorchSwitchableNorm(torch.nn.Module):
    """Equations 3 to 5 of Luo et al. 2018."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(torch.ones(channels)) for _ in range(2))
        self.mean_weight, self.var_weight = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        statistics = []
        for axes in ((2, 3), (1, 2, 3), (0, 2, 3)):
            statistics.append((x.mean(axes, True), x.var(axes, keepdim=True, correction=0)))
        if self.training:
            with torch.no_grad():
                for running, value in zip(
                    (self.running_mean, self.running_var), statistics[2], strict=True
                ):
                    running.lerp_(value.reshape(-1), 0.1)
        else:
            own = (self.running_mean[:, None, None], self.running_var[:, None, None])
            statistics[2] = own
        means, variances = zip(*statistics, strict=True)
        mean = sum(w * s for w, s in zip(self.mean_weight.softmax(0), means, strict=True))
        var = sum(w * s for w, s in zip(self.var_weight.softmax(0), variances, strict=True))
        y = (x - mean) / torch.sqrt(var + 1e-5)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


NORMS = {
    "group": (layers.GroupNorm(num_groups=3), torch.nn.GroupNorm(3, 6)),
    "group of 32 and 6": (layers.GroupNorm(), torch.nn.GroupNorm(2, 6)),
    "group1": (layers.NORMS["group1"](), torch.nn.GroupNorm(1, 6)),
    "layer": (layers.NORMS["layer"](), LayerNorm2d(6)),
    "layer with eps": (layers.LayerNorm(eps=1e-6), LayerNorm2d(6, eps=1e-6)),
    "instance": (layers.InstanceNorm(), torch.nn.InstanceNorm2d(6)),
    "affine instance": (layers.NORMS["instance"](), torch.nn.InstanceNorm2d(6, affine=True)),
    "batch": (layers.NORMS["batch"](), torch.nn.BatchNorm2d(6)),
    "switchable": (layers.NORMS["switchable"](), TorchSwitchableNorm(6)),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_norms_and_their_gradients_equal_torchs(name, train):
    ours, theirs = NORMS[name]
    assert_same(ours.clone(param_dtype=jnp.float64), theirs, array(4, 5, 3, 6), train=train)


def test_batch_norm_of_many_pixels_equals_torchs():
    """On a CPU its sums are products of matrices; elsewhere it is lowered as it is written."""
    x = array(2, 12, 14, 3)
    assert_same(layers.BatchNorm(param_dtype=jnp.float64), torch.nn.BatchNorm2d(3), x)

    def gradient(x):
        norm = layers.BatchNorm()
        variables = norm.init(jax.random.key(0), x)
        return jax.grad(lambda x: norm.apply(variables, x, True, mutable=["batch_stats"])[0].sum())(
            x
        )

    trace = jax.jit(gradient).trace(x)
    for platform, products in (("cpu", True), ("cuda", False)):
        program = trace.lower(lowering_platforms=(platform,)).as_text()
        assert ("dot_general" in program) == products


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize("norm", sorted(layers.NORMS))
def test_a_large_mean_costs_no_precision_in_float32(norm, platform):
    x = (array(4, 64, 64, 6) + 1e4).astype(np.float32)
    layer = layers.NORMS[norm]()
    with layers.traced_for(platform):
        variables = layer.init(jax.random.key(0), x)
        y, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    assert 0.5 < y.std() < 1.5


def sums_that_wait(jaxpr) -> int:
    """The number of sums over the batch of values that depend on such a sum."""
    of_a_sum, waiting = set(), 0
    for eqn in jaxpr.eqns:
        after_a_sum = any(isinstance(v, jax.extend.core.Var) and v in of_a_sum for v in eqn.invars)
        is_sum = eqn.primitive.name == "reduce_sum"
        waiting += is_sum and after_a_sum
        if is_sum or after_a_sum:
            of_a_sum.update(eqn.outvars)
    return waiting


@pytest.mark.parametrize(
    ("platform", "dtype", "count"),
    [("cuda", jnp.bfloat16, 0), ("cuda", jnp.float32, 1), ("tpu", jnp.bfloat16, 1)],
)
def test_statistics_of_bfloat16_take_one_pass_on_a_gpu(platform, dtype, count):
    x = jnp.asarray(array(2, 5, 5, 3), dtype)
    norm = layers.BatchNorm(dtype=dtype)
    variables = norm.init(jax.random.key(0), x)

    def forward(x):
        return norm.apply(variables, x, True, mutable=["batch_stats"])

    with layers.traced_for(platform):
        jaxpr = jax.make_jaxpr(forward)(x).jaxpr
    assert sums_that_wait(jaxpr) == count


@pytest.mark.parametrize("mean", [3, 100])
@pytest.mark.parametrize("running_mean", ["zero", "of the batch"])
def test_statistics_of_bfloat16_in_one_pass_are_nearer_than_the_values(mean, running_mean):
    exact = array(8, 64, 64, 6) + mean
    x = jnp.asarray(exact, jnp.bfloat16)
    norm = layers.BatchNorm(dtype=jnp.bfloat16, momentum=1.0)
    variables = norm.init(jax.random.key(0), x)
    rounded = np.asarray(x, np.float64)
    if running_mean != "zero":
        variables["batch_stats"]["mean"] = jnp.asarray(rounded.mean((0, 1, 2)), jnp.float32)
    with layers.traced_for("cuda"):
        y, stats = norm.apply(variables, x, True, mutable=["batch_stats"])
    var = rounded.var((0, 1, 2), ddof=1)
    of_rounding = np.abs(var - exact.var((0, 1, 2), ddof=1)).max()
    error = np.abs(np.asarray(stats["batch_stats"]["var"], np.float64) - var).max()
    assert error < (of_rounding if running_mean == "zero" else 1e-5 * var.max())
    np.testing.assert_allclose(stats["batch_stats"]["mean"], rounded.mean((0, 1, 2)), rtol=1e-5)
    expected = (rounded - rounded.mean((0, 1, 2))) / rounded.std((0, 1, 2))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0, atol=0.02)


def test_gradients_of_bfloat16_in_one_pass_are_those_in_two():
    """In float64 from bfloat16's values, around a running mean that is not the batch's."""
    x = jnp.asarray(array(4, 6, 5, 3) + 2, jnp.bfloat16)

    def gradients(platform, dtype):
        norm = layers.BatchNorm(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = norm.init(jax.random.key(0), x)
        variables["batch_stats"]["mean"] += 1.5
        signal = jnp.asarray(array(4, 6, 5, 3))

        def loss(params, x):
            variables_of = {**variables, "params": params}
            y, _ = norm.apply(variables_of, x, True, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y) * signal)

        with layers.traced_for(platform):
            return jax.grad(loss, argnums=(0, 1))(variables["params"], x.astype(dtype))

    ours, expected = gradients("cuda", jnp.bfloat16), gradients("cuda", jnp.float64)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.01), ours, expected
    )


def test_batch_norm_takes_whole_numbers():
    x = jnp.asarray(np.arange(48).reshape(2, 4, 2, 3))
    norm = layers.BatchNorm()
    y, _ = norm.apply(norm.init(jax.random.key(0), x), x, True, mutable=["batch_stats"])
    assert abs(float(y.mean())) < 1e-5 and float(y.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("norm", sorted(layers.NORMS))
def test_norms_compute_in_bfloat16_with_float32_parameters(norm):
    x = jnp.asarray(array(4, 5, 5, 6), jnp.float32)
    layer = layers.NORMS[norm](dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("norm", sorted(layers.NORMS))
def test_norm_layer_accepts_a_name(norm):
    model = models.resnet18(norm_layer=norm, num_classes=3, zero_init_residual=True)
    images = jnp.ones((2, 33, 33, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    kind = layers.NORMS[norm](name="bn1")
    with jax.enable_x64(False):
        own = jax.eval_shape(kind.init, jax.random.key(0), jnp.ones((1, 4, 4, 64)))
    assert jax.tree.structure(variables["params"]["bn1"]) == jax.tree.structure(own["params"])


def test_layer_norm_is_the_same_by_name_and_by_class():
    by_name, by_class = (models.resnet18(norm_layer=n) for n in ("layer", layers.LayerNorm))
    assert by_name == by_class == models.resnet18().clone(norm_layer="layer")


FLAX_NORMS = {
    "LayerNorm": nn.LayerNorm,
    "GroupNorm": functools.partial(nn.GroupNorm, num_groups=4, epsilon=1e-5),
    "BatchNorm": functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5),
    "function": lambda name: nn.LayerNorm(name=name),
}
NETWORKS = {
    "resnet18": lambda **kwargs: models.resnet18(num_classes=3, **kwargs),
    "mobilenet_v2": lambda **kwargs: models.mobilenet_v2(
        num_classes=3, inverted_residual_setting=((1, 16, 1, 1), (2, 16, 2, 2)), **kwargs
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("norm", FLAX_NORMS)
def test_norm_layer_accepts_norms_of_flax(norm, network):
    """In the same places as ours, with the network's dtype."""
    model = NETWORKS[network](norm_layer=FLAX_NORMS[norm], dtype=jnp.bfloat16)
    assert model == NETWORKS[network](norm_layer=FLAX_NORMS[norm], dtype="bfloat16")
    images = jnp.ones((2, 33, 33, 3), jnp.float32)
    key = jax.random.key(0)
    variables = jax.eval_shape(model.init, key, images)
    ours = NETWORKS[network](norm_layer="batch" if norm == "BatchNorm" else "layer")
    expected = jax.eval_shape(ours.init, key, images)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    dtypes = []

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if isinstance(context.module, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm)):
            dtypes.append(y.dtype)
        return y

    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    with nn.intercept_methods(record):
        logits, _ = jax.eval_shape(apply, variables, images, rngs={"dropout": key})
    assert logits.shape == (2, 3)
    assert len(dtypes) > 8 and set(dtypes) == {jnp.dtype("bfloat16")}


def test_param_dtype_of_flax_norms_is_the_networks_unless_given():
    given = functools.partial(nn.LayerNorm, param_dtype=jnp.float32)
    for norm, expected in ((nn.LayerNorm, "float64"), (given, "float32")):
        model = models.resnet18(norm_layer=norm, param_dtype=jnp.float64)
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 33, 33, 3)))
        assert variables["params"]["bn1"]["scale"].dtype == expected


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_of_flax_computes_as_ours(train):
    """Its running variance is the biased one, so only outputs and means are compared."""
    x = jnp.asarray(array(4, 8, 8, 3))
    networks = [
        models.ConvNeXt((8,), (1,), num_classes=3, param_dtype=jnp.float64, norm_layer=norm)
        for norm in ("batch", functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5))
    ]
    variables = jax.jit(networks[0].init)(jax.random.key(0), x)
    (ours, new), (flax, flax_new) = (
        jax.jit(functools.partial(model.apply, train=train, mutable=["batch_stats"]))(variables, x)
        for model in networks
    )
    assert np.ptp(ours) > 0
    np.testing.assert_allclose(flax, ours, rtol=1e-6, atol=1e-9)
    means, flax_means = (n["batch_stats"]["features"]["0"]["1"]["mean"] for n in (new, flax_new))
    np.testing.assert_allclose(flax_means, means, rtol=1e-6)
    assert (means != 0).all() == train


def test_a_batch_norm_that_is_told_to_use_its_running_averages_does():
    frozen = functools.partial(nn.BatchNorm, use_running_average=True)
    model = models.resnet18(norm_layer=frozen, zero_init_residual=True)
    images = jnp.ones((2, 33, 33, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    jax.eval_shape(functools.partial(model.apply, train=True), variables, images)  # none mutable


@pytest.mark.parametrize(
    ("norm_layer", "words"),
    [("groups", "'groups' is unknown; did you mean 'group'"), (3, "neither a name nor a function")],
)
def test_an_invalid_norm_is_refused(norm_layer, words):
    with pytest.raises(UserError, match=words):
        models.resnet18(norm_layer=norm_layer)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (functools.partial(layers.GroupNorm, 4), "6 channels into 4 groups"),
        (layers.InstanceNorm, "one value per channel"),
    ],
)
def test_invalid_inputs_are_refused(layer, words):
    with pytest.raises(UserError, match=words):
        layer().apply({}, jnp.ones((2, 1, 1, 6)), train=True)
