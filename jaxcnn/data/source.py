"""One split of a dataset, read example by example in any order.

Random access is what makes the rest simple: a shuffle is a permutation of numbers, a host's part
is a slice of it, and going on in the middle of an epoch costs nothing.
"""

from typing import Protocol

import numpy as np

from jaxcnn.errors import UserError

# What stands before the path of images that tfds knows nothing of: folder:/path, csv:/path.
FILE_KINDS = ("folder", "csv")
_NOTATION = [f"{kind}:/path" for kind in FILE_KINDS]


class Source(Protocol):
    """A split of an image-classification dataset.

    Attributes:
        num_examples: how many examples the split has.
        num_classes: how many classes the dataset has.
        channels: of its images (3 where the dataset does not say).
        digest: of what the examples are; equal on all hosts of a run.
    """

    num_examples: int
    num_classes: int
    channels: int
    digest: int

    def read(self, number: int) -> tuple[bytes | np.ndarray, int]:
        """The image and the label of an example.

        Args:
            number: 0 to ``num_examples`` - 1.

        Returns:
            The image as :func:`jaxcnn.data.images.decode` or
            :func:`jaxcnn.data.images.from_array` takes it, and the class.

        Raises:
            BadImageError: if there is none.
        """
        ...

    def where(self, number: int) -> str:
        """Names an example for a person."""
        ...


def open_source(name: str, split: str | None, data_dir: str | None = None) -> Source:
    """Opens a split of a dataset; downloads and prepares a tfds dataset if tfds can.

    Args:
        name: ``"digits"``, a tfds dataset (``"cifar10"``, ``"imagenet2012"``,
            ``"oxford_flowers102:2.1.1"``), or images in files: ``"folder:/path"`` of a folder a
            class, ``"csv:/path"`` of a table a split (see :mod:`jaxcnn.data.files`).
        split: in tfds's notation (``"train"``, ``"train[:90%]"``); None: the validation split, or
            else the test split.
        data_dir: where tfds's prepared datasets are; None: tfds's own default.

    Raises:
        UserError: for an unknown dataset or split, for one that must be prepared by hand, and
            when preparing fails.
    """
    kind, colon, path = name.partition(":")
    if name.startswith(("/", "~", ".")) or (colon and kind not in FILE_KINDS and "/" in path):
        raise UserError(
            f"config.dataset is {name!r}; images in files are {' or '.join(_NOTATION)}, all else "
            f"is a name of tfds's."
        )
    if colon and kind in FILE_KINDS:
        from jaxcnn.data.files import open_files

        return open_files(kind, path, split)
    from jaxcnn.data.prepared import open_prepared

    return open_prepared(name, split, data_dir, others=_NOTATION)
