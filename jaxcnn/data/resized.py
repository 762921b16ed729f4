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
import dataclasses
import errno
import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from jaxcnn.data.images import BadImageError, decode
from jaxcnn.data.originals import ImageSettings, Original, open_original
from jaxcnn.data.pipeline import processors
from jaxcnn.data.prepared import image_of
from jaxcnn.data.records import FORMATS
from jaxcnn.data.tfds import tfds
from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write

T = TypeVar("T")
R = TypeVar("R")

_FORMAT = "array_record"
# One record per group for random access; JPEGs do not become smaller by compression.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_SETTINGS = "jaxcnn_prepare.json"
_DESCRIPTION = "dataset_info.json"
# Images that are in the works at the same time, per thread.
_AHEAD = 4


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
    if importlib.util.find_spec("array_record") is None:
        raise UserError(
            "Copies are written by the package array_record, which is not installed; there are "
            "wheels of it for Linux and for Macs with Apple silicon."
        )
    settings = settings or ImageSettings()
    original = open_original(dataset, settings, data_dir=data_dir, splits=splits, name=name)
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
            parts = [*(shard.path for shard in work.shards(target)), target / _DESCRIPTION]
            if not all(path.exists() for path in parts):  # damaged ones were deleted
                os.rename(target, _incomplete(target))
        if target.exists():
            sizes = work.check(target)
            _check_description(target, sizes)
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

    original: Original
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
        if len(file) > len(shard.numbers):
            raise UserError(f"The file {path} has too many records; {_again(path)}")
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


def _file_names(original: Original, split: str) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir="",
        dataset_name=original.info.name,
        split=split,
        filetype_suffix=_FORMAT,
    )


def _write_metadata(original: Original, sizes: _Sizes, folder: Path) -> None:
    """Write what tfds needs to know, the description last."""
    original.features.save_config(folder)
    original.write_extras(folder)
    info = original.info
    info.file_format = _FORMAT
    del info.splits[:], info.alternative_file_formats[:]
    for split, parts in sizes.items():
        lengths, bytes_ = zip(*parts, strict=True)
        info.splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(lengths),
                num_bytes=sum(bytes_),
                filename_template=_file_names(original, split),
            ).to_proto()
        )
    tfds.core.dataset_info.write_dataset_info_proto(info, dataset_info_dir=folder)


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


def _check_description(folder: Path, sizes: _Sizes) -> None:
    """Refuse a copy whose files do not have the records that tfds expects."""
    try:
        splits = tfds.builder_from_directory(folder).info.splits
        same = {split: splits[split].shard_lengths for split in splits} == {
            split: [count for count, _ in parts] for split, parts in sizes.items()
        }
    except (OSError, LookupError, ValueError, ParseError):
        same = False
    if not same:
        path = folder / _DESCRIPTION
        raise UserError(f"{path} does not match the files beside it; {_again(path)}")


def _incomplete(target: Path) -> Path:
    """The name of a folder while it is written."""
    return target.with_name(f"{target.name}.incomplete")


@contextlib.contextmanager
def _incomplete_folder(target: Path, made_with: dict[str, Any]) -> Iterator[Path]:
    """A folder for a copy in the making, of this process alone."""
    import fcntl  # not on Windows, for which there is no array_record either

    folder = _incomplete(target)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is writing {folder}; wait for it, or choose another --out."
            ) from error
        _delete_unfinished(folder)  # of a process that was killed
        try:
            if (folder / _SETTINGS).exists():
                _check_settings(folder, made_with)
            else:
                with atomic_write(folder / _SETTINGS) as file:
                    file.write((json.dumps(made_with, indent=2) + "\n").encode())
            yield folder
        finally:
            _delete_unfinished(folder)  # a signal may come as soon as a file exists
    finally:
        os.close(descriptor)


def _delete_unfinished(folder: Path) -> None:
    for temporary in folder.glob(".*"):
        temporary.unlink()


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
        f"{folder} cannot be written ({reason}). Make room, or choose another --out; the same "
        f"command continues a copy where it stopped."
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
