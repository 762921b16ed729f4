"""Images that are named one by one: files, folders, patterns, standard input."""

import functools
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.files import IMAGE_SUFFIXES
from jaxcnn.data.images import BadImageError
from jaxcnn.data.pipeline import BadImageLog, EvalPreprocess, eval_batches
from jaxcnn.errors import UserError

STDIN = "-"


class ImageList:
    """Images without labels; a :class:`jaxcnn.data.source.Source` with one class.

    Args:
        arguments: each the path of a file; a folder, which stands for the files in it and its
            subfolders that have the suffix of an image, sorted by path; a pattern with ``*``,
            ``**``, ``?`` or ``[]``; or ``"-"``, standard input with the content of one file.

    Attributes:
        names: of the files, as they were found; ``"-"`` for standard input.

    Raises:
        UserError: if a file does not exist, a folder has no images or a pattern matches nothing.

    Example::

        images = ImageList(["cat.jpg", "holiday", "photos/*.png"])
    """

    num_classes, classes, channels, digest = 1, ("image",), 3, 0

    def __init__(self, arguments: Sequence[str]):
        self.names = tuple(name for argument in arguments for name in _expanded(argument))
        self.num_examples = len(self.names)

    def read(self, number: int) -> tuple[bytes, int]:
        """Read the encoded image of a file; the label is 0."""
        name = self.names[number]
        if name == STDIN:
            return _standard_input(), 0
        try:
            return Path(name).read_bytes(), 0
        except OSError as error:
            raise BadImageError(error.strerror or str(error)) from error

    def describe(self, number: int) -> str:
        """The file of an image."""
        name = self.names[number]
        return "standard input" if name == STDIN else name

    def batches(
        self, preprocess: EvalPreprocess, batch_size: int
    ) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """The images in order; threads decode them ahead.

        Args:
            preprocess: of each image.
            batch_size: images per batch.

        Yields:
            The names, and uint8 images ``[N, *preprocess.shape]`` of which those behind the names
            are black: every batch has the same shape, so that a function is compiled once.

        Raises:
            UserError: if an image cannot be read or decoded.
        """
        size = min(batch_size, self.num_examples)
        batches = eval_batches(self, preprocess, batch_size=size, bad_images=Strict(self))
        for start, batch in zip(range(0, self.num_examples, size), batches, strict=True):
            yield self.names[start : start + size], batch["image"]

    def load(self, preprocess: EvalPreprocess) -> np.ndarray:
        """All images at once, uint8 ``[N, *preprocess.shape]``; for a few of them.

        Raises:
            UserError: if an image cannot be read or decoded.
        """
        ((_, images),) = self.batches(preprocess, self.num_examples)
        return images


class Strict(BadImageLog):
    """Refuses the first bad image."""

    def add(self, number: int, reason: str) -> None:
        """Raise the error about an image."""
        raise UserError(f"{self._source.describe(number)} cannot be read: {reason.rstrip('.')}.")


@functools.cache  # it can be read once
def _standard_input() -> bytes:
    return sys.stdin.buffer.read()


def _expanded(argument: str) -> list[str]:
    """The files that an argument names."""
    path = os.path.expanduser(argument)
    if argument == STDIN or os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        return _in_folder(path)
    if glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise UserError(f"The pattern {argument!r} matches no file.")
        files = [name for name in found if not os.path.isdir(name)]
        # With ** the files of a folder match themselves.
        return files or [name for folder in found for name in _in_folder(folder)]
    if os.path.exists(path):  # a pipe, such as a shell's <(command)
        return [path]
    raise UserError(f"There is no file or folder {argument!r}.")


def _in_folder(folder: str) -> list[str]:
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise UserError(
            f"The folder {folder!r} has no images: no file in it ends in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return sorted(found)
