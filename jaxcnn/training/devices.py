"""Arrays on the local devices, as pmapped functions take and return them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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
