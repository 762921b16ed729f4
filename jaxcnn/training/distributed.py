"""Runs of several processes: connecting them, and agreeing among them."""

import contextlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax import lax
from jax._src import distributed as jax_distributed  # its key-value store has no public API
from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize finds out itself
from jax.experimental import multihost_utils

from jaxcnn.errors import UserError, program
from jaxcnn.training import rendezvous
from jaxcnn.training.watcher import Watcher

T = TypeVar("T")

HEARTBEAT_TIMEOUT = 100  # seconds, JAX's own default
START_TIMEOUT = 300  # seconds, likewise

_PATIENCE = 7 * 24 * 3600 * 1000  # milliseconds: preparing ImageNet takes hours


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
    start_timeout: int = START_TIMEOUT,
) -> None:
    """Connect this process to the others of the run, if there are any.

    On a TPU pod and under Slurm (``srun``) the processes find each other. Elsewhere give the
    three arguments. Must be called before anything else asks JAX for devices.

    Args:
        coordinator_address: ``host:port`` of process 0.
        num_processes: how many processes there are.
        process_id: the number of this process, from 0.
        heartbeat_timeout: seconds after which a process that is not heard of counts as dead, which
            ends all: JAX aborts them, and a :class:`Watcher` says so.
        start_timeout: seconds in which all processes have to come.

    Raises:
        UserError: if only some of the three are given, or their values do not fit; on all processes
            that come, if some do not, or differ (:mod:`jaxcnn.training.rendezvous`). TPU pods are
            left to JAX.
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
    elif _is_slurm_step(os.environ):
        coordinator_address, num_processes, process_id, _ = (
            ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, None, start_timeout
            )
        )
    elif not _is_tpu_pod(os.environ):
        return
    if num_processes is not None and num_processes > 1:
        process = rendezvous.Process.this(process_id, num_processes)
        rendezvous.meet(coordinator_address, process, start_timeout)
    watcher = Watcher()
    watcher.expect(
        f"{program()}: Not all processes of this run met within {start_timeout} seconds. Start "
        f"them all, with one --coordinator_address of process 0 that all can reach, here "
        f"{coordinator_address or 'that of the cluster'}, and each with its own --process_id."
    )
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        initialization_timeout=start_timeout,
        heartbeat_timeout_seconds=heartbeat_timeout,
    )
    with _deadline(
        start_timeout,
        f"{program()}: The processes have met, but their devices did not finish a first sum within "
        f"{start_timeout} seconds: one of them hangs, or the network between them does not work. "
        f"The process that says nothing is the first to look at.",
    ):
        watcher.expect(f"{program()}: {lost_process()}")
        on_all_processes(_check_sum)


@contextlib.contextmanager
def _deadline(seconds: float, sentence: str) -> Iterator[None]:
    """End this process with a sentence and status 1 if the block takes longer.

    It may hang in C++, where no exception reaches it.
    """

    def give_up() -> None:
        print(sentence, file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_sum() -> None:
    """Add a number of each device on all devices; every process must call this.

    Raises:
        UserError: if one of this process's devices has another sum.
    """
    count = jax.device_count()
    add = jax.pmap(lambda one: lax.psum(one * (1 + lax.axis_index("i")), "i"), "i")
    sums = add(np.ones(jax.local_device_count(), np.int32)).addressable_shards
    expected = count * (count + 1) // 2
    for shard in sums:
        found = int(np.asarray(shard.data).ravel()[0])
        if found != expected:
            raise UserError(
                f"{shard.device} of process {jax.process_index()} computed {found} instead of "
                f"{expected} as a sum over all {count} devices; test or replace it."
            )


def lost_process() -> str:
    """What to say when another process of the run cannot be reached any more."""
    return (
        f"Process {jax.process_index()} of {jax.process_count()} lost another process of this run, "
        f"which died, hangs, or cannot be reached; its own output may say why. Start the same "
        f"command again on all: they resume from the last checkpoint."
    )


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
    numbers = multihost_utils.process_allgather(np.array(value())).ravel().tolist()
    if len(set(numbers)) > 1:
        others = [str(n) for n, number in enumerate(numbers) if number != numbers[0]]
        raise UserError(f"{message} Other than process 0: {rendezvous.first_of(others)}.")
