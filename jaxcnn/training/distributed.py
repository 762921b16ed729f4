"""Several processes: finding each other, and agreeing."""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax._src import distributed as jax_distributed  # its key-value store has no public door
from jax.experimental import multihost_utils

from jaxcnn.errors import UserError

T = TypeVar("T")

_PATIENCE = 7 * 24 * 3600 * 1000  # milliseconds: preparing ImageNet takes hours


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects this process with the others of the run, if there are others.

    On a TPU pod and under Slurm (``srun``) all is found by itself. Elsewhere give the three
    arguments. Must run before anything else asks JAX for devices.

    Args:
        coordinator_address: ``host:port`` of process 0.
        num_processes: how many processes there are.
        process_id: this one's number, from 0.

    Raises:
        UserError: if only some of the three are given.
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
                f"--process_id is {process_id}, but it must be from 0 to {num_processes - 1} "
                f"(--num_processes less one)."
            )
        if not re.fullmatch(r".+:\d+", coordinator_address):
            raise UserError(
                f"--coordinator_address is {coordinator_address!r}; it must be host:port."
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


def is_alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def is_first() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return jax.process_index() == 0


def first_then_all(name: str, action: Callable[[], T]) -> T:
    """Does something on the first process, and then on the others.

    What the first is refused, all are: each raises the same error. The others wait for as long
    as it takes, which a collective would not.

    Args:
        name: a name of this occasion.
        action: what is done.

    Raises:
        UserError: where ``action`` does.
    """
    if is_alone():
        return action()
    client = jax_distributed.global_state.client
    if is_first():
        try:
            result = action()
        except UserError as error:
            client.key_value_set(name, f"refused: {error}")
            raise
        client.key_value_set(name, "done")
        return result
    outcome = client.blocking_key_value_get(name, _PATIENCE)
    if outcome != "done":
        raise UserError(outcome.removeprefix("refused: "))
    return action()


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if not is_alone():
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; every process must ask."""
    if is_alone():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def sum_of_all(number: int) -> int:
    """The sum over all processes; every process must ask."""
    if is_alone():
        return number
    return int(np.sum(multihost_utils.process_allgather(np.array(number))))


def check_equal(number: Callable[[], int], refusal: str) -> None:
    """Checks that a number is the same on every process; every process must ask.

    Args:
        number: gives it; not called where there is one process only.
        refusal: what to say if it is not.

    Raises:
        UserError: the refusal, on all of them, if it is not.
    """
    if is_alone():
        return
    numbers = multihost_utils.process_allgather(np.array(number()))
    if len(set(numbers.flat)) > 1:
        raise UserError(refusal)
