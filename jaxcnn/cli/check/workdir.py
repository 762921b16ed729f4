"""The checkpoints and weights of a run, verified without JAX."""

import contextlib
import sys
from pathlib import Path

from jaxcnn.errors import CheckpointError, UserError
from jaxcnn.io.manifest import DamagedError
from jaxcnn.io.paths import folder_size, in_bucket
from jaxcnn.io.safetensors import verify_safetensors
from jaxcnn.training.checkpoint_folder import (
    LocalCopies,
    damaged,
    saved_steps,
    unfinished_steps,
    verify,
)
from jaxcnn.training.workdir import BEST_WEIGHTS, CHECKPOINTS, EMA_WEIGHTS, WEIGHTS


def check_workdir(workdir: Path) -> list[str]:
    """Print one line per checkpoint and file of weights, and a sentence if some are damaged.

    Returns:
        The names of those that are damaged.

    Raises:
        UserError: if the folder is not that of a run with a checkpoint.
    """
    try:
        exists = workdir.is_dir()
    except OSError as error:
        raise UserError(f"{workdir} cannot be read ({error.strerror}).") from error
    if not exists:
        raise UserError(f"There is no folder {workdir}; give the --workdir of a run.")
    directory = workdir / CHECKPOINTS
    steps = saved_steps(directory)
    old = damaged(directory)
    if not steps and not old:
        raise UserError(f"{workdir} has no checkpoint; give the --workdir of a run that has one.")
    with LocalCopies(directory) as copies:
        bad = [f"step {step}" for step in steps if not _is_intact(directory, step, copies)]
    for name in old:
        _print(f"{CHECKPOINTS}/{name}", *_size(directory / name), "set aside: it is not used")
    for step in unfinished_steps(directory):
        _print(f"step {step}", 0, 0, "being saved, or cut off: it is not used")
    weights = (WEIGHTS, EMA_WEIGHTS, BEST_WEIGHTS)
    bad += [name for name in weights if not _are_intact(workdir / name)]
    sys.stdout.flush()
    if bad:
        print(f"jaxcnn: damaged in {workdir}: {', '.join(bad)}.", file=sys.stderr)
    elif not steps:
        print(f"jaxcnn: all checkpoints of {workdir} were damaged.", file=sys.stderr)
        return old
    return bad


def _is_intact(directory: Path, step: int, copies: LocalCopies) -> bool:
    size = _size(directory / str(step))
    try:
        manifest = verify(copies.folder_with(step), step)
    except UserError as error:
        if step not in saved_steps(directory):  # the run deleted it, for it has newer ones
            return True
        if not isinstance(error, DamagedError):
            raise
        _print(f"step {step}", *size, f"DAMAGED: {error}")
        return False
    unverified = "not verified: an earlier version of jaxcnn saved it, without a manifest"
    _print(f"step {step}", *size, "ok" if manifest else unverified)
    return True


def _are_intact(weights: Path) -> bool:
    if not weights.is_file():
        return True
    try:
        size = weights.size() if in_bucket(weights) else weights.stat().st_size
        verified = verify_safetensors(weights)
    except OSError as error:
        raise UserError(f"{weights} cannot be read ({error.strerror}).") from error
    except CheckpointError as error:
        _print(weights.name, 1, size, f"DAMAGED: {error}")
        return False
    unverified = "not verified: an earlier version of jaxcnn wrote it, without a checksum"
    _print(weights.name, 1, size, "ok" if verified else unverified)
    return True


def _size(folder: Path) -> tuple[int, int]:
    """How many files are in a folder, and their bytes."""
    with contextlib.suppress(OSError):  # a run may be deleting it
        return folder_size(folder)
    return 0, 0


def _print(name: str, files: int, size: int, verdict: str) -> None:
    print(f"{name:23} {files:4} files {size:16,} bytes  {verdict}", flush=True)
