"""Torch's layers in Flax, where Flax's own differ.

Images are ``[N, H, W, C]``; kernels are ``[H, W, in / groups, out]`` and ``[in, out]``.
Arguments have torch's names and meanings (``padding`` is symmetric and explicit), parameters
have Flax's (``kernel``, ``scale``, ``bias``; batch statistics ``mean`` and ``var``), children
torchvision's, digits included: so one rule converts every state dict (see
:mod:`jaxcnn.convert`).

Every layer is called as ``layer(x, train)``, whether or not training changes what it does: so
:class:`Sequential` and ``norm_layer`` need no special cases.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxcnn.errors import UserError

Size = int | tuple[int, int]
LayerFactory = Callable[..., nn.Module]

# Pixels of an output map up to which a convolution on a CPU is a product of patches.
SMALL_MAP = 4

# torch's default for convolutions and linear layers: kaiming_uniform_(a=sqrt(5)), which is
# uniform within 1 / sqrt(fan_in).
torch_default_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")
kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Module(nn.Module, kw_only=True):
    """A Flax module that takes its dtypes from the module around it unless given its own.

    So a model says ``dtype`` once and its layers need not pass it down.

    Attributes:
        dtype: dtype of the computation; None: promoted from the input and the parameters.
        param_dtype: dtype of the parameters and batch statistics; None: float32.
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        """Registers the module with its parent and inherits the parent's dtypes."""
        super().__post_init__()
        if isinstance(self.parent, Module):
            for field in ("dtype", "param_dtype"):
                if getattr(self, field) is None:
                    object.__setattr__(self, field, getattr(self.parent, field))

    @property
    def _param_dtype(self) -> DTypeLike:
        return jnp.float32 if self.param_dtype is None else self.param_dtype


class Classifier(Module, kw_only=True):
    """What every network in :mod:`jaxcnn.models` is: images in, logits out.

    Attributes:
        num_classes: length of the logits.
        input_size: height and width of the images that the network was made for.
        stem: dotted path of the layer that first sees the image; its kernel tells the number
            of input channels.
    """

    stem: ClassVar[str]

    num_classes: int = 1000
    input_size: int = 224
    param_dtype: DTypeLike | None = jnp.float32

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        """Gives logits ``[N, num_classes]`` for images ``[N, H, W, C]``."""
        raise NotImplementedError


def _pair(value: Size) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _uniform_bias(fan_in: int) -> Initializer:
    """Biases as torch begins them: uniform within 1 / sqrt(fan_in) of the kernel."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(Module):
    """``torch.nn.Conv2d``, and the one home of every convolution in the package.

    Parameters: ``kernel`` ``[kh, kw, in / groups, features]``, ``bias`` ``[features]``.
    The initial values are torch's own unless given.

    Raises:
        UserError: for an input that is not ``[N, H, W, C]``, or whose channels ``groups`` does
            not divide, or that is smaller than the kernel.
    """

    features: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    dilation: Size = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = torch_default_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolves ``[N, H, W, C]`` to ``[N, H', W', features]``."""
        if x.ndim != 4:
            raise UserError(f"Images must be [N, H, W, C], but these have the shape {x.shape}.")
        channels = x.shape[-1]
        if channels % self.groups or self.features % self.groups:
            raise UserError(
                f"Layer {'.'.join(self.path)!r} cannot split {channels} input and {self.features} "
                f"output channels into {self.groups} groups; choose groups that divide both."
            )
        kernel_shape = (*_pair(self.kernel_size), channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, self._param_dtype)
        bias = None
        if self.use_bias:
            bias_init = self.bias_init or _uniform_bias(math.prod(kernel_shape[:3]))
            bias = self.param("bias", bias_init, (self.features,), self._param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        where = ".".join(self.path)
        window = [d * (k - 1) + 1 for d, k in zip(_pair(self.dilation), kernel.shape, strict=False)]
        _check_window(x, window, _pair(self.padding), repr(where))
        y = convolve(
            x,
            kernel,
            stride=_pair(self.stride),
            padding=_pair(self.padding),
            dilation=_pair(self.dilation),
            groups=self.groups,
        )
        return y if bias is None else y + bias


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """Convolves ``[N, H, W, C]`` with ``[kh, kw, C / groups, features]``, as torch does.

    XLA's convolution on a CPU is 7 to 20 times slower than a matrix product where the output
    map has a few pixels only, and up to twice as slow where the kernel has one
    (``benchmarks/convolution.py``), so these are matrix products of the image's patches there.
    """
    height, width = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            x.shape[1:3], kernel.shape[:2], stride, padding, dilation, strict=True
        )
    )
    single = kernel.shape[:2] == (1, 1) and padding == (0, 0)
    if groups == 1 and jax.default_backend() == "cpu" and (single or height * width <= SMALL_MAP):
        x = jnp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
        patches = [
            x[:, top : top + (height - 1) * stride[0] + 1 : stride[0]][
                :, :, left : left + (width - 1) * stride[1] + 1 : stride[1]
            ]
            for top in range(0, kernel.shape[0] * dilation[0], dilation[0])
            for left in range(0, kernel.shape[1] * dilation[1], dilation[1])
        ]
        return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=[(p, p) for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


class Linear(Module):
    """``torch.nn.Linear``: ``kernel`` ``[in, features]``, ``bias`` ``[features]``."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = torch_default_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[..., in]`` to ``[..., features]``."""
        fan_in = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (fan_in, self.features), self._param_dtype)
        bias = None
        if self.use_bias:
            bias_init = self.bias_init or _uniform_bias(fan_in)
            bias = self.param("bias", bias_init, (self.features,), self._param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = x @ kernel
        return y if bias is None else y + bias


class BatchNorm(Module):
    """``torch.nn.BatchNorm2d`` (``SyncBatchNorm`` with ``axis_name``).

    In training it normalises with the batch's biased variance and tracks the unbiased one,
    ``running = (1 - momentum) * running + momentum * batch``; otherwise it normalises with what
    it tracked. Statistics are computed in at least float32 and in two passes, so that a large
    mean costs no digits.

    Parameters ``scale`` and ``bias``, statistics ``batch_stats/mean`` and ``batch_stats/var``,
    all ``[C]``.

    Attributes:
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics (torch's convention).
        axis_name: mapped axis over which training statistics are those of all replicas;
            None: each replica normalises with its own batch, as DistributedDataParallel does.
        scale_init: initial ``scale``.

    Raises:
        UserError: in training, when a channel has a single value to take statistics of.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    axis_name: str | None = None
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises ``[N, ..., C]`` over all axes but the last."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self._param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self._param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self._param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self._param_dtype)

        out_dtype = jnp.result_type(x, scale, bias) if self.dtype is None else self.dtype
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train and not self.is_initializing():
            axes = tuple(range(x.ndim - 1))
            count = math.prod(x.shape[:-1])
            average = lambda value: value  # noqa: E731
            if self.axis_name is not None:
                average = functools.partial(lax.pmean, axis_name=self.axis_name)
                count *= lax.axis_size(self.axis_name)
            if count <= 1:
                raise UserError(
                    f"Batch norm {'.'.join(self.path)!r} sees one value per channel in training, "
                    f"input {x.shape}; use a larger batch or larger images."
                )
            mean = average(jnp.mean(x, axes))
            var = average(jnp.mean(jnp.square(x - mean), axes))
            unbiased = var * (count / (count - 1))
            for running, batch in ((running_mean, mean), (running_var, unbiased)):
                updated = (1 - self.momentum) * running.value + self.momentum * batch
                running.value = updated.astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        y = (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias
        return y.astype(out_dtype)


class Dropout(Module):
    """``torch.nn.Dropout``: in training each value is zero with probability ``rate``.

    The others are scaled by ``1 / (1 - rate)``. Draws from the rng stream ``"dropout"``.
    """

    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Drops values of an array of any shape."""
        return nn.Dropout(self.rate, deterministic=not train)(x)


class Lambda(Module):
    """A function as a layer, so that its output can be captured under its name."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Applies the function."""
        return self.function(x)


class Sequential(Module):
    """``torch.nn.Sequential``: layers one after another, named "0", "1", ...

    Attributes:
        layers: factories, each called as ``factory(name=...)``: module classes, partials of
            them, or functions; what they give is called as ``layer(x, train)``.

    Example::

        relu = partial(Lambda, nn.relu)
        Sequential((partial(Conv, 64, 3, padding=1), BatchNorm, relu), name="features")
    """

    layers: Sequence[LayerFactory]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Applies the layers in turn."""
        for index, layer in enumerate(self.layers):
            x = layer(name=str(index))(x, train)
        return x


def _check_window(
    x: jax.Array, window: Sequence[int], padding: tuple[int, int], where: str
) -> None:
    sizes = zip(x.shape[1:3], window, padding, strict=True)
    if any(size + 2 * p < w for size, w, p in sizes):
        raise UserError(
            f"The images are too small for this network: layer {where} has a window of "
            f"{window[0]}x{window[1]} pixels and gets a map of {x.shape[1]}x{x.shape[2]}."
        )


def _pool(
    x: jax.Array,
    init: float,
    operation: Callable[..., jax.Array],
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
) -> jax.Array:
    """Reduces windows of height and width."""
    window = _pair(kernel_size)
    strides = window if stride is None else _pair(stride)
    _check_window(x, window, _pair(padding), "pooling")
    pads = []
    for size, k, s, p in zip(x.shape[1:3], window, strides, _pair(padding), strict=True):
        extra = 0
        if ceil_mode:
            out = -(-(size + 2 * p - k) // s) + 1
            if (out - 1) * s >= size + p:  # a window must begin inside the image or its left pad
                out -= 1
            extra = max(0, (out - 1) * s + k - (size + 2 * p))
        pads.append((p, p + extra))
    return lax.reduce_window(
        x,
        np.asarray(init, x.dtype),  # concrete: XLA knows the gradient of a known reduction only
        operation,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *pads, (0, 0)),
    )


def max_pool(
    x: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
) -> jax.Array:
    """``torch.nn.functional.max_pool2d`` of ``[N, H, W, C]``; ``stride`` None: the kernel's."""
    return _pool(x, -jnp.inf, lax.max, kernel_size, stride, padding, ceil_mode)


def avg_pool(
    x: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """``torch.nn.functional.avg_pool2d`` of ``[N, H, W, C]``; ``stride`` None: the kernel's.

    The zeros of ``padding`` count in the mean unless ``count_include_pad`` is False; what
    ``ceil_mode`` adds beyond them never does.
    """
    total = _pool(x, 0.0, lax.add, kernel_size, stride, padding, ceil_mode)
    height, width = _pair(padding)
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    if count_include_pad:
        pads = ((0, 0), (height, height), (width, width), (0, 0))
        ones = jnp.pad(ones, pads, constant_values=1)
        pads_left = (0, 0)
    else:
        pads_left = (height, width)
    count = _pool(ones, 0.0, lax.add, kernel_size, stride, pads_left, ceil_mode)
    return total / count[:, : total.shape[1], : total.shape[2]]


def adaptive_avg_pool(x: jax.Array, output_size: Size) -> jax.Array:
    """``torch.nn.functional.adaptive_avg_pool2d`` of ``[N, H, W, C]``, for any input size.

    Output cell i averages the rows from ``floor(i * H / out)`` to ``ceil((i + 1) * H / out)``.
    """
    out_height, out_width = _pair(output_size)
    if (out_height, out_width) == (1, 1):
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows = jnp.asarray(_averaging_matrix(x.shape[1], out_height), dtype)
    columns = jnp.asarray(_averaging_matrix(x.shape[2], out_width), dtype)
    precision = lax.Precision.HIGHEST
    y = jnp.einsum("ih,nhwc,jw->nijc", rows, x.astype(dtype), columns, precision=precision)
    return y.astype(x.dtype)


def _averaging_matrix(size: int, out: int) -> np.ndarray:
    matrix = np.zeros((out, size))
    for i in range(out):
        start, end = i * size // out, -(-(i + 1) * size // out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def local_response_norm(
    x: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """``torch.nn.functional.local_response_norm`` over the channels of ``[N, H, W, C]``.

    Krizhevsky et al. 2012, section 3.3, but, as in torch, ``alpha`` is divided by ``size``.
    """
    window, pads = (1, 1, 1, size), ((0, 0),) * 3 + ((size // 2, (size - 1) // 2),)
    zero = np.zeros((), x.dtype)
    sums = lax.reduce_window(jnp.square(x), zero, lax.add, window, (1,) * 4, pads)
    return x / (k + alpha / size * sums) ** beta


def flatten(x: jax.Array) -> jax.Array:
    """Flattens ``[N, H, W, C]`` to ``[N, C * H * W]``, in torch's order."""
    return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
