"""The base classes of layers and networks, whose modules inherit dtypes from their parents."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxcnn.errors import UserError, suggest

LayerFactory = Callable[..., nn.Module]

# Initial weights by name, with the distributions of torch.nn.init. (Flax's normal initializers of
# these names are truncated.)
_scaled = nn.initializers.variance_scaling
INITIALIZERS: dict[str, Initializer] = {
    "xavier_uniform": _scaled(1.0, "fan_avg", "uniform"),
    "xavier_normal": _scaled(1.0, "fan_avg", "normal"),
    "kaiming_uniform": _scaled(2.0, "fan_in", "uniform"),
    "kaiming_normal": _scaled(2.0, "fan_in", "normal"),
}


class Module(nn.Module, kw_only=True):
    """A Flax module that inherits these fields from its parent module unless given its own.

    So ``dtype`` is set once, on the model, and need not be passed down.

    Attributes:
        dtype: dtype of the computation; None: promoted from the input and the parameters.
        param_dtype: dtype of the parameters and batch statistics; None: float32.
        weight_init: initial kernels of all convolutions and dense layers, in place of each layer's
            own: a Flax initializer, a key of ``INITIALIZERS`` (``"xavier_uniform"``, ...) or a
            number (constant: filters that start equal get equal gradients and stay equal); None:
            each layer's own.
        axis_name: mapped axis over which batch norms compute the statistics in training, over all
            replicas, as SyncBatchNorm; None: each replica normalizes with its own batch, as with
            DistributedDataParallel.
        folded: None: batch norms normalize. Otherwise they were folded into the weights (see
            :func:`jaxcnn.convert.fold_batch_norm`): they only add a bias, and those at these
            dotted paths, seen from this module, multiply by a scale before.
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike | None = None
    weight_init: Initializer | str | float | None = None
    axis_name: str | None = None
    folded: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Register the module with its parent and inherit the parent's fields."""
        super().__post_init__()
        if isinstance(self.parent, Module):
            for field in ("dtype", "param_dtype", "weight_init", "axis_name"):
                if getattr(self, field) is None:
                    object.__setattr__(self, field, getattr(self.parent, field))
            # Flax calls this again when a module that was created in setup() gets its name.
            if self.folded is None and self.parent.folded is not None and self.name is not None:
                object.__setattr__(self, "folded", _paths_within(self.name, self.parent.folded))

    @property
    def _param_dtype(self) -> DTypeLike:
        return jnp.float32 if self.param_dtype is None else self.param_dtype

    def _over_replicas(self, value: jax.Array) -> jax.Array:
        """The mean over all replicas if batch statistics are synchronized."""
        return value if self.axis_name is None else lax.pmean(value, self.axis_name)

    def _kernel(
        self, init: Initializer, shape: tuple[int, ...], weight_norm: bool = False
    ) -> jax.Array:
        """The parameter ``kernel``, or with ``weight_norm`` the product of its two factors.

        As in ``torch.nn.utils.weight_norm`` (Salimans and Kingma 2016), each output channel's
        kernel is ``kernel_v``, divided by its length, times ``kernel_g``.
        """
        init = _initializer(self.weight_init) or init
        if not weight_norm:
            return self.param("kernel", init, shape, self._param_dtype)
        v = self.param("kernel_v", init, shape, self._param_dtype)
        g = self.param("kernel_g", lambda _: _lengths(v))
        return v * (g / _lengths(v))


def _paths_within(name: str, paths: Sequence[str]) -> tuple[str, ...]:
    """The dotted paths that are within a child, seen from it; the path of itself is ""."""
    prefix = f"{name}."
    return tuple(p.removeprefix(name)[1:] for p in paths if f"{p}.".startswith(prefix))


def _lengths(v: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(v), axis=range(v.ndim - 1), keepdims=True))


def _initializer(weight_init: Initializer | str | float | None) -> Initializer | None:
    if isinstance(weight_init, str):
        if weight_init not in INITIALIZERS:
            raise UserError(
                f"weight_init={weight_init!r} is unknown; {suggest(weight_init, INITIALIZERS)}"
            )
        return INITIALIZERS[weight_init]
    if isinstance(weight_init, (int, float)):
        return nn.initializers.constant(weight_init)
    return weight_init


class Lambda(Module):
    """A function as a layer, so that its output can be captured by name."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Apply the function."""
        return self.function(x)


class Sequential(Module):
    """``torch.nn.Sequential``: layers one after another, named "0", "1", ...

    Attributes:
        layers: factories, each called as ``factory(name=...)``: module classes, partials of
            them, or functions; what they return is called as ``layer(x, train)``.

    Example::

        relu = partial(Lambda, nn.relu)
        Sequential((partial(Conv, 64, 3, padding=1), BatchNorm, relu), name="features")
    """

    layers: Sequence[LayerFactory]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Apply the layers in order."""
        for index, layer in enumerate(self.layers):
            x = layer(name=str(index))(x, train)
        return x


class ImageTooSmall(UserError):
    """A feature map is smaller than the window of a layer."""


def check_window(
    x: jax.Array,
    window: Sequence[int],
    padding: tuple[int, int],
    layer: str,
    overhang: tuple[int, int] = (0, 0),
) -> None:
    """Check that a window fits into ``[N, H, W, C]`` at least once.

    Args:
        x: the input of the layer.
        window: height and width of the window, in pixels.
        padding: of height and width, on each side.
        layer: what to call the layer in the message.
        overhang: how many pixels of the window may be beyond the padding.

    Raises:
        ImageTooSmall: if it does not fit.
    """
    sizes = zip(x.shape[1:3], window, padding, overhang, strict=True)
    if any(size + 2 * p + over < w for size, w, p, over in sizes):
        raise ImageTooSmall(
            f"the input of {layer}, {x.shape[1]}x{x.shape[2]}, is smaller than its window of "
            f"{window[0]}x{window[1]}"
        )


def flatten(x: jax.Array) -> jax.Array:
    """Flatten ``[N, H, W, C]`` to ``[N, C * H * W]``, in torch's order."""
    return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)
