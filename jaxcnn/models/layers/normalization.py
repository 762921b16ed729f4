"""Normalisation as torch does it, over batches, groups, layers, instances, or a mixture."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxcnn.errors import UserError
from jaxcnn.models.layers.module import LayerFactory, Module


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
        scale_init: initial ``scale``.

    Raises:
        UserError: in training, when a channel has a single value to take statistics of.
    """

    eps: float = 1e-5
    momentum: float = 0.1
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
            if self.axis_name is not None:
                count *= lax.axis_size(self.axis_name)
            if count <= 1:
                raise UserError(
                    f"Batch norm {'.'.join(self.path)!r} sees one value per channel in training, "
                    f"input {x.shape}; use a larger batch or larger images."
                )
            mean = self._over_replicas(jnp.mean(x, axes))
            var = self._over_replicas(jnp.mean(jnp.square(x - mean), axes))
            unbiased = var * (count / (count - 1))
            for running, batch in ((running_mean, mean), (running_var, unbiased)):
                updated = (1 - self.momentum) * running.value + self.momentum * batch
                running.value = updated.astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
        y = (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias
        return y.astype(out_dtype)


class GroupNorm(Module):
    """``torch.nn.GroupNorm``: normalises each example over groups of channels.

    Wu and He 2018, "Group normalization". Parameters ``scale`` and ``bias``, ``[C]``. One group
    is layer normalisation over channels, height and width.

    Attributes:
        num_groups: how many groups; None: 32, or the largest divisor that 32 and C share.
        eps: added to the variance.
        scale_init: initial ``scale``.

    Raises:
        UserError: if ``num_groups`` does not divide the channels.
    """

    num_groups: int | None = None
    eps: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises ``[N, ..., C]``."""
        channels = x.shape[-1]
        groups = math.gcd(32, channels) if self.num_groups is None else self.num_groups
        if channels % groups:
            raise UserError(
                f"Group norm {'.'.join(self.path)!r} cannot split {channels} channels into "
                f"{groups} groups; choose num_groups that divides them."
            )
        grouped = x.reshape(x.shape[0], -1, groups, channels // groups)
        y = _standardized(grouped, (1, 3), self.eps).reshape(x.shape)
        return _affine(self, y, x.dtype, self.scale_init)


class LayerNorm(Module):
    """``torch.nn.LayerNorm(C)``: normalises the channels of each pixel.

    Ba et al. 2016, "Layer normalization"; ``LayerNorm2d`` of torchvision's ConvNeXt. Parameters
    ``scale`` and ``bias``, ``[C]``.

    Attributes:
        eps: added to the variance.
        scale_init: initial ``scale``.
    """

    eps: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises ``[..., C]`` over its last axis."""
        return _affine(self, _standardized(x, (-1,), self.eps), x.dtype, self.scale_init)


class InstanceNorm(Module):
    """``torch.nn.InstanceNorm2d``: normalises each channel of each example.

    Ulyanov et al. 2016, "Instance normalization".

    Attributes:
        eps: added to the variance.
        affine: whether ``scale`` and ``bias``, ``[C]``, follow.
        scale_init: initial ``scale``.

    Raises:
        UserError: in training, when a channel has a single value.
    """

    eps: float = 1e-5
    affine: bool = False
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises ``[N, ..., C]``."""
        axes = tuple(range(1, x.ndim - 1))
        if train and math.prod(x.shape[1:-1]) == 1:
            raise UserError(
                f"Instance norm {'.'.join(self.path)!r} sees one value per channel in training, "
                f"input {x.shape}; use larger images."
            )
        y = _standardized(x, axes, self.eps)
        if self.affine:
            return _affine(self, y, x.dtype, self.scale_init)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


class SwitchableNorm(Module):
    """Switchable normalisation: a learned mixture of instance, layer and batch statistics.

    Luo et al. 2018, "Differentiable learning-to-normalize via switchable normalization",
    equations 3 to 5. Parameters ``scale`` and ``bias``, ``[C]``; ``mean_weight`` and
    ``var_weight``, ``[3]``, whose softmax weighs the statistics of instance, layer and batch.
    Statistics of the batch are tracked in ``batch_stats/mean`` and ``batch_stats/var``, ``[C]``,
    for evaluation.

    Attributes:
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics (torch's convention).
        scale_init: initial ``scale``.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalises ``[N, ..., C]``."""
        shape, ones = (x.shape[-1],), nn.initializers.ones
        mean_weight = jax.nn.softmax(self.param("mean_weight", ones, (3,), self._param_dtype))
        var_weight = jax.nn.softmax(self.param("var_weight", ones, (3,), self._param_dtype))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self._param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self._param_dtype)

        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        space, channel = tuple(range(1, x.ndim - 1)), -1
        mean_in = jnp.mean(wide, space, keepdims=True)
        var_in = jnp.mean(jnp.square(wide - mean_in), space, keepdims=True)

        def pooled(
            axis: int, average: Callable[[jax.Array], jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            """Statistics over more than an instance, from those of the instances."""
            mean = average(jnp.mean(mean_in, axis, keepdims=True))
            squares = var_in + jnp.square(mean_in - mean)
            return mean, average(jnp.mean(squares, axis, keepdims=True))

        mean_ln, var_ln = pooled(channel, lambda value: value)
        if train and not self.is_initializing():
            mean_bn, var_bn = pooled(0, self._over_replicas)
            for running, batch in ((running_mean, mean_bn), (running_var, var_bn)):
                updated = (1 - self.momentum) * running.value + self.momentum * batch.reshape(shape)
                running.value = updated.astype(running.value.dtype)
        else:
            mean_bn, var_bn = running_mean.value, running_var.value
        mean = mean_weight[0] * mean_in + mean_weight[1] * mean_ln + mean_weight[2] * mean_bn
        var = var_weight[0] * var_in + var_weight[1] * var_ln + var_weight[2] * var_bn
        y = (wide - mean) * lax.rsqrt(var + self.eps)
        return _affine(self, y, x.dtype, self.scale_init)


def _standardized(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    """``x`` with mean 0 and variance 1 over some axes, in at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(jnp.square(centred), axes, keepdims=True) + eps)


def _affine(
    module: Module, y: jax.Array, input_dtype: DTypeLike, scale_init: Initializer
) -> jax.Array:
    """``y`` times a learned scale, plus a learned bias, a channel each."""
    shape, zeros = (y.shape[-1],), nn.initializers.zeros
    scale = module.param("scale", scale_init, shape, module._param_dtype)
    bias = module.param("bias", zeros, shape, module._param_dtype)
    promoted = jnp.result_type(input_dtype, scale, bias)
    return (y * scale + bias).astype(promoted if module.dtype is None else module.dtype)


# What ``norm_layer`` may say by name.
NORMS: dict[str, LayerFactory] = {
    "batch": BatchNorm,
    "group": GroupNorm,
    "instance": functools.partial(InstanceNorm, affine=True),
    "layer": functools.partial(GroupNorm, 1),
    "switchable": SwitchableNorm,
}


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
