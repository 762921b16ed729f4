"""Datasets to copy with smaller images: see :mod:`jaxcnn.data.resized`."""

import copy
import dataclasses
import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from tensorflow_datasets.proto import tf_example_pb2

from jaxcnn.data.files import EVALUATION, FileSplit, open_files, split_names
from jaxcnn.data.images import MODES, decode, from_array, to_pillow
from jaxcnn.data.prepared import PreparedSplit, image_of, prepared_builder
from jaxcnn.data.source import NOTATION, Source, files_of
from jaxcnn.data.tfds import tfds
from jaxcnn.data.transforms import resize_shorter
from jaxcnn.errors import UserError, suggest

_KEPT = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # JPEG and PNG
_LARGEST_JPEG = 65_500  # pixels per side, of libjpeg


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How images are resized.

    Attributes:
        shorter_side: in pixels; images whose shorter side is longer are resized to it.
        quality: of the JPEGs that are written, 1 to 100.
    """

    shorter_side: int = 400
    quality: int = 95


def smaller(image: bytes | np.ndarray, channels: int, settings: ImageSettings) -> bytes:
    """Resize an image and encode it as JPEG, or keep it if it is small enough.

    A resized image is a JPEG with one channel where the image is gray and color at half the
    resolution (4:2:0) elsewhere. It is resized by Pillow with an antialiased bicubic filter. Of
    the others JPEG and PNG files are kept byte for byte; other formats, some of which tfds cannot
    read, and arrays become PNGs with the same pixels.

    Args:
        image: an encoded image, or an array for :func:`jaxcnn.data.images.from_array`.
        channels: 3, or 1 for a dataset of gray images.
        settings: how to resize.

    Raises:
        BadImageError: if the image cannot be decoded.
    """
    encoded = isinstance(image, bytes)
    pixels = decode(image, channels) if encoded else from_array(image, channels)
    is_small = min(pixels.shape[:2]) <= settings.shorter_side
    if is_small and encoded and image.startswith(_KEPT):
        return image
    if not is_small:
        pixels = resize_shorter(pixels, settings.shorter_side, "bicubic")
    if channels == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    if is_small or max(pixels.shape) > _LARGEST_JPEG:
        buffer = io.BytesIO()
        to_pillow(pixels).save(buffer, "PNG")
        return buffer.getvalue()
    space = ("GRAY", "Gray") if pixels.shape[-1] == 1 else ("RGB", "420")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), settings.quality, *space)


class Original:
    """A dataset to copy.

    Attributes:
        name: of the copy, as tfds writes it: ``"imagenet2012/5.1.0"``.
        info: the description of the dataset, of which the copy keeps all but the files.
        features: of the copy, in tfds's form.
        image_key: of the images among the features.
        splits: the sources by name in the copy.
    """

    name: str
    info: Any
    features: Any
    image_key: str
    splits: dict[str, Source]

    def record(self, split: str, number: int, settings: ImageSettings) -> bytes:
        """The record of an example in the copy.

        Raises:
            BadImageError: if the image is damaged.
        """
        raise NotImplementedError

    def write_extras(self, folder: Path) -> None:
        """Write what else belongs to the metadata."""


class PreparedOriginal(Original):
    """A dataset that tfds has prepared.

    Args:
        dataset: its name.
        splits: to copy; None: all that have examples.
        data_dir: where it is.
        settings: of the images.
    """

    splits: dict[str, PreparedSplit]

    def __init__(
        self,
        dataset: str,
        splits: Sequence[str] | None,
        data_dir: str | None,
        settings: ImageSettings,
    ):
        builder = prepared_builder(dataset, data_dir, NOTATION)
        existing = [name for name, split in builder.info.splits.items() if split.num_examples]
        names = _chosen(splits, existing, dataset)
        self.splits = {name: PreparedSplit(builder, name) for name in names}
        first = self.splits[names[0]]
        self.name, self.image_key = builder.info.full_name, first.image_key
        if first.channels not in MODES:
            raise UserError(
                f"The images of {dataset!r} have {first.channels} channels; only images of 1 or 3 "
                f"can be copied."
            )
        self.info = copy.deepcopy(builder.info.as_proto)
        self.features = _resized_feature(builder.info.features, self.image_key, settings)
        self._folder = Path(builder.data_path)

    def record(self, split: str, number: int, settings: ImageSettings) -> bytes:
        """The same record with a smaller image."""
        source = self.splits[split]
        record = source.read_record(number)
        image = smaller(image_of(record, self.image_key), source.channels, settings)
        record.features.feature[self.image_key].bytes_list.value[0] = image
        return record.SerializeToString(deterministic=True)

    def write_extras(self, folder: Path) -> None:
        """Copy the files that some datasets have beside the usual ones."""
        for name in ("metadata.json", "LICENSE"):
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)


class FilesOriginal(Original):
    """Images in files; see :mod:`jaxcnn.data.files`.

    Args:
        dataset: ``"folder:/path"`` or ``"csv:/path"``.
        splits: to copy; None: all that exist.
        name: of the copy.
    """

    splits: dict[str, FileSplit]
    image_key = "image"

    def __init__(self, dataset: str, splits: Sequence[str] | None, name: str | None):
        kind, path = files_of(dataset)
        self._root = Path(path).expanduser()
        _check_name(name)
        names = _chosen(splits, split_names(kind, path), dataset)
        opened = {split: open_files(kind, path, split) for split in names}
        # The name by which tfds datasets have it, and configs look for it.
        if "validation" not in opened and (short := next(filter(_is_validation, opened), None)):
            opened = {
                "validation" if split == short else split: source
                for split, source in opened.items()
            }
        self.splits = opened
        classes = next(iter(opened.values())).classes
        odd = [label for label in classes if label.strip() != label or len(label.splitlines()) != 1]
        if odd:
            raise UserError(
                f"The class name {odd[0]!r} cannot be stored by tfds, which keeps one name per "
                f"line; rename the class."
            )
        self.name = f"{name}/1.0.0"
        self.features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=classes),
                "file_name": tfds.features.Text(),
            }
        )
        identity = tfds.core.DatasetIdentity(
            name=name, version=tfds.core.Version("1.0.0"), data_dir="", module_name="jaxcnn"
        )
        self.info = tfds.core.DatasetInfo(
            builder=identity,
            description=f"Images from {self._root.name}.",
            features=self.features,
            supervised_keys=("image", "label"),
        ).as_proto

    def record(self, split: str, number: int, settings: ImageSettings) -> bytes:
        """A record with the image, its label and the path of its file under the root."""
        source = self.splits[split]
        image, label = source.read(number)
        record = tf_example_pb2.Example()
        feature = record.features.feature
        feature["image"].bytes_list.value.append(smaller(image, source.channels, settings))
        feature["label"].int64_list.value.append(label)
        file = os.path.relpath(source.file_of(number), self._root)
        feature["file_name"].bytes_list.value.append(file.encode("utf-8", "replace"))
        return record.SerializeToString(deterministic=True)


def _is_validation(split: str) -> bool:
    return split in EVALUATION and split != "test"


def _chosen(splits: Sequence[str] | None, existing: Sequence[str], dataset: str) -> list[str]:
    """The splits to copy, of those that exist."""
    for name in splits or ():
        if name not in existing:
            raise UserError(
                f"The dataset {dataset!r} has no split {name!r}; {suggest(name, existing)}"
            )
    return [name for name in existing if splits is None or name in splits]


def _check_name(name: str | None) -> None:
    """Refuse a name under which tfds would not find the copy."""
    if name is None:
        raise UserError(
            "--name is missing: the name by which the copy is found afterwards, as in "
            "--config.dataset=NAME; for example --name=flowers."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"--name={name} is not valid; use lowercase letters, digits and underscores, with a "
            f"letter first."
        )
    if name == "digits" or name in tfds.list_builders(with_community_datasets=False):
        raise UserError(f"--name={name} is a dataset of its own; choose another name.")


def _resized_feature(features: Any, key: str, settings: ImageSettings) -> Any:
    """The features of a copy: the image feature says nothing that resizing makes wrong."""
    image = features[key]
    height, width, channels = image.shape
    encoding = image.encoding_format
    if None not in (height, width):
        if min(height, width) <= settings.shorter_side:
            return features  # no image is resized
        shorter = min(height, width)
        height, width = (int(settings.shorter_side * side / shorter) for side in (height, width))
        encoding = "jpeg"
    elif encoding == "png":
        encoding = None  # the resized ones are JPEGs
    changed = tfds.features.Image(shape=(height, width, channels), encoding_format=encoding)
    return tfds.features.FeaturesDict({**features, key: changed})


def open_original(
    dataset: str,
    settings: ImageSettings,
    *,
    data_dir: str | None = None,
    splits: Sequence[str] | None = None,
    name: str | None = None,
) -> Original:
    """Open a dataset to copy; see :func:`jaxcnn.data.resized.copy_resized`.

    Raises:
        UserError: if the dataset or a split does not exist or cannot be copied, or the name of the
            copy is invalid.
    """
    if files_of(dataset) is not None:
        return FilesOriginal(dataset, splits, name)
    if name is not None:
        raise UserError(
            f"--name={name} is for images in files; the copy of {dataset!r} keeps its name."
        )
    return PreparedOriginal(dataset, splits, data_dir, settings)
