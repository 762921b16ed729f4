"""Layers compute what torch's do: compared in float64, over random arguments."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_parity import nchw

from jaxcnn import convert
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.testing.compiling import jit

F = torch.nn.functional

sizes = st.integers(1, 13)
pairs = st.tuples(sizes, sizes)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def array(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def close(ours, theirs: torch.Tensor, tolerance: float = 1e-12) -> None:
    theirs = np.moveaxis(theirs.detach().numpy(), 1, -1)
    chex.assert_shape(ours, theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    arguments = {
        "kernel_size": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "dilation": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "groups": groups,
    }
    least = [
        max(1, d * (k - 1) + 1 - 2 * p)
        for k, p, d in zip(
            *(arguments[key] for key in ("kernel_size", "padding", "dilation")), strict=True
        )
    ]
    size = tuple(draw(st.integers(n, n + 8)) for n in least)
    return arguments, size, groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))


@settings(deadline=None, max_examples=15)
@given(convolutions(), st.booleans())
def test_conv_and_its_gradients_equal_torchs(case, bias):
    arguments, size, channels, features = case
    x = array(0, 2, *size, channels)
    ours = layers.Conv(features, **arguments, use_bias=bias, param_dtype=jnp.float64)
    theirs = torch.nn.Conv2d(channels, features, **arguments, bias=bias).double()
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: array(0, *leaf.shape), shapes)
    state = convert.to_torch({"params": params})
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})

    def loss(params, x):
        y = ours.apply({"params": params}, x)
        return (y**2).sum(), y

    (grads, x_grad), y = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    tx = nchw(x).requires_grad_()
    ty = theirs(tx)
    (ty**2).sum().backward()
    close(y, ty)
    close(x_grad, tx.grad, 1e-11)
    for name, grad in convert.to_torch({"params": grads}).items():
        reference = theirs.get_parameter(name).grad.numpy()
        np.testing.assert_allclose(grad, reference, rtol=1e-11, atol=1e-11)


@st.composite
def windows(draw):
    kernel = draw(st.integers(1, 4))
    padding = draw(st.integers(0, kernel // 2))
    size = tuple(draw(st.integers(max(1, kernel - 2 * padding), 12)) for _ in range(2))
    return size, kernel, draw(st.integers(1, 4)), padding


@settings(deadline=None, max_examples=60)
@given(windows(), st.booleans(), st.booleans())
def test_pooling_equals_torchs(window, ceil_mode, count_include_pad):
    size, kernel, stride, padding = window
    x = array(0, 2, *size, 3)
    arguments = (kernel, stride, padding)
    close(
        layers.max_pool(x, *arguments, ceil_mode=ceil_mode),
        F.max_pool2d(nchw(x), *arguments, ceil_mode=ceil_mode),
    )
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    close(
        layers.avg_pool(x, *arguments, **options),
        F.avg_pool2d(nchw(x), *arguments, **options),
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "ceil_mode"),
    [
        (3, 2, 1, False),
        (2, 2, 0, False),
        (3, 2, 0, True),
        (3, 1, 1, False),
        ((2, 3), (3, 1), 1, True),
    ],
)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "any"])
def test_max_pooling_and_its_gradient_which_goes_to_the_first_maximum_equal_torchs(
    kernel, stride, padding, ceil_mode, platform
):
    # Few values, so that many are equal, as after a ReLU.
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 11, 12, 3)).astype(np.float64))
    with layers.traced_for(platform):
        y, vjp = jax.vjp(
            lambda x: layers.max_pool(x, kernel, stride, padding, ceil_mode=ceil_mode), x
        )
    signal = array(1, *y.shape)
    images = nchw(np.array(x)).requires_grad_()
    theirs = F.max_pool2d(images, kernel, stride, padding, ceil_mode=ceil_mode)
    close(y, theirs)
    (expected,) = torch.autograd.grad(theirs, images, nchw(signal))
    close(vjp(jnp.asarray(signal))[0], expected)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_max_pooling_has_all_derivatives(platform):
    x = jnp.asarray(array(0, 1, 6, 6, 2))

    def f(x):
        with layers.traced_for(platform):
            return jnp.sum(layers.max_pool(x, 3, 2, 1) ** 3)

    tangent = jnp.asarray(array(1, 1, 6, 6, 2))
    _, forward = jax.jvp(f, (x,), (tangent,))
    assert float(forward) == pytest.approx(float(jnp.vdot(jax.grad(f)(x), tangent)), rel=1e-12)
    _, forward = jax.jvp(jax.grad(f), (x,), (tangent,))
    reverse = jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), tangent))(x)
    np.testing.assert_allclose(np.asarray(forward), np.asarray(reverse), rtol=0, atol=1e-12)


def test_gradient_of_max_pooling_is_xlas_own_but_on_cpus_and_gpus():
    def gradient(x):
        return jax.grad(lambda x: layers.max_pool(x, 3, 2, 1).sum())(x)

    trace = jax.jit(gradient).trace(jnp.zeros((1, 8, 8, 2)))
    programs = {
        platform: trace.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    for platform, count in (("cpu", 0), ("cuda", 0), ("tpu", 1)):
        assert programs[platform].count("select_and_scatter") == count
    # No pixel looks at the places of windows that cannot have seen it.
    for platform in ("cpu", "cuda"):
        assert "pad" in programs[platform]
        assert not re.search(r"interior = \[[^]]*[1-9]", programs[platform])


@pytest.mark.parametrize(("size", "kernel", "stride"), [((2, 2), 3, 2), ((1, 5), 2, 2)])
def test_with_ceil_mode_a_window_may_be_larger_than_the_map(size, kernel, stride):
    x = array(0, 2, *size, 3)
    for ours, theirs in ((layers.max_pool, F.max_pool2d), (layers.avg_pool, F.avg_pool2d)):
        close(
            ours(x, kernel, stride, ceil_mode=True),
            theirs(nchw(x), kernel, stride, ceil_mode=True),
        )
        with pytest.raises(UserError, match="smaller than its window"):
            ours(x, kernel, stride)


def test_the_default_stride_of_pooling_is_the_kernel_size():
    x = array(0, 1, 6, 6, 1)
    close(layers.max_pool(x, 3), F.max_pool2d(nchw(x), 3))
    close(layers.avg_pool(x, (2, 3)), F.avg_pool2d(nchw(x), (2, 3)))


@settings(deadline=None, max_examples=50)
@given(pairs, pairs)
def test_adaptive_average_pooling_equals_torchs_at_any_size(size, output_size):
    x = array(0, 2, *size, 3)
    close(layers.adaptive_avg_pool(x, output_size), F.adaptive_avg_pool2d(nchw(x), output_size))


def test_adaptive_average_pooling_keeps_bfloat16():
    x = jnp.asarray(array(0, 1, 5, 5, 2), jnp.bfloat16)
    assert layers.adaptive_avg_pool(x, 2).dtype == jnp.bfloat16


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 7), st.integers(1, 9))
def test_local_response_norm_equals_torchs(size, channels):
    x = 3 * array(0, 2, 3, 4, channels)
    ours = layers.local_response_norm(x, size, 0.1, 0.75, 2.0)
    close(ours, F.local_response_norm(nchw(x), size, 0.1, 0.75, 2.0))


def test_the_gradient_of_gelu_keeps_its_input_and_nothing_else():
    x = jnp.linspace(-3, 3, 12)
    _, pullback = jax.vjp(layers.gelu, x)
    (kept,) = jax.tree.leaves(pullback)
    np.testing.assert_array_equal(kept, x)


def test_the_rectifier_and_its_gradient_equal_torchs():
    x = np.asarray([-np.inf, -1.5, -0.0, 0.0, 2.5, np.inf, np.nan], np.float32)
    ours, pullback = jax.vjp(layers.relu, x)
    theirs = torch.from_numpy(x).requires_grad_()
    theirs.relu().backward(torch.full(x.shape, 3.0))
    np.testing.assert_array_equal(ours, theirs.detach().relu())
    np.testing.assert_array_equal(pullback(jnp.full(x.shape, 3.0, jnp.float32))[0], theirs.grad)


def test_xla_computes_the_rectifiers_gradient_from_its_output():
    def gradient(rectifier):
        loss = jax.grad(lambda x: jnp.sin(rectifier(x)).sum())
        return jax.jit(loss).lower(jnp.zeros(8)).compile().as_text()

    def compared(program):
        """The operation whose result is compared with zero."""
        (operand,) = re.findall(r"compare\(%([\w.]+),", program)
        (operation,) = re.findall(rf"%{operand} = \S+ (\w+)\(", program)
        return operation

    assert compared(gradient(layers.relu)) == "maximum"
    assert compared(gradient(nn.relu)) == "parameter"


def test_dropout_zeroes_and_rescales_in_training_only():
    x = jnp.ones((100, 1000))
    dropout = layers.Dropout(0.3)
    assert (dropout.apply({}, x) == x).all()
    y = dropout.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert abs((y == 0).mean() - 0.3) < 0.01
    np.testing.assert_allclose(y[y != 0], 1 / 0.7)
    other = dropout.apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert (y != other).any()


def test_flatten_has_torchs_order():
    x = array(0, 2, 3, 4, 5)
    assert (layers.flatten(x) == nchw(x).flatten(1).numpy()).all()


@pytest.mark.parametrize("offset", [0.0, 50.0, 1e4])
def test_batch_norm_equals_torchs_over_steps(offset):
    """Output, gradient and running statistics, also with a large mean."""
    ours, theirs = layers.BatchNorm(param_dtype=jnp.float64), torch.nn.BatchNorm2d(3).double()
    x = array(0, 4, 5, 6, 3) + offset
    variables = ours.init(jax.random.key(0), x)
    for _ in range(3):
        y, variables_new = ours.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = variables | variables_new
        close(y, theirs(nchw(x)), 1e-10)
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], theirs.running_mean, rtol=1e-12)
    np.testing.assert_allclose(stats["var"], theirs.running_var, rtol=1e-11)
    close(ours.apply(variables, x), theirs.eval()(nchw(x)), 1e-10)

    tx = nchw(x).requires_grad_()
    (theirs.train()(tx) ** 3).sum().backward()
    grad = jax.grad(
        lambda x: (ours.apply(variables, x, train=True, mutable=["batch_stats"])[0] ** 3).sum()
    )(x)
    close(grad, tx.grad, 1e-8 if offset > 100 else 1e-10)


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    norm = layers.BatchNorm(dtype=jnp.bfloat16)
    x = jnp.asarray(array(0, 8, 4, 4, 2) + 3, jnp.bfloat16)
    variables = norm.init(jax.random.key(0), x)
    y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}
    mean = np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * mean, rtol=1e-6)


def test_synchronized_batch_norm_uses_the_batches_of_all_replicas():
    x = array(0, 4, 6, 5, 5, 2)  # four replicas of six images
    synchronized = layers.BatchNorm(axis_name="batch", param_dtype=jnp.float64)
    alone = layers.BatchNorm(param_dtype=jnp.float64)
    variables = synchronized.init(jax.random.key(0), x[0])

    def loss(norm, x):
        y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return (y**3).sum(), new["batch_stats"]

    by_replica = jax.grad(functools.partial(loss, synchronized), has_aux=True)
    grads, stats = jax.pmap(by_replica, axis_name="batch")(x)
    whole = x.reshape(24, 5, 5, 2)
    grad, stat = jax.grad(functools.partial(loss, alone), has_aux=True)(whole)
    np.testing.assert_allclose(grads.reshape(whole.shape), grad, rtol=1e-9, atol=1e-12)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], np.stack([stat[name]] * 4), rtol=1e-12)


def test_batch_norm_refuses_a_single_value():
    norm = layers.BatchNorm()
    x = jnp.ones((1, 1, 1, 2))
    with pytest.raises(UserError, match="larger batch"):
        norm.apply(norm.init(jax.random.key(0), x), x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (layers.Conv(64, 5, groups=2), torch.nn.Conv2d(32, 64, 5, groups=2), (1, 8, 8, 32)),
        (layers.Linear(400), torch.nn.Linear(300, 400), (1, 300)),
        (
            layers.Conv(256, 3, use_bias=False, kernel_init=layers.kaiming_normal_fan_out),
            torch.nn.Conv2d(128, 256, 3, bias=False),
            (1, 8, 8, 128),
        ),
    ],
)
def test_initial_weights_have_torchs_distribution(ours, theirs, shape):
    if not ours.use_bias:
        torch.nn.init.kaiming_normal_(theirs.weight, mode="fan_out", nonlinearity="relu")
    params = convert.to_torch(ours.init(jax.random.key(0), jnp.zeros(shape)))
    for name, reference in theirs.state_dict().items():
        leaf, reference = params[name], reference.numpy()
        assert leaf.shape == reference.shape
        error = 5 / math.sqrt(leaf.size)  # five standard errors
        assert abs(leaf.mean()) < error * leaf.std()
        assert abs(leaf.std() / reference.std() - 1) < 2 * error
        if name == "bias" or ours.kernel_init is layers.torch_default_init:  # uniform
            bound = 1 / math.sqrt(np.prod(theirs.weight.shape[1:]))
            assert np.abs(leaf).max() <= bound * (1 + 1e-6)
            assert np.abs(leaf).max() > bound * (1 - 10 / leaf.size)


def test_sequential_numbers_all_layers_as_torch_does():
    net = layers.Sequential(
        (
            functools.partial(layers.Conv, 4, 3),
            lambda name: layers.BatchNorm(eps=1e-3, name=name),
            functools.partial(layers.Lambda, nn.relu),
            layers.BatchNorm,
        )
    )
    variables = net.init(jax.random.key(0), jnp.ones((2, 5, 5, 1)))
    assert set(variables["params"]) == {"0", "1", "3"}
    _, captured = net.apply(variables, jnp.ones((2, 5, 5, 1)), capture_intermediates=True)
    assert set(captured["intermediates"]) == {"0", "1", "2", "3", "__call__"}


def test_layers_inherit_their_dtypes_from_the_parent_module():
    class Net(layers.Module):
        @nn.compact
        def __call__(self, x, train=False):
            inner = layers.Sequential((functools.partial(layers.Conv, 4, 3), layers.BatchNorm))
            return layers.Linear(2, dtype=jnp.float32)(layers.flatten(inner(x, train)))

    net = Net(dtype=jnp.bfloat16, param_dtype=jnp.float16)
    x = jnp.ones((2, 5, 5, 1), jnp.float32)
    y, variables = net.init_with_output(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float16")}
    assert y.dtype == jnp.float32
    _, captured = net.apply(variables, x, capture_intermediates=True)
    (inside,) = captured["intermediates"]["Sequential_0"]["__call__"]
    assert inside.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (layers.Conv(4, 3), (2, 8, 3), r"must be \[N, H, W, C\]"),
        (layers.Conv(4, 3, groups=2), (1, 8, 8, 3), "into 2 groups"),
        (layers.Conv(4, 7), (1, 6, 8, 3), "smaller than its window of 7x7"),
        (
            layers.Lambda(functools.partial(layers.max_pool, kernel_size=3)),
            (1, 2, 8, 1),
            "smaller than its window of 3x3",
        ),
    ],
)
def test_invalid_inputs_are_refused(layer, shape, words):
    with pytest.raises(UserError, match=words):
        layer.init(jax.random.key(0), jnp.ones(shape))
