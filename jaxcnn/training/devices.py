"""Arrays on the local devices, as pmapped functions take and return them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcnn.models.layers import traced_for
from jaxcnn.training.step import AXIS


def _sharding() -> NamedSharding:
    """That of what a pmapped function returns: another one would be compiled for once more."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))


def split(tree: Any) -> Any:
    """Split each array's first axis over the local devices, ``[devices, N / devices, ...]``."""
    sharding, devices = _sharding(), jax.local_device_count()
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf.reshape(devices, -1, *leaf.shape[1:]), sharding), tree
    )


def pmap(step: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """A step of :mod:`jaxcnn.training.step` on all devices; see ``jax.pmap``."""

    @functools.wraps(step)
    def on_each(*args: Any) -> Any:
        with traced_for(jax.local_devices()[0].platform):
            return step(*args, axis_name=AXIS)

    return jax.pmap(on_each, axis_name=AXIS, **kwargs)


def join(tree: Any) -> Any:
    """The local devices' parts of each array, one after another, on the host: undoes :func:`split`.

    ``[devices, N / devices, ...]`` becomes ``[N, ...]``; of this host's devices only.
    """

    def joined(leaf: jax.Array) -> np.ndarray:
        shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data)[0] for shard in shards])

    return jax.tree.map(joined, tree)


def replicate(tree: Any) -> Any:
    """Copy each array to every local device, ``[devices, ...]``."""
    sharding, devices = _sharding(), jax.local_device_count()

    def copies(leaf: Any) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(
            (devices, *host.shape), sharding, lambda index: host[None]
        )

    return jax.tree.map(copies, tree)


def unreplicate(tree: Any) -> Any:
    """The first copy of each replicated array, on the host; maybe a view of the device's memory."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0))[0], tree)
