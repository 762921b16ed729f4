"""Replicas that drift apart: found, named, and not saved."""

import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import DEVICES, ROOT

from jaxcnn.errors import UserError
from jaxcnn.training.devices import replicate
from jaxcnn.training.replicas import check_replicas, checksum

STATE = {
    "params": {"fc": np.linspace(-1, 1, 50_000, dtype=np.float32).reshape(100, 500)},
    "statistics": np.arange(7, dtype=np.float16),
    "step": np.int32(3),
    "mask": np.array([True, False]),
}


def with_flipped_bit(state, device: int, bit: int = 0):
    """A replicated state in which one bit of the kernel differs on a device."""
    leaf = state["params"]["fc"]

    def part(index):
        kernel = np.array(leaf.addressable_data(index[0].start))
        if index[0].start == device:
            kernel.view(np.uint32)[0, 41, 333] ^= np.uint32(1 << bit)
        return kernel

    drifted = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    return {**state, "params": {"fc": drifted}}


def test_equal_replicas_pass():
    check_replicas(replicate(STATE), 5)


@pytest.mark.parametrize("device", [0, 2])
@pytest.mark.parametrize("bit", [0, 31])
def test_flipped_bit_on_one_device_is_an_error_that_names_it(device, bit):
    state = with_flipped_bit(replicate(STATE), device, bit)
    words = rf"By step 5 cpu:{device} differs from the other 3 devices in 1 of 4 .*params/fc: "
    with pytest.raises(UserError, match=words):
        check_replicas(state, 5)


def test_where_no_most_agree_all_devices_are_named():
    state = with_flipped_bit(with_flipped_bit(replicate(STATE), 1), 3)
    with pytest.raises(UserError, match="the devices cpu:0, cpu:2 and cpu:1, cpu:3 differ"):
        check_replicas(state, 5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_checksum_changes_with_each_bit_and_with_the_order(dtype):
    array = jnp.arange(6).reshape(2, 3).astype(dtype)
    sums = {int(checksum(array))}
    changed = [array.at[1, 2].set(array[0, 0]), array.at[0, 0].set(array[0, 1]), array[::-1]]
    sums |= {int(checksum(other)) for other in changed}
    assert len(sums) == 4


_PROCESS = """
import sys

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.training import distributed
from jaxcnn.training.devices import replicate, split
from jaxcnn.training.replicas import check_replicas

number = int(sys.argv[2])
distributed.initialize(sys.argv[1], 2, number)
check_replicas(replicate({"a": np.ones(3)}), 1)
drifted = split(np.array([[1.0], [1.0 + number]]))
try:
    check_replicas({"a": drifted}, 2)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_all_processes_name_the_device_and_its_process():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        address = f"localhost:{server.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, address, str(number)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": f"{DEVICES}=2", "PYTHONPATH": str(ROOT)},
        )
        for number in range(2)
    ]
    # What precedes it is Gloo's.
    first, second = (process.communicate(timeout=120)[0].splitlines()[-1] for process in processes)
    assert first == second
    # The number of the device is that of XLA, which counts the devices of each process apart.
    assert re.match(r"By step 2 cpu:\d+ of process 1 differs from the other 3 devices", first)
