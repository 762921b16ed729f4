"""Checkpoints of a replicated state: saved in the background, verified when they are read.

Orbax writes and reads the arrays. That a checkpoint is complete, intact, and one of those that are
kept is decided here and in :mod:`jaxcnn.training.checkpoint_folder`: Orbax's own manager names a
step as saved before it is on disk, deletes old checkpoints in place, and checks no array.
"""

import concurrent.futures
import errno
import functools
import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxcnn.errors import UserError, one_sentence
from jaxcnn.io.manifest import (
    DamagedError,
    Manifest,
    summarize,
    sync_folder,
    verify_arrays,
    write_manifest,
)
from jaxcnn.io.paths import in_bucket, is_unreachable
from jaxcnn.training import distributed
from jaxcnn.training.checkpoint_folder import (
    CUSTOM_METADATA,
    UNFINISHED,
    LocalCopies,
    damaged,
    delete,
    none_left,
    saved_by,
    saved_steps,
    set_aside,
    unfinished_steps,
    upload,
    verify,
)
from jaxcnn.training.devices import unreplicate
from jaxcnn.training.nonfinite import NONFINITE_REMEDY
from jaxcnn.training.progress import warn
from jaxcnn.training.step import TrainState

T = TypeVar("T")
Rank = Callable[[Sequence[int]], Sequence[int]]

_VARIABLES = ("params", "batch_stats")


class Checkpoints:
    """The checkpoints in a folder, by step.

    One replica is saved, as host arrays, so that a checkpoint can be restored on any number of
    devices and hosts. Every process calls the methods that say so; the main process writes.

    As a context manager it waits at the end of the block for the last checkpoint to be on disk.

    In a bucket (``gs://``, ``s3://``) a checkpoint is first saved to a temporary folder, and then
    copied, its manifest last; to be read, it is copied back. So Orbax knows no bucket, and what is
    read is verified in the same way.

    Args:
        directory: the folder; made if it does not exist.
        keep: how many of the last checkpoints are kept.
        report: called on the main process with a sentence about what was found damaged.

    Attributes:
        best: the step of a checkpoint that is kept beside the last ones; None: there is none. Only
            the main process uses it.

    Raises:
        UserError: if the folder cannot be made.
    """

    def __init__(self, directory: Path, *, keep: int = 3, report: Callable[[str], None] = warn):
        try:
            if distributed.is_main_process():
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{directory} cannot be made ({error.strerror}).") from error
        self._directory = directory
        self._keep = keep
        self.best: int | None = None
        self._report = report
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._saving: tuple[int, concurrent.futures.Future[None]] | None = None
        self._copies = LocalCopies(directory)
        # Where Orbax writes: beside the checkpoints if these can be renamed there.
        self._temporary = Path(tempfile.mkdtemp(prefix="jaxcnn-")) if in_bucket(directory) else None
        self._agreements = itertools.count()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except UserError as failure:
            if error is None:
                raise
            self._report(str(failure))  # the other error is the reason why the run ends

    @property
    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, which may turn out to be damaged."""
        return max(saved_steps(self._directory), default=None)

    def save(self, state: TrainState) -> None:
        """Save a replicated state in the background, unless its step is saved already.

        Every process must call this.

        Raises:
            UserError: if a value of the state is NaN or infinite, or the checkpoint before this one
                could not be saved: what was saved before stays the newest.
        """
        self.wait()
        replica = jax.tree.map(
            lambda leaf: np.array(leaf, copy=True),  # a view of a donated buffer would change
            unreplicate(state),
        )
        step = int(replica.step)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(replica)):
            raise UserError(
                f"The state became NaN or infinite in step {step}, which is not saved in "
                f"{self._directory}. {NONFINITE_REMEDY}"
            )
        if distributed.is_main_process() and step not in saved_steps(self._directory):
            write = self._thread.submit(self._write, step, _as_dict(replica), self.best)
            self._saving = step, write

    def check(self) -> None:
        """Raise the error of a save in the background, if it has failed by now.

        Every process must call this.

        Raises:
            UserError: on all processes.
        """
        failed = self._saving is not None and self._saving[1].done()
        failed = failed and self._saving[1].exception() is not None
        if distributed.any_process(failed):
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Every process must call this.

        Raises:
            UserError: on all processes, if it could not be saved.
        """
        distributed.main_process_first(f"saved {next(self._agreements)}", self._wait)

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Read a checkpoint, and check it.

        Args:
            like: an unreplicated state with the expected shapes and dtypes.
            step: of the checkpoint; None: the newest.

        Returns:
            The state as host arrays, unreplicated.

        Raises:
            DamagedError: if the checkpoint is not what was saved.
            UserError: if it is of a different model or optimizer.
        """
        step = self.latest_step if step is None else step
        return self._read(like, step, self._verify(step))

    def restore_newest(self, like: Callable[[int], TrainState]) -> TrainState | None:
        """Read the newest checkpoint that is intact; those that are damaged are set aside.

        Every process must call this; the main process says what is damaged.

        Args:
            like: returns an unreplicated state with the shapes and dtypes expected at a step.

        Returns:
            The state as host arrays, unreplicated; None: nothing was saved yet.

        Raises:
            UserError: on all processes, if there are checkpoints, but none is intact, or the newest
                is of a different model or optimizer.
        """
        if distributed.is_main_process():
            for step in unfinished_steps(self._directory):
                self._report(
                    f"The save of step {step} in {self._directory} was cut off; it is not used."
                )
        while True:
            found = self._agree("newest", self._newest_intact)
            # The main process's: the others may not see yet what it renamed.
            step = int(distributed.from_main_process(-1 if found is None else found[0]))
            if step < 0:
                return None

            # Returns damage, for that is not the end on any process.
            def read(step: int = step, found: Any = found) -> TrainState | DamagedError:
                try:
                    manifest = found[1] if found else self._verify(step)
                    return self._read(like(step), step, manifest)
                except DamagedError as error:
                    return error

            state = distributed.on_all_processes(read)
            damage = state if isinstance(state, DamagedError) else None
            # What only another process finds says nothing against the files, but its way to them.
            if distributed.from_main_process(damage is not None):
                self._agree("set aside", functools.partial(self._set_aside, step, damage))
                continue
            distributed.on_all_processes(functools.partial(self._check_same, step, damage))
            self._copies.clear()
            return state

    def find_best(self, rank: Rank) -> None:
        """Let :attr:`best` be the best intact checkpoint; better ones are damaged, and set aside.

        Every process must call this.

        Args:
            rank: sorts steps from the best to the worst, and leaves out those that cannot be it.

        Raises:
            UserError: on all processes, if a checkpoint cannot be read.
        """
        self._agree("best", lambda: self._best_intact(rank, lambda step, manifest: None))

    def read_best(self, rank: Rank, *, ema: bool) -> dict[str, Any] | None:
        """Read the model's variables in the best checkpoint, and delete what is not to be kept.

        Every process must call this, after :meth:`wait`.

        Args:
            rank: see :meth:`find_best`, which this does first.
            ema: whether to read their average.

        Returns:
            The variables as host arrays, on the main process; None: no checkpoint is intact.

        Raises:
            UserError: on all processes, if a checkpoint cannot be read or deleted.
        """

        def read(step: int, manifest: Manifest | None) -> dict[str, Any]:
            saved = _restored(self._copies.folder_with(step), step, manifest)
            return saved["ema"] if ema else {name: saved[name] or {} for name in _VARIABLES}

        def read_and_delete() -> dict[str, Any] | None:
            variables = self._best_intact(rank, read)
            self._delete_old(self.best)
            return variables

        return self._agree("best variables", read_and_delete)

    def close(self) -> None:
        """Wait until the last checkpoint is on disk, on this process.

        Raises:
            UserError: if it could not be saved.
        """
        try:
            self._wait()
        finally:
            self._thread.shutdown()
            self._copies.clear()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def _agree(self, name: str, action: Callable[[], Any]) -> Any:
        """Run an action on the main process only; its UserError is raised on all."""
        return distributed.main_process_first(
            f"{name} {next(self._agreements)}",
            lambda: action() if distributed.is_main_process() else None,
        )

    def _wait(self) -> None:
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        error = future.exception()
        if error is None:
            return
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise error
        try:
            if is_unreachable(self._directory):
                kept = "those before it are kept"
            else:
                step_kept = self.latest_step
                there_is = step_kept is not None
                kept = f"that of step {step_kept} is kept" if there_is else "there is no other yet"
        except UserError:
            kept = "nor can those before it be read"
        raise UserError(
            f"The checkpoint of step {step} could not be saved in {self._directory} "
            f"({_reason(error)}); {kept}. {_remedy(error)}, and start the same command again."
        ) from error

    def _write(self, step: int, tree: dict[str, Any], best: int | None) -> None:
        """Save a checkpoint, and then delete old ones but the best; in the background."""
        arrays = {name: summarize(leaf) for name, leaf in _by_path(tree).items()}
        unfinished = (self._temporary or self._directory) / UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        # Without its parents, which are missing where a mount was lost.
        unfinished.mkdir(exist_ok=True)
        try:
            with _manager(unfinished) as manager:
                saved = manager.save(
                    step,
                    args=ocp.args.StandardSave(tree),
                    custom_metadata=CUSTOM_METADATA | {"orbax": ocp.__version__},
                )
            if not saved:  # what an earlier save left could not be removed
                raise OSError(errno.EEXIST, f"{unfinished} cannot be emptied")
            write_manifest(unfinished / str(step), step, arrays)
            if self._temporary is not None:
                upload(unfinished / str(step), self._directory, step)
            else:
                (unfinished / str(step)).rename(self._directory / str(step))
                sync_folder(self._directory)
        except BaseException:
            # Its room may be what the disk lacks. More than once: TensorStore's threads write on
            # for a while. What they leave is removed by the next save.
            for _ in range(5):
                shutil.rmtree(unfinished, ignore_errors=True)
                time.sleep(0.02)
            raise
        self._delete_old(best)

    def _delete_old(self, best: int | None) -> None:
        unfinished = self._directory / UNFINISHED
        for old in saved_steps(self._directory)[: -self._keep]:
            if old == best:
                continue
            try:
                if self._temporary is not None:
                    delete(self._directory, old)
                    continue
                # Renamed first: one that is deleted in part is not a checkpoint.
                unfinished.mkdir(exist_ok=True)
                (self._directory / str(old)).rename(unfinished / f"deleted-{old}")
            except OSError as error:
                raise UserError(
                    f"The checkpoint {self._directory / str(old)}, which is no longer needed, "
                    f"cannot be deleted ({error.strerror}); delete it, and start the same command "
                    f"again."
                ) from error
        shutil.rmtree((self._temporary or self._directory) / UNFINISHED, ignore_errors=True)

    def _verify(self, step: int) -> Manifest | None:
        return verify(self._copies.folder_with(step), step)

    def _newest_intact(self) -> tuple[int, Manifest | None] | None:
        for step in reversed(saved_steps(self._directory)):
            try:
                manifest = self._verify(step)
            except DamagedError as error:
                self._set_aside(step, error)
                continue
            if manifest is None:
                self._report(_unverified(self._directory, step))
            return step, manifest
        if names := damaged(self._directory):
            raise none_left(self._directory, names)
        return None

    def _best_intact(self, rank: Rank, read: Callable[[int, Manifest | None], T]) -> T | None:
        """What ``read`` returns for the best intact checkpoint, from its step and manifest."""
        for step in rank(saved_steps(self._directory)):
            try:
                found = read(step, self._verify(step))
            except DamagedError as error:
                self._set_aside(step, error)
                continue
            self.best = step
            return found
        self.best = None
        return None

    def _set_aside(self, step: int, reason: object) -> None:
        name = set_aside(self._directory, step)
        self._report(
            f"The checkpoint of step {step} in {self._directory} is damaged: {reason}. It was "
            f"renamed to {name}."
        )

    def _check_same(self, step: int, damage: DamagedError | None) -> None:
        if damage is not None:
            raise UserError(
                f"Process {jax.process_index()} cannot read the checkpoint of step {step} in "
                f"{self._directory} ({damage}), which the main process can; give all processes "
                f"one folder on a shared disk, and look at the memory of that machine."
            )

    def _read(self, like: TrainState, step: int, manifest: Manifest | None) -> TrainState:
        folder = self._copies.folder_with(step)
        wanted = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _as_dict(like))
        if manifest is not None:
            stored = {name: array.shape for name, array in manifest.arrays.items()}
            if stored != {name: leaf.shape for name, leaf in _by_path(wanted).items()}:
                raise UserError(
                    f"The checkpoint of step {step} in {self._directory} belongs to a different "
                    f"model or optimizer: its arrays are not those of this one; use another "
                    f"--workdir."
                )
            # As they were saved, or they could not be compared.
            as_saved = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf.astype(manifest.arrays[_name(path)].dtype), wanted
            )
            saved = _restored(folder, step, manifest, as_saved)
            saved = jax.tree.map(lambda leaf, like: np.asarray(leaf, like.dtype), saved, wanted)
        else:
            saved = _restored(folder, step, None, wanted)
            if jax.tree.map(np.shape, saved) != jax.tree.map(np.shape, wanted):
                raise UserError(
                    f"The checkpoint of step {step} in {self._directory} belongs to a different "
                    f"model: its shapes are not those of this one; use another --workdir."
                )
        return TrainState(**saved)


def newest_variables(
    directory: Path, report: Callable[[str], None] = warn
) -> dict[str, Any] | None:
    """The model's variables in the newest intact checkpoint of a folder, which is only read.

    Args:
        directory: of the checkpoints, while a run may be writing there.
        report: called with a sentence about each checkpoint that is damaged.

    Returns:
        Their average where the run keeps one, as host arrays; None: there is no checkpoint.

    Raises:
        UserError: if all checkpoints are damaged, or Orbax cannot read the newest.
    """
    bad = []
    while steps := [step for step in saved_steps(directory) if str(step) not in bad]:
        step = steps[-1]
        try:
            with LocalCopies(directory) as copies:
                manifest = verify(copies.folder_with(step), step)
                if manifest is None:
                    report(_unverified(directory, step))
                saved = _restored(copies.folder_with(step), step, manifest)
        except (DamagedError, UserError) as error:
            if step not in saved_steps(directory):
                continue  # a run deleted it, for it has newer ones
            if not isinstance(error, DamagedError):
                raise
            bad.append(str(step))
            report(f"The checkpoint of step {step} in {directory} is damaged: {error}.")
            continue
        return saved.get("ema") or {name: saved[name] or {} for name in _VARIABLES}
    if bad := bad + damaged(directory):
        raise none_left(directory, bad)
    return None


def _restored(directory: Path, step: int, manifest: Manifest | None, wanted: Any = None) -> Any:
    """The arrays of a checkpoint, verified if it has a manifest."""
    try:
        with _manager(directory, read_only=True) as manager:
            saved = manager.restore(step, args=ocp.args.StandardRestore(wanted))
    except Exception as error:  # of many types, from several libraries
        if manifest is None:
            raise UserError(
                f"The checkpoint of step {step} in {directory} belongs to a different model or "
                f"optimizer, or is damaged; use another --workdir, or remove that checkpoint to "
                f"use the one before."
            ) from error
        of_the_system = isinstance(error, MemoryError) or _errno(error) is not None
        if saved_by(directory, step) == ocp.__version__ and not of_the_system:
            # The files are as they were written, but were not written as they should have been.
            raise DamagedError(f"Orbax cannot read it ({_reason(error)})") from error
        raise UserError(
            f"The checkpoint of step {step} in {directory} is intact, but Orbax "
            f"{ocp.__version__} cannot read it ({_reason(error)}); use the version that saved it."
        ) from error
    if manifest is not None:
        verify_arrays(_by_path(saved), manifest)
    return saved


def _manager(directory: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    """Orbax's manager of a folder, for this process alone: it waits for no other."""
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    options = ocp.CheckpointManagerOptions(
        create=False,
        read_only=read_only,
        enable_async_checkpointing=False,
        multiprocessing_options=alone,
    )
    _silence_orbax()
    return ocp.CheckpointManager(directory.absolute(), options=options)


@functools.cache
def _silence_orbax() -> None:
    """Do not print the tracebacks of errors that Orbax and TensorStore raise as well."""
    folder = os.path.dirname(ocp.__file__)
    logging.getLogger("absl").addFilter(lambda record: not record.pathname.startswith(folder))
    # Where several arrays fail, Orbax raises the first error and drops the others.
    logging.getLogger("asyncio").addFilter(
        lambda record: not record.getMessage().startswith("Task exception was never retrieved")
    )
    report = sys.unraisablehook

    def unraisablehook(error: Any) -> None:
        # Where one array fails, Orbax closes its event loop while TensorStore's threads, which
        # have nobody to raise to, still announce the others.
        if str(error.exc_value) != "Event loop is closed":
            report(error)

    sys.unraisablehook = unraisablehook


def _errno(error: BaseException) -> int | None:
    """The number of the system's error behind an error of Python's or of TensorStore's."""
    if isinstance(error, OSError):
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return int(code[1]) if code else None


def _reason(error: BaseException) -> str:
    """Why something could not be written or read, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = _errno(error)
    return os.strerror(code) if code else one_sentence(error)[:300].rstrip(".")


def _remedy(error: BaseException) -> str:
    code = _errno(error)
    if isinstance(error, OSError) and in_bucket(str(error.filename)):
        return "Check the network, and that this account may write to the bucket"
    if code in (errno.ENOSPC, errno.EDQUOT):
        return "Make room on the disk"
    if code in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "Make the folder writable"
    return "Check the disk"


def _unverified(directory: Path, step: int) -> str:
    return (
        f"The checkpoint of step {step} in {directory} is from an earlier version of jaxcnn, which "
        f"wrote no manifest: it cannot be verified."
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, with ``/``."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _as_dict(state: TrainState) -> dict[str, Any]:
    saved = {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": state.opt_state,
    }
    return saved | ({"ema": state.ema} if state.ema else {})
