"""Batch, group, layer, instance and switchable normalization, as torch computes them."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.layers.module import LayerFactory, Module
from jaxcnn.models.layers.platforms import by_platform
from jaxcnn.models.layers.row_sums import repeat_rows, row_sum, sum_rows


class BatchNorm(Module):
    """``torch.nn.BatchNorm2d`` (``SyncBatchNorm`` with ``axis_name``).

    In training it normalizes with the batch's biased variance and tracks the unbiased one,
    ``running = (1 - momentum) * running + momentum * batch``; in evaluation it normalizes with the
    running statistics. Batch statistics are computed in at least float32 and in two passes, so
    that a large mean costs no precision; those of bfloat16 on a GPU in one, around the running
    mean.

    Parameters ``scale`` and ``bias``, statistics ``batch_stats/mean`` and ``batch_stats/var``,
    all ``[C]``. If it is folded (see :class:`~jaxcnn.models.layers.Module`), it has ``bias`` only,
    or ``scale`` and ``bias``.

    Attributes:
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics (torch's convention).
        scale_init: initial ``scale``.

    Raises:
        UserError: in training, if the batch has one value per channel only, or if it is folded.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalize ``[N, ..., C]`` over all axes but the last."""
        if self.folded is not None:
            _check_not_training(self, train)
            return _folded(x, self.param, self._param_dtype, self.dtype, scales="" in self.folded)
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self._param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self._param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, self._param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, self._param_dtype)

        out_dtype = jnp.result_type(x, scale, bias) if self.dtype is None else self.dtype
        if train and not self.is_initializing():
            count = math.prod(x.shape[:-1])
            if self.axis_name is not None:
                count *= lax.axis_size(self.axis_name)
            if count <= 1:
                raise UserError(
                    f"Batch norm {'.'.join(self.path)!r} has one value per channel in training, "
                    f"input {x.shape}; use a larger batch or larger images."
                )
            y, mean, var = self._normalize_by_batch(x, scale, bias, running_mean.value)
            unbiased = var * (count / (count - 1))
            for running, batch in ((running_mean, mean), (running_var, unbiased)):
                updated = (1 - self.momentum) * running.value + self.momentum * batch
                running.value = updated.astype(running.value.dtype)
        else:
            mean, var = running_mean.value, running_var.value
            x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            y = (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias
        return y.astype(out_dtype)

    def _normalize_by_batch(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, running_mean: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The normalized batch, in at least float32, and its mean and biased variance, ``[C]``."""

        def in_one_pass(
            x: jax.Array, scale: jax.Array, bias: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            """By the mean of squares, which XLA sums while it sums the values.

            The nearer the running mean is to the batch's, the more precise it is; where it is
            still 0, this costs less precision than rounding the values to bfloat16 has cost.
            """
            axes = tuple(range(x.ndim - 1))
            shift = lax.stop_gradient(running_mean)
            x = x - shift
            moments = jnp.stack([jnp.mean(x, axes), jnp.mean(jnp.square(x), axes)])
            mean, mean_of_squares = self._over_replicas(moments)
            var = jnp.maximum(mean_of_squares - jnp.square(mean), 0)
            factor = lax.rsqrt(var + self.eps) * scale
            return x * factor + (bias - mean * factor), mean + shift, var

        def by_sums(
            x: jax.Array, scale: jax.Array, bias: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            axes = tuple(range(x.ndim - 1))
            mean = self._over_replicas(jnp.mean(x, axes))
            var = self._over_replicas(jnp.mean(jnp.square(x - mean), axes))
            return (x - mean) * (lax.rsqrt(var + self.eps) * scale) + bias, mean, var

        def by_products(
            x: jax.Array, scale: jax.Array, bias: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            """The same, where each sum over the batch is a product, and those of gradients."""
            count = math.prod(x.shape[:-1])

            def everywhere(values: jax.Array) -> jax.Array:
                return repeat_rows(values.astype(x.dtype), how)

            mean = sum_rows(x, how) / count
            centered = x - everywhere(mean)
            var = sum_rows(jnp.square(centered), how) / count
            factor = lax.rsqrt(var + self.eps) * scale
            return centered * everywhere(factor) + everywhere(bias), mean, var

        gpu = in_one_pass if x.dtype == jnp.bfloat16 else None
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        how = row_sum(x.shape)
        cpu = by_products if how is not None and self.axis_name is None else None
        return by_platform(x, scale, bias, cpu=cpu, gpu=gpu, default=by_sums)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that can be folded.

    Flax's own as well, if it normalizes over all axes but the last.
    """
    flax_norm = type(module) is nn.BatchNorm and module.axis == -1
    return flax_norm or isinstance(module, BatchNorm)


def _folded(
    x: jax.Array,
    param: Callable[..., jax.Array],
    param_dtype: DTypeLike,
    dtype: DTypeLike | None,
    *,
    scales: bool,
) -> jax.Array:
    """What is left of a folded batch norm: ``x + bias``, or ``x * scale + bias``.

    Args:
        x: ``[N, ..., C]``.
        param: creates a parameter from its name, initializer, shape and dtype, or returns it.
        param_dtype: of the parameters.
        dtype: of the output; None: promoted from the input and the parameters.
        scales: whether there is a ``scale``.
    """
    shape = (x.shape[-1],)
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if scales:
        y = y * param("scale", nn.initializers.ones, shape, param_dtype)
    bias = param("bias", nn.initializers.zeros, shape, param_dtype)
    return (y + bias).astype(jnp.result_type(x, bias) if dtype is None else dtype)


def _check_not_training(norm: nn.Module, train: bool) -> None:
    """Refuse to train a folded batch norm."""
    if train:
        raise UserError(
            f"Batch norm {'.'.join(norm.path)!r} is folded, so this network cannot be trained; "
            f"train the network that was given to fold_batch_norm."
        )


class GroupNorm(Module):
    """``torch.nn.GroupNorm``: normalizes each example over groups of channels.

    Wu and He 2018, "Group normalization". Parameters ``scale`` and ``bias``, ``[C]``. With one
    group it normalizes each example over channels, height and width together.

    Attributes:
        num_groups: number of groups; None: the greatest common divisor of 32 and C.
        eps: added to the variance.
        scale_init: initial ``scale``.

    Raises:
        UserError: if C is not divisible by ``num_groups``.
    """

    num_groups: int | None = None
    eps: float = 1e-5
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalize ``[N, ..., C]``."""
        channels = x.shape[-1]
        groups = math.gcd(32, channels) if self.num_groups is None else self.num_groups
        if channels % groups:
            raise UserError(
                f"Group norm {'.'.join(self.path)!r} cannot split {channels} channels into "
                f"{groups} groups; use a num_groups that divides {channels}."
            )
        grouped = x.reshape(x.shape[0], -1, groups, channels // groups)
        y = _standardized(grouped, (1, 3), self.eps).reshape(x.shape)
        return _affine(self, y, x.dtype, self.scale_init)


class LayerNorm(Module):
    """``torch.nn.LayerNorm(C)``: normalizes the channels of each pixel.

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
        """Normalize ``[..., C]`` over its last axis."""
        return _affine(self, _standardized(x, (-1,), self.eps), x.dtype, self.scale_init)


class InstanceNorm(Module):
    """``torch.nn.InstanceNorm2d``: normalizes each channel of each example.

    Ulyanov et al. 2016, "Instance normalization".

    Attributes:
        eps: added to the variance.
        affine: whether there are parameters ``scale`` and ``bias``, ``[C]``.
        scale_init: initial ``scale``.

    Raises:
        UserError: in training, if each channel has one value only.
    """

    eps: float = 1e-5
    affine: bool = False
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalize ``[N, ..., C]``."""
        axes = tuple(range(1, x.ndim - 1))
        if train and math.prod(x.shape[1:-1]) == 1:
            raise UserError(
                f"Instance norm {'.'.join(self.path)!r} has one value per channel in training, "
                f"input {x.shape}; use larger images."
            )
        y = _standardized(x, axes, self.eps)
        if self.affine:
            return _affine(self, y, x.dtype, self.scale_init)
        return y.astype(x.dtype if self.dtype is None else self.dtype)


class SwitchableNorm(Module):
    """Switchable normalization: a learned mixture of instance, layer and batch statistics.

    Luo et al. 2018, "Differentiable learning-to-normalize via switchable normalization",
    equations 3 to 5. Parameters ``scale`` and ``bias``, ``[C]``; ``mean_weight`` and
    ``var_weight``, ``[3]``, whose softmax weights the statistics of instance, layer and batch.
    Batch statistics are tracked in ``batch_stats/mean`` and ``batch_stats/var``, ``[C]``, for
    evaluation.

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
        """Normalize ``[N, ..., C]``."""
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
            """Mean and variance over several instances, from those of each instance."""
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


# Compiled functions, so that a program has their names: jaxcnn.visualize has rules for them.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _standardized(x: jax.Array, axes: tuple[int, ...], eps: float) -> jax.Array:
    """``x`` with mean 0 and variance 1 over some axes, in at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centered = x - jnp.mean(x, axes, keepdims=True)
    return centered * lax.rsqrt(jnp.mean(jnp.square(centered), axes, keepdims=True) + eps)


def _affine(
    module: Module, y: jax.Array, input_dtype: DTypeLike, scale_init: Initializer
) -> jax.Array:
    """``y * scale + bias`` with learned parameters, one value per channel."""
    shape, zeros = (y.shape[-1],), nn.initializers.zeros
    scale = module.param("scale", scale_init, shape, module._param_dtype)
    bias = module.param("bias", zeros, shape, module._param_dtype)
    promoted = jnp.result_type(input_dtype, scale, bias)
    return (y * scale + bias).astype(promoted if module.dtype is None else module.dtype)


# The names that ``norm_layer`` accepts.
NORMS: dict[str, LayerFactory] = {
    "batch": BatchNorm,
    "group": GroupNorm,
    "group1": functools.partial(GroupNorm, 1),
    "instance": functools.partial(InstanceNorm, affine=True),
    "layer": LayerNorm,
    "switchable": SwitchableNorm,
}


def norm_factory(norm_layer: LayerFactory | str) -> LayerFactory:
    """The factory for a network's norms, from its argument ``norm_layer``.

    Args:
        norm_layer: a key of ``NORMS``, or a module class, a partial of one, or a function, called
            as ``norm_layer(name=...)``. The module that it returns is called as
            ``module(x, train)`` if its ``__call__`` has an argument ``train``, with
            ``use_running_average=not train`` if it has that one (``flax.linen.BatchNorm``), and
            with ``x`` only otherwise (Flax's other norms). Flax's norms use the network's
            ``dtype``, ``param_dtype`` and ``axis_name`` unless they are given their own.

    Returns:
        A factory called as ``factory(name=...)``; what it returns is called with ``(x, train)``.

    Raises:
        UserError: for an unknown name, or what is not callable.

    Example::

        models.resnet18(norm_layer=functools.partial(nn.LayerNorm, epsilon=1e-5))
    """
    if isinstance(norm_layer, str):
        if norm_layer not in NORMS:
            raise UserError(f"norm_layer={norm_layer!r} is unknown; {suggest(norm_layer, NORMS)}")
        return NORMS[norm_layer]
    if not callable(norm_layer):
        raise UserError(
            f"norm_layer={norm_layer!r} is neither a name nor a function that creates a norm; use "
            f"one of {', '.join(NORMS)}, or a class such as flax.linen.LayerNorm."
        )
    kind = _module_class(norm_layer)
    if isinstance(norm_layer, _AnyNorm) or (kind is not None and issubclass(kind, Module)):
        return norm_layer
    return _AnyNorm(norm_layer)


@dataclasses.dataclass(frozen=True)
class _AnyNorm:
    """Adapts a factory of any norms, so that its norms are called with ``(x, train)``."""

    factory: LayerFactory

    def __call__(self, **kwargs: Any) -> Callable[[jax.Array, bool], jax.Array]:
        norm = self.factory(**kwargs)
        parameters = inspect.signature(norm.__call__).parameters
        if "train" in parameters:
            return norm
        self._inherit(norm)
        if is_batch_norm(norm) and getattr(norm.parent, "folded", None) is not None:
            return _folded_flax_norm(norm)
        if "use_running_average" in parameters and norm.use_running_average is None:
            return lambda x, train=False: norm(x, use_running_average=not train)
        return lambda x, train=False: norm(x)

    def _inherit(self, norm: nn.Module) -> None:
        """Set what this package's layers inherit from their parent module."""
        if not isinstance(norm, nn.Module) or not isinstance(norm.parent, Module):
            return
        open_fields = [f for f in ("dtype", "axis_name") if getattr(norm, f, "") is None]
        # Flax's param_dtype is never None: it is open if no partial sets it.
        given = getattr(self.factory, "keywords", {})
        if hasattr(norm, "param_dtype") and _module_class(self.factory):
            open_fields += ["param_dtype"] * ("param_dtype" not in given)
        for field in open_fields:
            value = getattr(norm.parent, field)
            if value is not None:
                object.__setattr__(norm, field, value)


def _folded_flax_norm(norm: nn.BatchNorm) -> Callable[[jax.Array, bool], jax.Array]:
    """What is called instead of Flax's batch norm if it is folded."""

    def call(x: jax.Array, train: bool = False) -> jax.Array:
        _check_not_training(norm, train)
        scales = norm.name in norm.parent.folded
        return _folded(x, norm.scope.param, norm.param_dtype, norm.dtype, scales=scales)

    return call


def _module_class(factory: LayerFactory) -> type | None:
    """The class of a factory's modules if the factory is a class or a partial of one, else None."""
    kind = factory.func if isinstance(factory, functools.partial) else factory
    return kind if isinstance(kind, type) else None


@functools.partial(jax.jit, static_argnames=("size", "alpha", "beta", "k"))
def local_response_norm(
    x: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """``torch.nn.functional.local_response_norm`` over the channels of ``[N, H, W, C]``.

    Krizhevsky et al. 2012, section 3.3; unlike there, and as in torch, ``alpha`` is divided by
    ``size``.
    """
    window, pads = (1, 1, 1, size), ((0, 0),) * 3 + ((size // 2, (size - 1) // 2),)
    zero = np.zeros((), x.dtype)
    sums = lax.reduce_window(jnp.square(x), zero, lax.add, window, (1,) * 4, pads)
    return x / (k + alpha / size * sums) ** beta
