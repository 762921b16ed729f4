"""Whether the replicas still agree: the same state, bit for bit, on every device.

They start with copies and take the same updates, so a difference is a fault: of a device, its
memory or a link ("silent data corruption"), or of a computation that is not deterministic. Nothing
in training would notice, for gradients are averaged over the replicas all the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.errors import UserError
from jaxcnn.training import distributed
from jaxcnn.training.devices import pmap, split, unreplicate

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # by bytes of an element


def checksum(array: jax.Array) -> jax.Array:
    """A checksum of an array's bits, uint32, which any single changed bit changes.

    The sum of its words, each times an odd number of its own, modulo 2**32.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
    words = words.ravel().astype(jnp.uint32)
    return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)


def _gather(state: Any, device: jax.Array, *, axis_name: str) -> tuple[jax.Array, jax.Array]:
    """The checksums of all replicas' arrays, ``[replicas, arrays]``, and their devices' numbers."""
    sums = jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(state)])
    return lax.all_gather((sums, device), axis_name)


_gather_on_all = pmap(_gather)


def check_replicas(state: Any, step: int) -> None:
    """Check that all devices have the same state; every process must call this.

    Args:
        state: replicated (:func:`jaxcnn.training.devices.replicate`); any tree of arrays.
        step: the number of steps taken so far.

    Raises:
        UserError: on all processes, if they do not; it names the devices that differ from most.
    """
    if jax.device_count() == 1:
        return
    numbers = split(np.array([device.id for device in jax.local_devices()], np.int32))
    sums, numbers = unreplicate(_gather_on_all(state, numbers))
    if (sums == sums[0]).all():
        return
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    drifted = [name for name, column in zip(names, sums.T, strict=True) if len(set(column)) > 1]
    devices = {device.id: device for device in jax.devices()}
    replicas = [_describe(devices[number]) for number in numbers.ravel().tolist()]
    raise UserError(
        f"By step {step} {_difference(sums, replicas)} in {len(drifted)} of {len(names)} arrays, "
        f"among them {drifted[0]}: likely silent data corruption of a device or its memory. This "
        f"state is not saved. Test or replace the device, and start the same command again: it "
        f"resumes from the last checkpoint, which was saved when all replicas were equal. "
        f"config.check_replicas_every=0 turns this check off."
    )


def _describe(device: jax.Device) -> str:
    name = f"{device.platform}:{device.id}"
    if distributed.is_single_process():
        return name
    return f"{name} of process {device.process_index}"


def _difference(sums: np.ndarray, replicas: list[str]) -> str:
    """Which replicas differ, in words; those that do not equal most others, if most are equal."""
    kinds: dict[bytes, list[str]] = {}
    for row, replica in zip(sums, replicas, strict=True):
        kinds.setdefault(row.tobytes(), []).append(replica)
    groups = sorted(kinds.values(), key=len)
    if 2 * len(groups[-1]) > len(replicas):
        others = [replica for group in groups[:-1] for replica in group]
        verb = "differs" if len(others) == 1 else "differ"
        return f"{_joined(others)} {verb} from the other {len(groups[-1])} devices"
    return f"the devices {' and '.join(_joined(group) for group in groups)} differ"


def _joined(names: list[str]) -> str:
    shown = names[:8] + ([f"{len(names) - 8} more"] if len(names) > 8 else [])
    return ", ".join(shown)
