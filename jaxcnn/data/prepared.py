"""Splits of tfds datasets."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from jaxcnn.data.images import BadImageError
from jaxcnn.data.records import FORMATS, Records
from jaxcnn.data.tfds import keep_off_accelerators, tfds
from jaxcnn.errors import UserError, suggest
from jaxcnn.io.paths import as_path, in_bucket

_DAMAGED = "its record is damaged"


class PreparedSplit:
    """A split of a tfds image-classification dataset; a :class:`jaxcnn.data.source.Source`.

    Attributes:
        image_key: name of the feature that is the image.
        files: that have the examples.
    """

    def __init__(self, builder: Any, split: str):
        """Open a split, in tfds's notation (``"train"``, ``"train[:90%]"``), of a prepared dataset.

        Raises:
            UserError: if the split is unknown or empty, the features are not one uint8 image and
                one label, or the files do not match the dataset's description.
        """
        name = builder.info.full_name
        try:
            info = builder.info.splits[split]
        except (KeyError, ValueError) as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"The dataset {name} has no split {split!r}; it has {known}, and parts of them "
                f"such as 'train[:90%]' (config.train_split, config.eval.split)."
            ) from error
        if not info.num_examples:
            raise UserError(
                f"The split {split!r} of the dataset {name} is empty; choose a larger part "
                f"(config.train_split, config.eval.split)."
            )
        features = builder.info.features
        self.image_key, self._label_key = _supervised_keys(name, builder.info)
        self._name = f"{name} {split}"
        self.num_examples = info.num_examples
        self.classes = tuple(features[self._label_key].names)
        self.num_classes = len(self.classes)
        self.channels = features[self.image_key].shape[-1] or 3
        self.digest = zlib.crc32(f"{self._name} {self.num_examples}".encode())
        open_file = FORMATS.get(builder.info.file_format.value)
        if open_file is None:
            raise UserError(
                f"The dataset {name} is stored as {builder.info.file_format.value}, which cannot "
                f"be read; prepare it as {' or '.join(FORMATS)}."
            )
        self.files = tuple(as_path(part.filename) for part in info.file_instructions)
        self._records = Records(info.file_instructions, open_file)

    def read(self, number: int) -> tuple[bytes, int]:
        """Read the encoded image and the label of an example."""
        record = self.read_record(number)
        label = record.features.feature[self._label_key].int64_list.value[0]
        return image_of(record, self.image_key), label

    def read_record(self, number: int) -> tf_example_pb2.Example:
        """Read the record of an example, with all of its features as they are stored.

        Raises:
            BadImageError: if it is damaged, or has no image or no label.
        """
        try:
            # In a third of the time that tfds takes, which copies the image several times.
            record = tf_example_pb2.Example.FromString(self._records[number])
        except (DecodeError, ValueError) as error:
            raise BadImageError(_DAMAGED) from error
        feature = record.features.feature
        if not (
            feature[self.image_key].bytes_list.value and feature[self._label_key].int64_list.value
        ):
            raise BadImageError(_DAMAGED)
        return record

    def describe(self, number: int) -> str:
        """The place of an example in the dataset, and of its record."""
        return f"example {number} of {self._name} ({self._records.describe(number)})"


def image_of(record: tf_example_pb2.Example, key: str) -> bytes:
    """The encoded image in a record; IndexError if there is none."""
    return record.features.feature[key].bytes_list.value[0]


def open_prepared(
    name: str, split: str | None, data_dir: str | None, others: Sequence[str] = ()
) -> PreparedSplit:
    """Open a split; see :func:`jaxcnn.data.source.open_source`.

    Args:
        name: of a tfds dataset, or ``"digits"``.
        split: in tfds's notation.
        data_dir: where prepared datasets are.
        others: notations of datasets that tfds does not have, for the error about an unknown one.
    """
    if data_dir is not None and in_bucket(data_dir):
        from jaxcnn.io.bucket import translated_errors

        data_dir = str(as_path(data_dir))
        try:
            with translated_errors(data_dir):
                return _open(name, split, data_dir, others)
        except OSError as error:
            raise UserError(
                f"--data_dir={data_dir} cannot be read ({error.strerror or error})."
            ) from error
    return _open(name, split, data_dir, others)


def _open(
    name: str, split: str | None, data_dir: str | None, others: Sequence[str]
) -> PreparedSplit:
    builder = prepared_builder(name, data_dir, others)
    if split is None:
        # The labels of ImageNet's test split, and of others like it, are not published.
        known = [name for name in ("validation", "test") if name in builder.info.splits]
        if not known:
            raise UserError(
                f"The dataset {name!r} has neither a validation nor a test split; set "
                f"--config.eval.split to a part of another, such as 'train[90%:]', and "
                f"--config.train_split to the rest."
            )
        split = known[0]
    return PreparedSplit(builder, split)


def prepared_builder(name: str, data_dir: str | None, others: Sequence[str] = ()) -> Any:
    """The tfds builder of a dataset, which is prepared first if necessary.

    The arguments and errors are those of :func:`open_prepared`.
    """
    try:
        if name == "digits":
            from jaxcnn.data.digits import Digits

            builder = Digits(data_dir=data_dir)
        else:
            builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        files = f" Images in files are {' or '.join(others)}." if others else ""
        raise UserError(
            f"config.dataset={name!r}: tfds has no such dataset; {suggest(name, known)}{files}"
        ) from error
    except (AssertionError, ValueError) as error:  # tfds's, for an unknown version or variant
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"tfds cannot open the dataset {name!r}: {reason}") from error
    if builder.is_prepared():
        return builder
    if data_dir is not None and in_bucket(data_dir):
        raise UserError(
            f"The dataset {name!r} is not prepared under {data_dir}; prepare it on a disk, and "
            f"copy its folder there, {name}/CONFIG/VERSION and all."
        )

    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise UserError(
            f"The dataset {name!r} is not prepared under {builder.data_dir_root}, and its files "
            f"must be downloaded by hand: see 'ImageNet' in docs/training.md for preparing it with "
            f"tfds, point --data_dir at a folder where it is prepared, or try ':digits' after "
            f"the config file, which needs no download."
        )
    keep_off_accelerators()
    try:
        builder.download_and_prepare()
    except (OSError, tfds.download.DownloadError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"The dataset {name!r} could not be prepared under {builder.data_dir_root} ({reason}); "
            f"check the network, the disk and the permissions there, or choose another --data_dir."
        ) from error
    return builder


def _supervised_keys(name: str, info: Any) -> tuple[str, str]:
    """The keys of the image and the label: the supervised ones, or else the only ones."""
    features = info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    named = info.supervised_keys or ()
    if len(named) == 2 and named[0] in images and named[1] in labels:
        images, labels = [named[0]], [named[1]]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"The dataset {name} does not have one image and one label per example (its features "
            f"are {', '.join(features)}); choose an image-classification dataset."
        )
    if features[images[0]].np_dtype != np.uint8:
        raise UserError(
            f"The images of the dataset {name} are {features[images[0]].np_dtype}, not uint8; "
            f"choose another dataset."
        )
    return images[0], labels[0]
