"""Files and folders that are written completely or not at all."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jaxcnn.io.paths import as_path, in_bucket


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a file for writing that replaces ``path`` when the block ends.

    The bytes go to a temporary file in the same folder, which gets the name only when the block
    ended without an error; after an error it is deleted, and ``path`` is as it was before. In a
    bucket the object is written when the block ends, which replaces it in one step, too.

    Args:
        path: the file to write; an existing one is replaced.

    Yields:
        The temporary file, or for a bucket one in memory, opened in binary mode.

    Raises:
        OSError: if the file cannot be written.

    Example::

        with atomic_write(workdir / "config.json") as file:
            file.write(text.encode())
    """
    if in_bucket(path):
        content = io.BytesIO()
        yield content
        as_path(path).write_bytes(content.getvalue())
        return
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Opens a folder for writing whose files appear in ``folder`` when the block ends.

    The files go to a temporary folder beside it, which gets the name only when the block ended
    without an error; after an error it is deleted. If ``folder`` exists, its files of the same
    names are replaced one after the other, and the others stay.

    Args:
        folder: the folder above it must exist.

    Yields:
        The temporary folder; it may have no subfolders.

    Raises:
        OSError: if a file cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        umask = _umask()
        os.chmod(temporary, 0o777 & ~umask)  # mkdtemp's folders are private
        if folder.is_dir():
            for path in sorted(temporary.iterdir()):
                os.replace(path, folder / path.name)
        else:
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
