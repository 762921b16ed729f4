"""Convolutions in all their forms, and initial weights, match torch's."""

import functools
import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_parity import assert_same, nchw

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.layers import convolve, dense_convolution

float64 = {"param_dtype": jnp.float64}


@pytest.fixture(autouse=True, scope="module")
def x64():
    with jax.enable_x64(True):
        yield


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@st.composite
def transposed_convolutions(draw):
    def both(low: int, high: int):
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    arguments = {
        "kernel_size": both(1, 4),
        "stride": both(1, 3),
        "padding": both(0, 1),
        "dilation": both(1, 2),
        "groups": draw(st.sampled_from([1, 1, 2, 3])),
    }
    # torch wants it smaller than the stride or the dilation.
    arguments["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in arguments["stride"])
    groups = arguments["groups"]
    channels = tuple(groups * draw(st.integers(1, 3)) for _ in range(2))
    return arguments, both(3, 6), channels


@settings(deadline=None, max_examples=8)
@given(transposed_convolutions(), st.booleans())
def test_transposed_convolution_equals_torchs(case, bias):
    arguments, size, (channels, features) = case
    ours = layers.ConvTranspose(features, **arguments, use_bias=bias, **float64)
    theirs = torch.nn.ConvTranspose2d(channels, features, **arguments, bias=bias)
    assert_same(ours, theirs, array(2, *size, channels))


def test_transposed_convolution_is_initialized_as_torchs():
    theirs = torch.nn.ConvTranspose2d(16, 64, 5, groups=2)
    variables = layers.ConvTranspose(64, 5, groups=2).init(
        jax.random.key(0), jnp.zeros((1, 4, 4, 16), jnp.float32)
    )
    for leaf, reference in (("kernel", theirs.weight), ("bias", theirs.bias)):
        values, reference = variables["params"][leaf], reference.detach().numpy()
        assert abs(values).max() == pytest.approx(abs(reference).max(), rel=0.1)
        assert values.std() == pytest.approx(reference.std(), rel=0.3 if leaf == "bias" else 0.05)


def test_dilated_convolution_equals_torchs():
    ours = layers.Conv(4, 3, dilation=(2, 3), padding=2, **float64)
    assert_same(ours, torch.nn.Conv2d(3, 4, 3, dilation=(2, 3), padding=2), array(2, 9, 9, 3))


def lowered(function, *args, platform: str) -> str:
    """The program for a platform that this machine need not have."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def group_counts(program: str) -> set[int]:
    """The numbers of groups of the convolutions in a program, and 1 if there are any."""
    counts = re.findall(r"(?:feature|batch)_group_count = (\d+)", program)
    return {int(count) for count in counts}


@pytest.mark.parametrize("few_rows", [convolve.FEW_ROWS, 0], ids=["products", "blocks"])
@pytest.mark.parametrize(
    ("groups", "channels", "features", "kernel", "stride", "padding", "dilation"),
    [
        (2, 3, 2, (3, 3), (1, 2), (1, 0), (2, 1)),
        (13, 8, 8, (3, 2), (2, 2), (1, 1), (1, 1)),  # prime: three blocks, not equally wide
        (3, 40, 5, (1, 1), (2, 1), (0, 0), (1, 1)),  # wide enough to be one group per block
        (35, 1, 2, (3, 3), (1, 1), (1, 1), (1, 1)),  # of one channel, but not depthwise
    ],
)
def test_grouped_convolution_and_gradients_on_a_cpu_are_dense(
    groups, channels, features, kernel, stride, padding, dilation, few_rows, monkeypatch
):
    """XLA's gradients of grouped convolutions are loops on a CPU, a hundred times slower."""
    monkeypatch.setattr(convolve, "FEW_ROWS", few_rows)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 9, 8, groups * channels)))
    weights = jnp.asarray(rng.standard_normal((*kernel, channels, groups * features)))

    def ours(x, weights):
        return convolve.convolve(
            x, weights, stride=stride, padding=padding, dilation=dilation, groups=groups
        )

    def plain(x, weights):
        with layers.traced_for("any"):
            return ours(x, weights)

    def output_and_gradients(convolution):
        def loss(x, weights):
            y = convolution(x, weights)
            return jnp.sin(y).sum(), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)

    program = lowered(output_and_gradients(ours), x, weights, platform="cpu")
    assert group_counts(program) == (set() if few_rows else {1})
    # Elsewhere, and where the platform is not known, it is XLA's own.
    others = [lowered(output_and_gradients(ours), x, weights, platform="cuda")]
    others.append(lowered(output_and_gradients(plain), x, weights, platform="cpu"))
    for program in others:
        assert groups in group_counts(program) and program.count("stablehlo.convolution") == 3
        assert "dot_general" not in program

    actual = jax.tree.leaves(jax.jit(output_and_gradients(ours))(x, weights))
    expected = jax.tree.leaves(jax.jit(output_and_gradients(plain))(x, weights))
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14 * max(1, abs(b).max()))


@pytest.mark.parametrize("few_rows", [convolve.FEW_ROWS, 0], ids=["products", "blocks"])
def test_grouped_convolution_in_bfloat16_rounds_once(few_rows, monkeypatch):
    monkeypatch.setattr(convolve, "FEW_ROWS", few_rows)
    x, kernel = (
        jnp.asarray(array(*shape), jnp.bfloat16) for shape in ((2, 9, 9, 24), (3, 3, 8, 6))
    )
    arguments = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 3}
    y = convolve.convolve(x, kernel, **arguments)
    exact = convolve.convolve(*(a.astype(jnp.float64) for a in (x, kernel)), **arguments)
    assert y.dtype == jnp.bfloat16
    # Half a unit in the last of 8 bits, and float32's error where terms cancel.
    np.testing.assert_allclose(y.astype(np.float64), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2)])
def test_depthwise_convolution_of_many_pixels_equals_torchs(kernel, stride):
    """On a CPU the gradient of its kernel sums over parts of the batch, then over pixels."""
    ours = layers.Conv(6, kernel, stride, padding=1, groups=6, **float64)
    theirs = torch.nn.Conv2d(6, 6, kernel, stride, padding=1, groups=6)
    x = array(4, 16, 18, 6)
    assert_same(ours, theirs, x)
    params = ours.init(jax.random.key(0), jnp.asarray(x))["params"]

    def gradient(params):
        return jax.grad(lambda params: ours.apply({"params": params}, x).sum())(params)

    program = lowered(gradient, params, platform="cpu")
    assert "dot_general" in program and "stablehlo.convolution" not in program
    program = lowered(gradient, params, platform="cuda")
    assert "dot_general" not in program and "stablehlo.convolution" in program


def test_depthwise_convolution_has_all_derivatives():
    kernel = jnp.asarray(array(3, 3, 1, 6))
    arguments = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 6}

    def f(x, kernel):
        return jnp.sum(jnp.sin(convolve.convolve(x, kernel, **arguments)))

    x, tangents = jnp.asarray(array(4, 8, 8, 6)), (jnp.ones((4, 8, 8, 6)), 2 * kernel)
    _, forward = jax.jvp(f, (x, kernel), tangents)
    gradients = jax.grad(f, argnums=(0, 1))(x, kernel)
    reverse = sum(jnp.vdot(g, t) for g, t in zip(gradients, tangents, strict=True))
    assert float(forward) == pytest.approx(float(reverse), rel=1e-12)
    _, second = jax.jvp(jax.grad(f, argnums=1), (x, kernel), tangents)
    with layers.traced_for("any"):
        _, expected = jax.jvp(jax.grad(f, argnums=1), (x, kernel), tangents)
    np.testing.assert_allclose(np.asarray(second), np.asarray(expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("kernel", "size", "padding"),
    [((7, 7), (7, 7), (3, 3)), ((5, 5), (2, 9), (2, 2)), ((3, 3), (9, 5), (1, 0))],
    ids=["both", "low", "narrow"],
)
def test_depthwise_kernels_gradient_on_a_gpu_is_of_a_map_larger_than_the_kernel(
    kernel, size, padding
):
    """Of a smaller one XLA makes a forward convolution, up to 30 times slower in cuDNN."""
    x, weights = jnp.asarray(array(4, *size, 6)), jnp.asarray(array(*kernel, 1, 6))
    window = {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 6}

    ours = jax.jit(traced_gradients("cuda", **window))(x, weights)
    for a, b in zip(ours, traced_gradients("any", **window)(x, weights), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-12)
    program = lowered(traced_gradients("cuda", **window), x, weights, platform="cuda")
    result = f"tensor<{kernel[0]}x{kernel[1]}x1x6xf64>"
    (line,) = (line for line in program.splitlines() if line.endswith(f"-> {result}"))
    _, (height, width) = re.findall(r"tensor<4x(\d+)x(\d+)x6xf64>", line)
    assert int(height) > kernel[0] and int(width) > kernel[1]


def output_and_gradients(convolution, x, weights):
    y, vjp = jax.vjp(convolution, x, weights)
    return y, *vjp(jnp.sin(y))


def assert_output_and_gradients_are_torchs(ours, x, weights, **arguments):
    """Torch's, since compiling XLA's own gradient of some tiny convolutions aborts the process.

    Those are of kernels as large as the stride, with an output of one row or column.
    """
    images = nchw(x).requires_grad_()
    kernel = torch.from_numpy(weights.transpose(3, 2, 0, 1)).requires_grad_()
    y = torch.nn.functional.conv2d(images, kernel, **arguments)
    y.backward(y.detach().sin())
    theirs = y.detach().permute(0, 2, 3, 1), images.grad.permute(0, 2, 3, 1)
    for our, their in zip(
        ours(jnp.asarray(x), jnp.asarray(weights)),
        (*theirs, kernel.grad.permute(2, 3, 1, 0)),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(our), their.numpy(), rtol=0, atol=1e-12)


def traced_gradients(platform, **arguments):
    """A function of images and weights: the convolution and its gradients, for a platform."""

    def traced(x, weights):
        with layers.traced_for(platform):
            convolution = functools.partial(convolve.convolve, **arguments)
            return output_and_gradients(convolution, x, weights)

    return traced


@st.composite
def strided_convolutions(draw):
    def both(low: int, high: int):
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    depthwise = draw(st.booleans())
    stride, dilation = both(1, 3), both(1, 2) if depthwise else (1, 1)
    kernel = both(1, 5) if depthwise else tuple(step + draw(st.integers(0, 3)) for step in stride)
    padding = both(0, 3)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    smallest = [max(r - 2 * p, 1) for r, p in zip(reach, padding, strict=True)]
    size = tuple(low + draw(st.integers(0, 6)) for low in smallest)
    return depthwise, size, kernel, stride, padding, dilation


@settings(deadline=None, max_examples=10)
@given(strided_convolutions())
def test_strided_and_depthwise_convolutions_and_gradients_on_a_cpu_equal_torchs(case):
    depthwise, size, kernel, stride, padding, dilation = case
    x, weights = array(4, *size, 6), array(*kernel, 1 if depthwise else 6, 6)
    arguments = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": 6 if depthwise else 1,
    }
    ours = jax.jit(traced_gradients("cpu", **arguments))
    assert_output_and_gradients_are_torchs(ours, x, weights, **arguments)


@pytest.mark.parametrize("groups", [1, 16], ids=["dense", "grouped"])
def test_strided_gradient_on_a_cpu_multiplies_with_no_zeros_between_pixels(groups):
    x = jnp.zeros((16, 32, 32, 64), jnp.float32)
    weights = jnp.zeros((3, 3, 64 // groups, 64), jnp.float32)
    window = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}

    def gradients(x, weights):
        def loss(x, weights):
            return jnp.sin(convolve.convolve(x, weights, **window, groups=groups)).sum()

        return jax.grad(loss, argnums=(0, 1))(x, weights)

    assert "lhs_dilate = [2, 2]" in lowered(gradients, x, weights, platform="cuda")
    assert "lhs_dilate = [2, 2]" not in lowered(gradients, x, weights, platform="cpu")


def test_a_map_is_not_computed_anew_where_a_cpu_transposes_it_for_the_kernels_gradient():
    x, kernel = jnp.zeros((32, 14, 14, 16), jnp.float32), jnp.zeros((3, 3, 16, 16), jnp.float32)
    window = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}

    def loss(x, kernel):
        y = convolve.convolve(jax.nn.relu(x), kernel, **window)
        return jnp.sum(jnp.sin(y))

    with layers.traced_for("cpu"):
        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile().as_text()
    transposing = [part for part in program.split("\n\n") if "f32[16,14,14,32]" in part]
    fused = [part for part in transposing if not part.lstrip().startswith("ENTRY")]
    assert transposing and not any("maximum(" in part for part in fused)


def test_computed_once_is_the_same_with_all_derivatives():
    x = jnp.asarray([-np.inf, -1.0, -0.0, 0.0, 2.5, np.inf, np.nan])
    y, tangent = jax.jvp(dense_convolution.computed_once, (x,), (2 * x,))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(tangent, 2 * x)
    (pulled,) = jax.vjp(dense_convolution.computed_once, x)[1](3 * x)
    np.testing.assert_array_equal(pulled, 3 * x)


def test_gradient_of_a_1x1_kernel_on_a_cpu_transposes_no_map():
    x, weights = jnp.zeros((8, 14, 14, 32)), jnp.zeros((1, 1, 32, 16))
    window = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}

    def gradient(x, weights):
        return jax.grad(lambda w: convolve.convolve(x, w, **window, groups=1).sum())(weights)

    program = lowered(gradient, x, weights, platform="cpu")
    assert "contracting_dims = [0] x [0]" in program  # of rows of pixels
    assert not re.search(r"transpose.*1568|transpose.*8x14x14", program)


@st.composite
def convolutions_of_images(draw):
    def both(low: int, high: int):
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    kernel, stride = both(1, 7), both(2, 4)
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    smallest = [max(k - 2 * p, 1) for k, p in zip(kernel, padding, strict=True)]
    size = tuple(draw(st.integers(low, 20)) for low in smallest)
    return draw(st.integers(1, convolve.IMAGE_CHANNELS)), size, kernel, stride, padding


@settings(deadline=None, max_examples=8)
@given(convolutions_of_images())
def test_convolution_of_images_as_one_of_blocks_equals_torchs(case):
    channels, size, kernel, stride, padding = case
    x, weights = array(2, *size, channels), array(*kernel, channels, 5)
    arguments = {"stride": stride, "padding": padding}
    blocks = functools.partial(dense_convolution.by_blocks_of_pixels, **arguments)
    ours = jax.jit(functools.partial(output_and_gradients, blocks))
    assert_output_and_gradients_are_torchs(ours, x, weights, **arguments)


def test_a_gpu_multiplies_blocks_of_images_in_bfloat16_and_nothing_else():
    def kernels(platform, dtype):
        def network(x):
            for layer in (
                layers.Conv(64, 7, stride=2, padding=3, dtype=dtype),
                layers.Conv(3, 3, stride=2, padding=1, dtype=dtype),
                layers.Conv(8, 1, stride=2, dtype=dtype),
            ):
                x = layer.init_with_output(jax.random.key(0), x)[0]
            return x

        program = lowered(network, jnp.zeros((2, 32, 32, 3), jnp.float32), platform=platform)
        return re.findall(r"stablehlo.convolution.*, tensor<(\w+)xb?f\d+>\)", program)

    plain = ["7x7x3x64", "3x3x64x3", "1x1x3x8"]
    assert kernels("cuda", jnp.bfloat16) == ["4x4x16x64", *plain[1:]]
    assert kernels("cuda", jnp.float32) == kernels("tpu", jnp.bfloat16) == plain


def test_weights_that_are_not_finite_stay_within_their_group():
    kernel = jnp.asarray(array(3, 3, 8, 16)).at[0, 0, 0, 0].set(jnp.nan)
    arguments = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 2}
    y = convolve.convolve(jnp.asarray(array(8, 16, 16, 16)), kernel, **arguments)
    assert np.isnan(y[..., 0]).any()
    assert np.isfinite(y[..., 1:]).all()


def test_depthwise_separable_convolution_is_depthwise_then_1x1():
    ours = layers.DepthwiseSeparableConv(5, 3, stride=2, padding=1, **float64)
    depthwise = torch.nn.Conv2d(3, 3, 3, 2, 1, groups=3)
    layers_by_name = OrderedDict(depthwise=depthwise, pointwise=torch.nn.Conv2d(3, 5, 1))
    assert_same(ours, torch.nn.Sequential(layers_by_name), array(2, 7, 8, 3))


def test_spatially_separable_convolution_is_kx1_then_1xk():
    ours = layers.SpatiallySeparableConv(5, (3, 5), stride=(2, 1), padding=(1, 2), **float64)
    vertical = torch.nn.Conv2d(3, 5, (3, 1), (2, 1), (1, 0))
    horizontal = torch.nn.Conv2d(5, 5, (1, 5), (1, 1), (0, 2))
    layers_by_name = OrderedDict(vertical=vertical, horizontal=horizontal)
    assert_same(ours, torch.nn.Sequential(layers_by_name), array(2, 7, 8, 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # the old names are ours too
@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_weight_normalization_equals_torchs(layer):
    if layer == "conv":
        ours = layers.Conv(4, 3, groups=2, weight_norm=True, **float64)
        theirs = torch.nn.Conv2d(6, 4, 3, groups=2)
        assert_same(ours, torch.nn.utils.weight_norm(theirs), array(2, 5, 5, 6))
    else:
        ours = layers.Linear(4, weight_norm=True, **float64)
        assert_same(ours, torch.nn.utils.weight_norm(torch.nn.Linear(6, 4)), array(3, 6))


def test_weight_normalization_starts_from_the_plain_kernel():
    x = jnp.asarray(array(2, 5, 5, 6))
    params = layers.Conv(4, 3, weight_norm=True).init(jax.random.key(0), x)["params"]
    plain = layers.Conv(4, 3, use_bias=False)
    y = layers.Conv(4, 3, weight_norm=True).apply({"params": params}, x)
    reference = plain.apply({"params": {"kernel": params["kernel_v"]}}, x) + params["bias"]
    np.testing.assert_allclose(y, reference, rtol=1e-6, atol=1e-6)


def kernels(**kwargs):
    model = models.lenet5(**kwargs)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.float32))
    return {name: layer["kernel"] for name, layer in params["params"].items()}


def test_initial_weights_can_be_chosen_for_the_whole_network():
    xavier = kernels(weight_init="xavier_uniform")
    for name, shape in (("conv2", (16, 6, 5, 5)), ("fc1", (120, 400))):
        reference = torch.nn.init.xavier_uniform_(torch.empty(shape))
        assert abs(xavier[name]).max() == pytest.approx(abs(reference).max().item(), rel=0.02)
        assert xavier[name].std() == pytest.approx(reference.std().item(), rel=0.05)
    normal = kernels(weight_init="kaiming_normal")["fc1"]
    assert normal.std() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert abs(normal).max() > 3.5 * normal.std()  # not truncated
    assert all((kernel == 0.25).all() for kernel in kernels(weight_init=0.25).values())
    own = kernels(weight_init=jax.random.normal)
    assert own["fc1"].std() == pytest.approx(1, rel=0.05)


def test_unknown_initialization_raises_with_suggestions():
    with pytest.raises(UserError, match="weight_init='xavier' is unknown; did you mean 'xavier_"):
        kernels(weight_init="xavier")


def test_stochastic_depth_drops_whole_examples_in_training_only():
    x = jnp.asarray(array(4000, 2, 2, 3))
    layer = layers.StochasticDepth(0.2)
    assert (layer.apply({}, x) == x).all()
    y = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    dropped = (y == 0).all(axis=(1, 2, 3))
    assert abs(dropped.mean() - 0.2) < 5 * (0.2 * 0.8 / 4000) ** 0.5
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.8)
    never = layers.StochasticDepth(1.0)
    assert (never.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}) == 0).all()


@settings(deadline=None, max_examples=12)
@given(
    st.tuples(st.integers(3, 9), st.integers(3, 9)),
    st.integers(2, 3),
    st.integers(1, 3),
    st.integers(0, 1),
)
def test_switches_are_torchs_indices(size, kernel, stride, padding):
    # Few values: where maxima are equal the first counts.
    x = np.random.default_rng(0).integers(0, 4, (2, *size, 3)).astype(np.float64)
    arguments = (kernel, stride, padding)
    _, indices = torch.nn.functional.max_pool2d(
        torch.from_numpy(x.transpose(0, 3, 1, 2)), *arguments, return_indices=True
    )
    ours = layers.max_pool_switches(jnp.asarray(x), *arguments)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(ours), -1, 1), indices)
