"""Runs of several processes: connecting them, and agreeing among them."""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # its key-value store has no public API
from jax.experimental import multihost_utils

from jaxcnn.errors import UserError

T = TypeVar("T")

_PATIENCE = 7 * 24 * 3600 * 1000  # milliseconds: preparing ImageNet takes hours


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connect this process to the others of the run, if there are any.

    On a TPU pod and under Slurm (``srun``) the processes find each other. Elsewhere give the
    three arguments. Must be called before anything else asks JAX for devices.

    Args:
        coordinator_address: ``host:port`` of process 0.
        num_processes: how many processes there are.
        process_id: the number of this process, from 0.

    Raises:
        UserError: if only some of the three are given, or their values do not fit.
    """
    given = [coordinator_address, num_processes, process_id]
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise UserError(
                "--coordinator_address, --num_processes and --process_id go together; "
                "give all three to every process."
            )
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id={process_id} is out of range; it must be from 0 to "
                f"{num_processes - 1} (one less than --num_processes)."
            )
        if not re.fullmatch(r".+:\d+", coordinator_address):
            raise UserError(
                f"--coordinator_address={coordinator_address} has no port; it must be host:port."
            )
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    elif _is_slurm_step(os.environ) or _is_tpu_pod(os.environ):
        jax.distributed.initialize()


def _is_slurm_step(environ: Mapping[str, str]) -> bool:
    return "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _is_tpu_pod(environ: Mapping[str, str]) -> bool:
    on_tpu = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    on_tpu = on_tpu and importlib.util.find_spec("libtpu") is not None
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or (on_tpu and environ.get("JAX_PLATFORMS", "tpu") == "tpu")


def is_single_process() -> bool:
    """Whether this run has one process only."""
    return jax.process_count() == 1


def is_main_process() -> bool:
    """Whether this is the process that prints and writes for all."""
    return jax.process_index() == 0


def main_process_first(name: str, action: Callable[[], T]) -> T:
    """Run an action on the main process, and then on the others.

    The others wait for as long as the main process takes, which a collective would not allow.

    Args:
        name: a name that is unique within the run.
        action: what to run.

    Returns:
        What ``action`` returned on this process.

    Raises:
        UserError: where ``action`` raises one on the main process, on all processes.
    """
    if is_single_process():
        return action()
    client = jax_distributed.global_state.client
    if is_main_process():
        try:
            result = action()
        except UserError as error:
            client.key_value_set(name, f"error: {error}")
            raise
        client.key_value_set(name, "done")
        return result
    outcome = client.blocking_key_value_get(name, _PATIENCE)
    if outcome != "done":
        raise UserError(outcome.removeprefix("error: "))
    return action()


def barrier(name: str) -> None:
    """Wait until every process has called this with the same name."""
    if not is_single_process():
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; every process must call this."""
    if is_single_process():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def is_preempted(step: int) -> bool:
    """Whether JAX's preemption service says that all processes are to stop after this step.

    Every process must call this after every step. The notice is SIGTERM where JAX has taken that
    signal (``jax.distributed.initialize`` does), or what its service knows of the machine; all
    processes then stop after the same step. Without ``jax.distributed`` there is no service.
    """
    state = jax_distributed.global_state
    if state.client is None or state.preemption_sync_manager is None:
        return False
    return multihost_utils.reached_preemption_sync_point(step)


def on_all_processes(action: Callable[[], T]) -> T:
    """Run an action on every process; every process must call this.

    Returns:
        What ``action`` returned on this process.

    Raises:
        UserError: on all processes, if ``action`` raises one on any of them.
    """
    error = None
    try:
        result = action()
    except UserError as problem:
        error = problem
    if any_process(error is not None):
        raise error or UserError("Another process could not start; its message says why.")
    return result


def sum_over_processes(number: int) -> int:
    """The sum over all processes; every process must call this."""
    if is_single_process():
        return number
    return int(np.sum(multihost_utils.process_allgather(np.array(number))))


def max_over_processes(number: int) -> int:
    """The largest of all processes' numbers; every process must call this."""
    if is_single_process():
        return number
    return int(np.max(multihost_utils.process_allgather(np.array(number))))


def rows_of_all_processes(array: np.ndarray) -> np.ndarray:
    """The rows of all processes, one after another; every process must call this.

    Args:
        array: ``[N, ...]``, of the same shape on every process and of at most 32 bits (JAX would
            round wider numbers).
    """
    if is_single_process():
        return array
    return multihost_utils.process_allgather(array).reshape(-1, *array.shape[1:])


def from_main_process(number: float) -> float:
    """The number of the main process; every process must call this."""
    if is_single_process():
        return number
    # As bits: JAX would round a float64.
    bits = np.frombuffer(np.float64(number).tobytes(), np.uint32)
    return float(multihost_utils.broadcast_one_to_all(bits).view(np.float64)[0])


def check_equal(value: Callable[[], int], message: str) -> None:
    """Check that a number is the same on every process; every process must call this.

    Args:
        value: computes the number; it must fit into 31 bits. Not called in a single process.
        message: of the error.

    Raises:
        UserError: on all processes, if the numbers differ.
    """
    if is_single_process():
        return
    numbers = multihost_utils.process_allgather(np.array(value()))
    if len(set(numbers.flat)) > 1:
        raise UserError(message)
