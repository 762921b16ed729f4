"""A run's folder of checkpoints: which there are, and whether they are intact.

A checkpoint is a folder with the number of its step as its name. It gets that name only when it
is complete, with its manifest; until then it is in ``unfinished/``. One that is damaged is renamed
to ``STEP.damaged``. This module needs neither JAX nor Orbax, so that ``jaxcnn check`` answers at
once.

In a bucket nothing can be renamed in one step. There an object ``unfinished/STEP`` marks a step
that is being saved, and ``unfinished/deleted-STEP`` one that is being deleted. The manifest is
written after all other objects, and deleted before them; so a step that is marked and has no
manifest is not a checkpoint, and every other one is.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxcnn.errors import UserError
from jaxcnn.io.manifest import (
    MANIFEST,
    DamagedError,
    Manifest,
    read_manifest,
    sync_folder,
    verify_files,
)
from jaxcnn.io.paths import in_bucket

UNFINISHED = "unfinished"
METADATA = "_CHECKPOINT_METADATA"  # Orbax's, in every checkpoint
# What Orbax keeps there for us, which tells a checkpoint without its manifest from one that was
# saved before there were manifests.
CUSTOM_METADATA = {"manifest": MANIFEST}
_DAMAGED = re.compile(r"(0|[1-9][0-9]*)\.damaged(-[0-9]+)?")
_STEP = re.compile(r"0|[1-9][0-9]*")
_MARK = re.compile(r"(deleted-)?([0-9]+)")  # the name of an object in unfinished/ of a bucket


def saved_steps(directory: Path) -> list[int]:
    """The steps of all checkpoints in a folder, rising; none if there is no folder.

    Raises:
        UserError: if the folder cannot be read.
    """
    steps = sorted(int(name) for name in _names(directory) if _STEP.fullmatch(name))
    if not in_bucket(directory):
        return steps
    with _readable(directory):
        marked = {step for _, step in _marks(directory)}
        return [step for step in steps if step not in marked or _is_complete(directory, step)]


def damaged(directory: Path) -> list[str]:
    """The names of the damaged checkpoints that were set aside in a folder."""
    return sorted(name for name in _names(directory) if _DAMAGED.fullmatch(name))


def unfinished_steps(directory: Path) -> list[int]:
    """The steps of which a save has begun and not ended, rising."""
    if in_bucket(directory):
        with _readable(directory):
            saving = [step for deleted, step in _marks(directory) if not deleted]
            return sorted(step for step in saving if not _is_complete(directory, step))
    starts = (re.match(r"[0-9]+", name) for name in _names(directory / UNFINISHED))
    return sorted({int(start[0]) for start in starts if start})


def verify(directory: Path, step: int) -> Manifest | None:
    """Check that the files of a checkpoint are those that were saved.

    Returns:
        Its manifest, by which its arrays can be checked, too; None: it was saved by a version of
        jaxcnn that wrote none, and could not be checked.

    Raises:
        DamagedError: if they are not; the message is a clause that says why.
        UserError: if the disk cannot be read.
    """
    folder = directory / str(step)
    try:
        if not (folder / MANIFEST).exists() and _is_without_manifest(folder):
            return None
        manifest = read_manifest(folder)
        if manifest.step != step:
            raise DamagedError(f"its {MANIFEST} is that of step {manifest.step}")
        verify_files(folder, manifest)
    except OSError as error:
        raise UserError(
            f"The checkpoint {folder} cannot be read ({error.strerror}); it is left as it is."
        ) from error
    return manifest


def saved_by(directory: Path, step: int) -> str | None:
    """The version of Orbax that saved a checkpoint; None: unknown."""
    try:
        metadata = json.loads((directory / str(step) / METADATA).read_bytes())
        return metadata["custom_metadata"]["orbax"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def set_aside(directory: Path, step: int) -> str:
    """Rename a damaged checkpoint.

    Returns:
        Its new name in the folder.

    Raises:
        UserError: if it cannot be renamed.
    """
    taken = set(_names(directory))
    name, number = f"{step}.damaged", 2
    while name in taken:
        name, number = f"{step}.damaged-{number}", number + 1
    try:
        if in_bucket(directory):
            (directory / str(step)).copy_folder(directory / name)
            delete(directory, step)
        else:
            (directory / str(step)).rename(directory / name)
            sync_folder(directory)
    except OSError as error:
        raise UserError(
            f"The checkpoint {directory / str(step)} is damaged, and cannot be renamed to {name} "
            f"({error.strerror}); rename or remove it to resume from the one before."
        ) from error
    return name


class LocalCopies:
    """Checkpoints where Orbax can read them and files can be verified: on a disk.

    Those in a bucket are downloaded to a temporary folder, and the last one is kept there; those on
    a disk are where they are.

    Args:
        directory: of the checkpoints.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._temporary: Path | None = None
        self._step: int | None = None

    def folder_with(self, step: int) -> Path:
        """The folder in which a checkpoint is, by the name of its step.

        Raises:
            UserError: if it cannot be downloaded.
        """
        if not in_bucket(self._directory):
            return self._directory
        if self._temporary is None or self._step != step:
            self.clear()
            try:
                self._temporary = Path(tempfile.mkdtemp(prefix="jaxcnn-checkpoint-"))
                (self._temporary / str(step)).mkdir()
                (self._directory / str(step)).download(self._temporary / str(step))
            except OSError as error:
                self.clear()
                raise UserError(
                    f"The checkpoint {self._directory / str(step)} cannot be read "
                    f"({error.strerror}); it is left as it is."
                ) from error
            self._step = step
        return self._temporary

    def clear(self) -> None:
        """Delete what was downloaded."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = self._step = None

    def __enter__(self) -> "LocalCopies":
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()


def upload(folder: Path, directory: Path, step: int) -> None:
    """Copy a complete checkpoint from a disk into a bucket, its manifest last.

    Args:
        folder: with its files.
        directory: of the checkpoints, in a bucket.
        step: of the checkpoint.

    Raises:
        OSError: if it cannot be written; it is then not a checkpoint.
    """
    clean(directory)
    target = directory / str(step)
    (directory / UNFINISHED / str(step)).write_bytes(b"being saved\n")
    target.rmtree()
    files = (path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    target.upload(folder, [name for name in names if name != MANIFEST])
    target.upload(folder, [MANIFEST])
    (directory / UNFINISHED / str(step)).unlink(missing_ok=True)


def delete(directory: Path, step: int) -> None:
    """Delete a checkpoint in a bucket; cut off, it is not a checkpoint any more.

    Raises:
        OSError: if it cannot be deleted.
    """
    mark = directory / UNFINISHED / f"deleted-{step}"
    mark.write_bytes(b"being deleted\n")
    (directory / str(step) / MANIFEST).unlink(missing_ok=True)
    (directory / str(step)).rmtree()
    mark.unlink(missing_ok=True)


def clean(directory: Path) -> None:
    """Delete in a bucket what saves and deletions that were cut off have left.

    Raises:
        OSError: if it cannot be deleted.
    """
    for deleted, step in _marks(directory):
        if not _is_complete(directory, step):
            (directory / str(step)).rmtree()
        name = f"deleted-{step}" if deleted else str(step)
        (directory / UNFINISHED / name).unlink(missing_ok=True)


def none_left(directory: Path, names: list[str]) -> UserError:
    """The error that all checkpoints of a run are damaged.

    Args:
        directory: of the checkpoints.
        names: of those that are damaged.
    """
    return UserError(
        f"No intact checkpoint is left in {directory}: {', '.join(names)} "
        f"{'is' if len(names) == 1 else 'are'} damaged. Restore one from a copy, or start over in "
        f"another --workdir."
    )


def _is_without_manifest(folder: Path) -> bool:
    """Whether a checkpoint was saved before there were manifests, rather than lost its own."""
    try:
        metadata = json.loads((folder / METADATA).read_bytes())
        custom = metadata.get("custom_metadata") or {}
    except FileNotFoundError as error:
        raise DamagedError(f"it has neither {MANIFEST} nor {METADATA}") from error
    except (ValueError, RecursionError, AttributeError) as error:
        raise DamagedError(f"{METADATA} is damaged, and {MANIFEST} is missing") from error
    return custom.get("manifest") is None


def _marks(directory: Path) -> list[tuple[bool, int]]:
    """Of each step that is marked in a bucket: whether it is being deleted, and its number."""
    matches = (_MARK.fullmatch(path.name) for path in (directory / UNFINISHED).iterdir())
    return [(bool(match[1]), int(match[2])) for match in matches if match]


def _is_complete(directory: Path, step: int) -> bool:
    return (directory / str(step) / MANIFEST).is_file()


@contextlib.contextmanager
def _readable(directory: Path) -> Iterator[None]:
    """Report an OSError within the block as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{directory} cannot be read ({error.strerror}).") from error


def _names(directory: Path) -> list[str]:
    if in_bucket(directory):
        with _readable(directory):
            return directory.folders()
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read ({error.strerror}).") from error
