"""One split of a dataset, read example by example in any order.

Random access keeps the rest simple: a shuffle is a permutation of numbers, the part of a host is
a slice of it, and resuming in the middle of an epoch costs nothing.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxcnn.errors import UserError

# Prefixes of the paths of images in files: folder:/path, csv:/path.
FILE_KINDS = ("folder", "csv")
NOTATION = [f"{kind}:/path" for kind in FILE_KINDS]


class Source(Protocol):
    """A split of an image-classification dataset.

    Attributes:
        num_examples: how many examples the split has.
        num_classes: how many classes the dataset has.
        classes: their names, by label.
        channels: of its images (3 if the dataset does not specify them).
        digest: identifies the examples; equal on all hosts of a run.
    """

    num_examples: int
    num_classes: int
    classes: tuple[str, ...]
    channels: int
    digest: int

    def read(self, number: int) -> tuple[bytes | np.ndarray, int]:
        """Read the image and the label of an example.

        Args:
            number: 0 to ``num_examples`` - 1.

        Returns:
            The image, for :func:`jaxcnn.data.images.decode` or
            :func:`jaxcnn.data.images.from_array`, and the label.

        Raises:
            BadImageError: if the image cannot be read.
        """
        ...

    def describe(self, number: int) -> str:
        """The file of an example, or its place in the dataset, for messages."""
        ...


def open_source(name: str, split: str | None, data_dir: str | None = None) -> Source:
    """Open a split of a dataset; a tfds dataset is downloaded and prepared if necessary.

    Args:
        name: ``"digits"``, a tfds dataset (``"cifar10"``, ``"imagenet2012"``,
            ``"oxford_flowers102:2.1.1"``), or images in files: ``"folder:/path"`` with one folder
            per class, ``"csv:/path"`` with one table per split (see :mod:`jaxcnn.data.files`).
        split: in tfds's notation (``"train"``, ``"train[:90%]"``); None: the validation split, or
            else the test split.
        data_dir: where tfds's prepared datasets are; None: tfds's own default.

    Raises:
        UserError: for an unknown dataset, an unknown or empty split, a dataset that must be
            prepared by hand, and if preparing fails.
    """
    files = files_of(name)
    if files is not None:
        from jaxcnn.data.files import open_files

        return open_files(*files, split)
    from jaxcnn.data.prepared import open_prepared

    return open_prepared(name, split, data_dir, others=NOTATION)


def files_of(name: str) -> tuple[str, str] | None:
    """The kind and the path of a dataset of images in files; None: it is one of tfds.

    Raises:
        UserError: for a path without a kind.

    Example:
        >>> files_of("folder:/data/flowers"), files_of("oxford_flowers102:2.1.1")
        (('folder', '/data/flowers'), None)
    """
    kind, colon, path = name.partition(":")
    if name.startswith(("/", "~", ".")) or (colon and kind not in FILE_KINDS and "/" in path):
        raise UserError(
            f"config.dataset={name!r} is not valid; write {' or '.join(NOTATION)} for images in "
            f"files, or the name of a tfds dataset."
        )
    return (kind, path) if colon and kind in FILE_KINDS else None


class Relabeled:
    """A source with other labels: those of a network with more classes, or in another order.

    Args:
        source: the examples.
        labels: the new label of each of its labels.
        classes: the names by new label.
    """

    def __init__(self, source: Source, labels: Sequence[int], classes: Sequence[str]):
        self._source, self._labels = source, labels
        self.classes, self.num_classes = tuple(classes), len(classes)
        self.num_examples, self.channels = source.num_examples, source.channels
        self.digest = source.digest

    def read(self, number: int) -> tuple[bytes | np.ndarray, int]:
        """Read the image and the new label of an example."""
        image, label = self._source.read(number)
        return image, self._labels[label]

    def describe(self, number: int) -> str:
        """The file of an example, or its place in the dataset."""
        return self._source.describe(number)
