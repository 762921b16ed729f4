"""A run's folder of checkpoints: which there are, and whether they are intact.

A checkpoint is a folder with the number of its step as its name. It gets that name only when it
is complete, with its manifest; until then it is in ``unfinished/``. One that is damaged is renamed
to ``STEP.damaged``. This module needs neither JAX nor Orbax, so that ``jaxcnn check`` answers at
once.
"""

import json
import os
import re
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

UNFINISHED = "unfinished"
METADATA = "_CHECKPOINT_METADATA"  # Orbax's, in every checkpoint
# What Orbax keeps there for us, which tells a checkpoint without its manifest from one that was
# saved before there were manifests.
CUSTOM_METADATA = {"manifest": MANIFEST}
_DAMAGED = re.compile(r"(0|[1-9][0-9]*)\.damaged(-[0-9]+)?")
_STEP = re.compile(r"0|[1-9][0-9]*")


def saved_steps(directory: Path) -> list[int]:
    """The steps of all checkpoints in a folder, rising; none if there is no folder.

    Raises:
        UserError: if the folder cannot be read.
    """
    return sorted(int(name) for name in _names(directory) if _STEP.fullmatch(name))


def damaged(directory: Path) -> list[str]:
    """The names of the damaged checkpoints that were set aside in a folder."""
    return sorted(name for name in _names(directory) if _DAMAGED.fullmatch(name))


def unfinished_steps(directory: Path) -> list[int]:
    """The steps of which a save has begun and not ended, rising."""
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
        (directory / str(step)).rename(directory / name)
        sync_folder(directory)
    except OSError as error:
        raise UserError(
            f"The checkpoint {directory / str(step)} is damaged, and cannot be renamed to {name} "
            f"({error.strerror}); rename or remove it to resume from the one before."
        ) from error
    return name


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


def _names(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read ({error.strerror}).") from error
