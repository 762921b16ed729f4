"""Copies of datasets with smaller images, in the format of tfds.

A large photograph is mostly decoded in vain: training crops see 224 pixels of it. In a copy each
image was resized once, so that decoding takes less time in every epoch.

A copy is written to ``OUT/NAME/VERSION.incomplete``, one ArrayRecord file after another, each under
a temporary name until it is whole. A process that is killed therefore leaves finished files, from
which the next one continues. Then every record is read and decoded, the metadata of tfds is
written, and the folder gets its final name, ``OUT/NAME/VERSION``.
"""

import collections
import contextlib
import copy
import dataclasses
import errno
import io
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import simplejpeg
from google.protobuf.message import DecodeError
from tensorflow_datasets.core import dataset_info
from tensorflow_datasets.core.naming import ShardedFileTemplate
from tensorflow_datasets.core.splits import SplitInfo
from tensorflow_datasets.proto import tf_example_pb2

from jaxcnn.data.files import EVALUATION, FileSplit, open_files, split_names
from jaxcnn.data.images import MODES, BadImageError, decode, from_array, to_pillow
from jaxcnn.data.pipeline import processors
from jaxcnn.data.prepared import PreparedSplit, image_of, prepared_builder
from jaxcnn.data.records import FORMATS
from jaxcnn.data.source import Source, files_of
from jaxcnn.data.tfds import tfds
from jaxcnn.data.transforms import resize_shorter
from jaxcnn.errors import UserError, suggest
from jaxcnn.io.atomic import atomic_write

T = TypeVar("T")
R = TypeVar("R")

_FORMAT = "array_record"
# One record per group for random access; JPEGs do not become smaller by compression.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_SETTINGS = "jaxcnn_prepare.json"
_KEPT = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # JPEG and PNG
_LARGEST_JPEG = 65_500  # pixels per side, of libjpeg
# Images that are in the works at the same time, per thread.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How images are resized.

    Attributes:
        shorter_side: in pixels; images whose shorter side is longer are resized to it.
        quality: of the JPEGs that are written, 1 to 100.
    """

    shorter_side: int = 400
    quality: int = 95


@dataclasses.dataclass(frozen=True)
class Copy:
    """A finished copy.

    Attributes:
        name: of the dataset, as tfds writes it: ``"imagenet2012/5.1.0"``.
        folder: of its files.
        examples: how many each split has.
        skipped: how many damaged images were left out.
        bytes_before: size of the files of the copied splits.
        bytes_after: size of the files of the copy.
    """

    name: str
    folder: Path
    examples: Mapping[str, int]
    skipped: int
    bytes_before: int
    bytes_after: int


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


class _Original:
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


class _OriginalPrepared(_Original):
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
        builder = prepared_builder(dataset, data_dir)
        existing = [name for name, split in builder.info.splits.items() if split.num_examples]
        names = _chosen(splits, existing, dataset)
        self.splits = {name: PreparedSplit(builder, name) for name in names}
        first = self.splits[names[0]]
        self.name, self.image_key, channels = (
            builder.info.full_name,
            first.image_key,
            first.channels,
        )
        if channels not in MODES:
            raise UserError(
                f"The images of {dataset!r} have {channels} channels; only images of 1 or 3 can be "
                f"copied."
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


class _OriginalFiles(_Original):
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


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file of the copy.

    Attributes:
        split: its split in the copy.
        path: of the file.
        numbers: of the examples that it has, unless they are damaged.
    """

    split: str
    path: Path
    numbers: range


def _no_progress(what: str, done: int, total: int) -> Callable[[], None]:
    return lambda: None


def copy_resized(
    dataset: str,
    out: str | os.PathLike[str],
    settings: ImageSettings | None = None,
    *,
    data_dir: str | None = None,
    splits: Sequence[str] | None = None,
    name: str | None = None,
    shard_examples: int = 4096,
    skip_damaged: bool = False,
    workers: int | None = None,
    report: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[str, int, int], Callable[[], None]] = _no_progress,
) -> Copy:
    """Write a copy of a dataset with smaller images, or finish one that was begun.

    Examples keep their order, number, label and other features, and classes their names. Of
    features other than the supervised image, none is resized. The copy is found by
    :func:`jaxcnn.data.source.open_source` with ``data_dir=out``, and by tfds.

    Args:
        dataset: see :func:`jaxcnn.data.source.open_source`.
        out: the folder for the copy, which may have others.
        settings: how images are resized.
        data_dir: where tfds's prepared datasets are; None: tfds's own default.
        splits: which to copy; None: all. A validation split of files that has another name,
            such as ``val``, is ``validation`` in the copy.
        name: of the copy of images in files; a tfds dataset keeps its own.
        shard_examples: how many examples a file has at most.
        skip_damaged: leave damaged images out.
        workers: how many threads; None: as many as there are processors.
        report: called with a sentence about each damaged image.
        progress: called with what is done, the images that are done already and all of them;
            returns what is called after each further image.

    Raises:
        UserError: if the dataset cannot be read, an image is damaged and ``skip_damaged`` is not
            set, a copy with other settings exists, or the copy cannot be written or is damaged.
    """
    settings = settings or ImageSettings()
    if files_of(dataset) is not None:
        original = _OriginalFiles(dataset, splits, name)
    elif name is not None:
        raise UserError(
            f"--name={name} is for images in files; the copy of {dataset!r} keeps its name."
        )
    else:
        original = _OriginalPrepared(dataset, splits, data_dir, settings)
    target = Path(out).expanduser() / original.name
    made_with = {
        **dataclasses.asdict(settings),
        "shard_examples": shard_examples,
        "splits": {
            split: {"examples": source.num_examples, "digest": source.digest}
            for split, source in original.splits.items()
        },
    }
    work = _Work(original, settings, shard_examples, skip_damaged, workers, report, progress)
    try:
        if target.exists():
            _check_settings(target, made_with)
            sizes = work.check(target)
        else:
            with _incomplete_folder(target, made_with) as folder:
                work.write(folder)
                sizes = work.check(folder)
                _write_metadata(original, sizes, folder)
                os.rename(folder, target)
    except OSError as error:
        raise UserError(_unwritable(target, error.strerror or str(error))) from error
    examples = {split: sum(count for count, _ in parts) for split, parts in sizes.items()}
    planned = sum(source.num_examples for source in original.splits.values())
    files = {file for source in original.splits.values() for file in source.files}
    return Copy(
        name=original.name,
        folder=target,
        examples=examples,
        skipped=planned - sum(examples.values()),
        bytes_before=sum(file.stat().st_size for file in files if file.exists()),
        bytes_after=sum(file.stat().st_size for file in target.iterdir()),
    )


# Of each split and each of its files: the number of examples, and of bytes in them.
_Sizes = dict[str, list[tuple[int, int]]]


@dataclasses.dataclass(frozen=True)
class _Work:
    """The work on a copy; the attributes are arguments of :func:`copy_resized`."""

    original: _Original
    settings: ImageSettings
    shard_examples: int
    skip_damaged: bool
    workers: int | None
    report: Callable[[str], None]
    progress: Callable[[str, int, int], Callable[[], None]]

    def shards(self, folder: Path) -> list[_Shard]:
        """The files of the copy, of about equal numbers of examples."""
        shards = []
        for split, source in self.original.splits.items():
            total = source.num_examples
            count = -(-total // self.shard_examples)
            for index in range(count):
                name = _file_names(self.original, split).sharded_filepath(
                    shard_index=index, num_shards=count
                )
                numbers = range(index * total // count, (index + 1) * total // count)
                shards.append(_Shard(split, folder / Path(name).name, numbers))
        return shards

    def write(self, folder: Path) -> None:
        """Write the files that do not exist yet.

        Raises:
            UserError: if there are damaged images that may not be skipped.
        """
        shards = self.shards(folder)
        missing = [shard for shard in shards if not self._is_finished(shard)]
        total, left = (sum(len(shard.numbers) for shard in part) for part in (shards, missing))
        step = self.progress("resizing", total - left, total)
        examples = ((shard.split, number) for shard in missing for number in shard.numbers)
        damaged = 0
        with _in_order(self._convert, examples, self.workers) as results:
            for shard in missing:
                with _shard_writer(shard.path) as write:
                    for number, result in zip(shard.numbers, results, strict=False):
                        if isinstance(result, bytes):
                            write(result)
                        else:
                            damaged += 1
                            where = self.original.splits[shard.split].describe(number)
                            self.report(f"Damaged: {where}: {str(result).rstrip('.')}.")
                        step()
        if damaged and not self.skip_damaged:
            images = "image is" if damaged == 1 else "images are"
            raise UserError(
                f"{damaged:,} {images} damaged; repair what is named above, or run the same "
                f"command with --skip_damaged, which finishes the copy without."
            )

    def _convert(self, example: tuple[str, int]) -> bytes | BadImageError:
        try:
            return self.original.record(*example, self.settings)
        except BadImageError as error:
            return error

    def _is_finished(self, shard: _Shard) -> bool:
        """Whether a file is there, with all examples unless damaged ones may be left out."""
        try:
            count = len(FORMATS[_FORMAT](str(shard.path))) if shard.path.exists() else 0
        except UserError:  # damaged
            return False
        return count == len(shard.numbers) or (self.skip_damaged and count > 0)

    def check(self, folder: Path) -> _Sizes:
        """Read every record and decode its image.

        Raises:
            UserError: if that fails, or a file has more or fewer examples than it should have.
        """
        sizes: _Sizes = {split: [] for split in self.original.splits}
        shards = self.shards(folder)
        files = [self._open(shard) for shard in shards]
        step = self.progress("checking", 0, sum(map(len, files)))
        records = (
            (shard, file, index)
            for shard, file in zip(shards, files, strict=True)
            for index in range(len(file))
        )
        with _in_order(self._length, records, self.workers) as lengths:
            for shard, file in zip(shards, files, strict=True):
                size = 0
                for length in itertools.islice(lengths, len(file)):
                    size += length
                    step()
                sizes[shard.split].append((len(file), size))
        return sizes

    def _open(self, shard: _Shard) -> Any:
        path = shard.path
        if not path.exists():
            raise UserError(f"The file {path} is missing; {_again(path.parent)}")
        try:
            file = FORMATS[_FORMAT](str(path))
        except UserError as error:
            raise UserError(f"The file {path} is damaged; {_again(path)}") from error
        if not len(file):
            raise UserError(f"All images that belong in {path} are damaged; repair the dataset.")
        return file

    def _length(self, record: tuple[_Shard, Any, int]) -> int:
        """The bytes of a record, whose image can be decoded."""
        shard, file, index = record
        try:
            content = file[index]
            image = image_of(tf_example_pb2.Example.FromString(content), self.original.image_key)
            decode(image, self.original.splits[shard.split].channels)
        except (BadImageError, DecodeError, LookupError, ValueError) as error:
            raise UserError(
                f"Record {index} of {shard.path} is damaged ({error}); {_again(shard.path)}"
            ) from error
        return len(content)


def _again(path: Path) -> str:
    return f"delete {path} and run the same command again."


def _file_names(original: _Original, split: str) -> ShardedFileTemplate:
    return ShardedFileTemplate(
        data_dir="",
        dataset_name=original.info.name,
        split=split,
        filetype_suffix=_FORMAT,
    )


def _write_metadata(original: _Original, sizes: _Sizes, folder: Path) -> None:
    """Write what tfds needs to know, the description last."""
    original.features.save_config(folder)
    original.write_extras(folder)
    info = original.info
    info.file_format = _FORMAT
    del info.splits[:], info.alternative_file_formats[:]
    for split, parts in sizes.items():
        lengths, bytes_ = zip(*parts, strict=True)
        info.splits.append(
            SplitInfo(
                name=split,
                shard_lengths=list(lengths),
                num_bytes=sum(bytes_),
                filename_template=_file_names(original, split),
            ).to_proto()
        )
    dataset_info.write_dataset_info_proto(info, dataset_info_dir=folder)


def _check_settings(folder: Path, made_with: dict[str, Any]) -> None:
    """Refuse a copy that was made otherwise."""
    try:
        found = dict(json.loads((folder / _SETTINGS).read_text()))
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} exists and is not a copy by this command; choose another --out."
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / _SETTINGS} is damaged; {_again(folder)}") from error
    if found == made_with:
        return
    different = [key for key in made_with if found.get(key) != made_with[key]]
    if different == ["splits"] or not different:
        if list(found["splits"]) != list(made_with["splits"]):
            what = f"of the splits {', '.join(found['splits'])}"
        else:
            what = "of other examples"
    else:
        key = different[0]
        what = f"with --{key}={found.get(key)}, not {made_with[key]}"
    raise UserError(
        f"{folder} is a copy {what}; choose another --out, or delete it to make it again."
    )


@contextlib.contextmanager
def _incomplete_folder(target: Path, made_with: dict[str, Any]) -> Iterator[Path]:
    """A folder for a copy in the making, of this process alone."""
    import fcntl  # not on Windows, for which there is no array_record either

    folder = target.with_name(f"{target.name}.incomplete")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is writing {folder}; wait for it, or choose another --out."
            ) from error
        for temporary in folder.glob(".*"):
            temporary.unlink()  # of a process that was killed
        if (folder / _SETTINGS).exists():
            _check_settings(folder, made_with)
        else:
            with atomic_write(folder / _SETTINGS) as file:
                file.write((json.dumps(made_with, indent=2) + "\n").encode())
        yield folder
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _shard_writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that writes a record to a file, which gets its name when the block ends."""
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.with_name(f".{path.name}.incomplete")
    with _system_errors(path.parent):
        writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)

    def write(record: bytes) -> None:
        with _system_errors(path.parent):
            writer.write(record)

    try:
        yield write
        with _system_errors(path.parent):
            writer.close()
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Explain a RuntimeError, which ArrayRecord makes of every error of the system."""
    try:
        yield
    except RuntimeError as error:
        known = map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES))
        reason = next((text for text in known if text in str(error)), str(error))
        raise UserError(_unwritable(folder, reason)) from error


def _unwritable(folder: Path, reason: str) -> str:
    return (
        f"{folder} cannot be written ({reason}); once there is space and permission, the same "
        f"command continues where it stopped."
    )


@contextlib.contextmanager
def _in_order(
    function: Callable[[T], R], items: Iterable[T], workers: int | None
) -> Iterator[Iterator[R]]:
    """The results of a function that threads call, a few items ahead, in the items' order."""
    workers = workers or processors()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")

    def results() -> Iterator[R]:
        pending: collections.deque[Future[R]] = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)
