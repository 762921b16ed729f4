"""The feature maps of a network: which there are, and how they are taken from it."""

import contextlib
import functools
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxcnn.errors import UserError
from jaxcnn.models.layers import traced_for

if TYPE_CHECKING:
    from jaxcnn.models.classifier import Classifier

__all__ = ["FeatureInfo"]

# Images so large that their size, divided by a map's, is the map's stride to within a half:
# without padding a map has a few units less.
_LARGE = 2**14


class FeatureInfo(NamedTuple):
    """What a feature map is.

    Attributes:
        name: dotted path of the layer that outputs it.
        channels: their number.
        reduction: its stride: how many pixels of the image there are per unit, in height and in
            width.
    """

    name: str
    channels: int
    reduction: int


@functools.lru_cache(maxsize=256)
def feature_info(model: "Classifier") -> tuple[FeatureInfo, ...]:
    """Describe the feature maps of a network with ``out_indices``, without running it."""
    # Random initial weights take longer to trace than the network.
    model = model.clone(parent=None, name=None, axis_name=None, weight_init=0.0)
    images = jax.ShapeDtypeStruct((1, _LARGE, _LARGE, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with traced_for("any"):
        maps, _ = jax.eval_shape(model.init_with_output, key, images)
    return tuple(
        FeatureInfo(model.feature_layers[index], map_.shape[-1], round(_LARGE / map_.shape[1]))
        for index, map_ in zip(model.out_indices, maps, strict=True)
    )


class _AllSeen(Exception):
    """The last of the wanted layers has run."""


def outputs_of(module: nn.Module, layers: Sequence[str], run: Callable[[], Any]) -> list[Any]:
    """Run a network until certain layers have run.

    What would run after the last of them does not, so it has no parameters either.

    Args:
        module: the network, within whose method this is called.
        layers: dotted paths, seen from the module.
        run: runs the network; its result is ignored.

    Returns:
        The outputs of the layers.
    """
    paths = [(*module.path, *layer.split(".")) for layer in layers]
    seen: dict[tuple[str, ...], Any] = {}

    def intercept(
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        output = function(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path in paths:
            seen[context.module.path] = output
            if len(seen) == len(set(paths)):
                raise _AllSeen
        return output

    with contextlib.suppress(_AllSeen), nn.intercept_methods(intercept):
        run()
    return [seen[path] for path in paths]


def checked_out_indices(value: Any, count: int) -> tuple[int, ...]:
    """The indices of feature maps, none of them negative.

    Args:
        value: the indices; negative ones count from the last map.
        count: number of feature maps of the network.

    Raises:
        UserError: if they are not integers, or there is no such map.
    """
    try:
        indices = tuple(operator.index(index) for index in value)
    except TypeError:
        indices = ()
    if not indices or not all(-count <= index < count for index in indices):
        raise UserError(
            f"out_indices={value!r} are not indices of the {count} feature maps of this network; "
            f"use some of 0 to {count - 1}, or of -1 to -{count} from the last."
        )
    return tuple(index % count for index in indices)
