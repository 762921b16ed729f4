"""One split of a dataset, read record by record in any order.

Random access is what makes the rest simple: a shuffle is a permutation of numbers, a host's part
is a slice of it, and going on in the middle of an epoch costs nothing.
"""

import bisect
import itertools
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxcnn.data.tensorflow import tf, tfds
from jaxcnn.errors import UserError, suggest

_SCAN_THREADS = 16


class Source:
    """A split of a tfds image-classification dataset.

    Attributes:
        num_examples: how many examples the split has.
        num_classes: how many classes the dataset has.
        channels: of its images (3 where the dataset does not say).
        features: the tfds features, which decode a record.
        image_key: name of the image among the features.
        label_key: name of the label among the features.
    """

    def __init__(self, builder: Any, split: str):
        """Opens a split, in tfds's notation (``"train"``, ``"train[:90%]"``), of a prepared set.

        Raises:
            UserError: if there is no such split, the features are not one uint8 image and one
                label, or the files are not those that the dataset's description speaks of.
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
        self.features = builder.info.features
        self.image_key, self.label_key = _supervised_keys(name, builder.info)
        self.num_examples = info.num_examples
        self.num_classes = self.features[self.label_key].num_classes
        self.channels = self.features[self.image_key].shape[-1] or 3
        open_file = _RECORD_FILES.get(builder.info.file_format)
        if open_file is None:
            raise UserError(
                f"The dataset {name} is stored as {builder.info.file_format.value}, which has no "
                f"reader here; prepare it as tfrecord or array_record."
            )
        self._records = _Records(info.file_instructions, open_file)

    def read(self, indices: np.ndarray) -> list[bytes]:
        """The serialized examples with these numbers (0 to ``num_examples`` - 1)."""
        return [self._records[int(index)] for index in indices]


def open_source(name: str, split: str | None, data_dir: str | None = None) -> Source:
    """Opens a split of a dataset; downloads and prepares the dataset if tfds can.

    Args:
        name: ``"digits"``, or a tfds dataset (``"cifar10"``, ``"imagenet2012"``,
            ``"oxford_flowers102:2.1.1"``).
        split: in tfds's notation (``"train"``, ``"train[:90%]"``); None: the validation split, or
            else the test split.
        data_dir: where prepared datasets are; None: tfds's own default.

    Raises:
        UserError: for an unknown dataset or split, for one that must be prepared by hand, and
            when preparing fails.
    """
    builder = _prepared_builder(name, data_dir)
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
    return Source(builder, split)


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    try:
        if name == "digits":
            from jaxcnn.data.digits import Digits

            builder = Digits(data_dir=data_dir)
        else:
            builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        raise UserError(f"tfds has no dataset {name!r}; {suggest(name, known)}") from error
    except (AssertionError, ValueError) as error:  # tfds's, for a version or variant it lacks
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"tfds cannot open the dataset {name!r}: {reason}") from error
    if builder.is_prepared():
        return builder

    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise UserError(
            f"The dataset {name!r} is not prepared under {builder.data_dir_root}, and its files "
            f"must be downloaded by hand: see 'ImageNet' in the README for preparing it with "
            f"tfds, point --data_dir at a folder where it is prepared, or try ':digits' after "
            f"the config file, which needs nothing."
        )
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
    """The image and the label that the dataset itself names, or else its only ones."""
    features = info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    named = info.supervised_keys or ()
    if len(named) == 2 and named[0] in images and named[1] in labels:
        images, labels = [named[0]], [named[1]]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"The dataset {name} is not one image and one label an example (its features are "
            f"{', '.join(features)}); choose an image-classification dataset."
        )
    if features[images[0]].np_dtype != np.uint8:
        raise UserError(
            f"The images of the dataset {name} are {features[images[0]].np_dtype}, not uint8; "
            f"choose another dataset."
        )
    return images[0], labels[0]


class _RecordFile(Protocol):
    """One file of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


class _TFRecordFile:
    """Records of a TFRecord file: length (8 bytes), its checksum (4), data, its checksum (4).

    The file is opened for each record: a thousand shards may be more than a process may hold open.
    """

    def __init__(self, path: str):
        self._path = path
        offsets = []
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            offset = 0
            while offset < size:
                header = os.pread(file.fileno(), 8, offset)
                length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
                end = offset + 12 + length + 4
                if end > size:
                    raise UserError(
                        f"The file {path} is damaged: its record {len(offsets)} ends past the end "
                        f"of the file; prepare the dataset again."
                    )
                offsets.append(offset)
                offset = end
        self._offsets = np.array([*offsets, offset], np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        start, end = int(self._offsets[index]) + 12, int(self._offsets[index + 1]) - 4
        with open(self._path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)


def _open_array_record(path: str) -> _RecordFile:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource([path])


_RECORD_FILES = {
    tfds.core.FileFormat.TFRECORD: _TFRecordFile,
    tfds.core.FileFormat.ARRAY_RECORD: _open_array_record,
}


class _Records:
    """The records of a split, over the (parts of) files that make it up."""

    def __init__(self, instructions: Sequence[Any], open_file: Any):
        for instruction in instructions:
            if not Path(instruction.filename).is_file():
                raise UserError(
                    f"The file {instruction.filename} is missing (datasets must lie on a local or "
                    f"mounted disk); prepare the dataset again."
                )
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            self._files = list(pool.map(open_file, (i.filename for i in instructions)))
        for file, instruction in zip(self._files, instructions, strict=True):
            if len(file) != instruction.examples_in_shard:
                raise UserError(
                    f"The file {instruction.filename} holds {len(file)} examples where its "
                    f"description says {instruction.examples_in_shard}; prepare the dataset again."
                )
        self._skips = [i.skip for i in instructions]
        self._ends = list(
            itertools.accumulate(
                i.examples_in_shard - i.skip if i.take == -1 else i.take for i in instructions
            )
        )

    def __getitem__(self, index: int) -> bytes:
        part = bisect.bisect_right(self._ends, index)
        start = self._ends[part - 1] if part else 0
        return self._files[part][index - start + self._skips[part]]


def parse_example(source: Source, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The encoded image (a scalar string) and the label (int32) of a serialized example."""
    example = source.features.deserialize_example(
        record, decoders={source.image_key: tfds.decode.SkipDecoding()}
    )
    return example[source.image_key], tf.cast(example[source.label_key], tf.int32)
