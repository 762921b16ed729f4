"""Batches of uint8 images for this host, each a function of (seed, step) alone.

The shuffle of an epoch is a permutation drawn from (seed, epoch); a step takes the next
``batch_size`` examples of it, and a host its rows of those. Crops and flips are drawn from (seed,
epoch, example, repeat). So the stream does not depend on the number of threads, hosts or earlier
crashes.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from jaxcnn.data import transforms
from jaxcnn.data.images import BadImageError, decode, from_array, from_pillow, to_pillow
from jaxcnn.data.policies import POLICIES
from jaxcnn.data.source import Source

T = TypeVar("T")
Batch = dict[str, np.ndarray]

# Batches that are made ahead of the one in use.
_AHEAD = 2
_MAX_REPLACEMENTS = 100
# Repeated examples fill a multiple of this many rows per epoch, as torchvision's RASampler.
_REPEATS_MULTIPLE = 256


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Preprocessing of an image on the host.

    Attributes:
        image_size: height and width of the result, in pixels.
        channels: of the result, 1 or 3.
        crop: one of :data:`jaxcnn.data.presets.TRAIN_CROPS`, or of ``EVAL_CROPS``.
        fit: one of :data:`jaxcnn.data.presets.FITS`.
        interpolation: one of :data:`jaxcnn.data.transforms.INTERPOLATIONS`.
    """

    image_size: int
    channels: int
    crop: str
    fit: str
    interpolation: str = "bilinear"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.image_size, self.image_size, self.channels

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Convert an image ``[H, W, channels]`` to :attr:`shape`, with the rng of this example."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class TrainPreprocess(Preprocess):
    """Preprocessing of a training image on the host.

    Attributes:
        padding: for ``pad_and_crop``, in pixels on each side.
        flip: whether to mirror half of the images.
        policy: one of :data:`jaxcnn.data.policies.POLICIES`, or ``"none"``; it has the
            interpolation of the resize, as in torchvision's training reference.
        resize_size: for ``resize_and_crop``, in pixels; at least ``image_size``.
    """

    padding: int = 0
    flip: bool = False
    policy: str = "none"
    resize_size: int = 0

    def at_size(self, image_size: int) -> "TrainPreprocess":
        """The same for images of another size; padding and resize_size change in proportion."""
        scale = image_size / self.image_size
        return dataclasses.replace(
            self,
            image_size=image_size,
            padding=round(self.padding * scale),
            resize_size=round(self.resize_size * scale),
        )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Convert an image ``[H, W, channels]`` to :attr:`shape`, with the rng of this example."""
        if self.crop == "random_resized_crop":
            image = transforms.random_resized_crop(image, self.image_size, rng, self.interpolation)
        elif self.crop == "resize_and_crop":
            image = transforms.resize_and_crop(
                image, self.resize_size, self.image_size, rng, self.interpolation
            )
        else:
            image = transforms.fit(image, self.image_size, self.fit, self.interpolation)
            if self.crop == "pad_and_crop":
                image = transforms.pad_and_crop(image, self.padding, rng)
        if self.flip:
            image = transforms.random_flip(image, rng)
        if self.policy != "none":
            policy = POLICIES[self.policy]
            image = from_pillow(policy(to_pillow(image), rng, interpolation=self.interpolation))
        return image


@dataclasses.dataclass(frozen=True)
class EvalPreprocess(Preprocess):
    """Preprocessing of an evaluation image on the host.

    Attributes:
        resize_size: for ``resize_and_center_crop``, in pixels.
        crops: 1, or 10 for the four corners and the center, and their mirror images.
    """

    resize_size: int = 0
    crops: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return super().shape if self.crops == 1 else (self.crops, *super().shape)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Convert an image ``[H, W, channels]`` to :attr:`shape`; nothing is random."""
        if self.crop == "none":
            return transforms.fit(image, self.image_size, self.fit, self.interpolation)
        image = transforms.resize_shorter(image, self.resize_size, self.interpolation)
        if self.crops == 10:
            return transforms.ten_crop(image, self.image_size)
        return transforms.center_crop(image, self.image_size)


class BadImageLog:
    """Reports each bad image of a split once on this host.

    Args:
        source: the split.
        report: called with a sentence about each.
    """

    def __init__(self, source: Source, report: Callable[[str], None] = lambda sentence: None):
        self._source, self._report = source, report
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def add(self, number: int, reason: str) -> None:
        """Record that an example is skipped."""
        with self._lock:
            known = number in self._seen
            self._seen.add(number)
        if not known:
            self._report(f"Skipped {self._source.describe(number)}: {reason.rstrip('.')}.")


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Shuffle the example numbers for an epoch, ``[num_examples]``."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(num_examples)


def steps_per_epoch(num_examples: int, batch_size: int, repeats: int = 1) -> int:
    """The number of full batches in an epoch.

    Repeats do not lengthen it: an epoch then has fewer of the examples.

    Source: ``RASampler`` of torchvision's ``references/classification/sampler.py``.

    Example:
        >>> steps_per_epoch(1000, 64), steps_per_epoch(1000, 64, repeats=4)
        (15, 12)
    """
    rows = num_examples
    if repeats > 1:
        rows = num_examples // _REPEATS_MULTIPLE * _REPEATS_MULTIPLE
    return rows // batch_size


def train_batches(
    source: Source,
    preprocess: TrainPreprocess,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    repeats: int = 1,
    replicas: int = 1,
    image_sizes: Sequence[tuple[int, int]] = (),
    process_index: int = 0,
    process_count: int = 1,
    bad_images: BadImageLog | None = None,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Yield the training batches of the steps ``start_step`` to ``num_steps`` - 1.

    An epoch has :func:`steps_per_epoch` steps; different examples are left out in every epoch. An
    image that cannot be decoded is replaced by another one, drawn from (seed, epoch, example), or
    by a black one after a hundred bad images in a row.

    With ``repeats``, an epoch goes through the shuffled examples, each ``repeats`` times in a row,
    as far as its steps reach. The repeats of an example have their own crops and flips, and are
    dealt to the replicas in turn, so that they are on different ones.

    Args:
        source: the examples.
        preprocess: of each image.
        batch_size: over all hosts, a multiple of ``process_count``.
        seed: of the shuffles, crops and flips.
        start_step: number of the first step; resuming in the middle of an epoch costs nothing.
        num_steps: number of the step after the last.
        repeats: how many times an epoch has each of its examples.
        replicas: over all hosts; each has the same number of consecutive rows of a batch.
        image_sizes: pairs of an epoch and the image size from then on, in order; the first epoch
            is 0. Empty: that of ``preprocess`` throughout. See :meth:`TrainPreprocess.at_size`.
        process_index: which host this is.
        process_count: how many there are.
        bad_images: where bad images are recorded.
        threads: how many decode; None: as many as there are processors.

    Yields:
        Arrays of ``batch_size / process_count`` rows: ``image`` ``[N, size, size, C]`` uint8,
        ``label`` int32, and ``skipped`` int32, the number of bad images skipped for each row.
    """
    epoch_steps = steps_per_epoch(source.num_examples, batch_size, repeats)
    rows = _host_rows(batch_size, process_index, process_count)
    bad_images = bad_images or BadImageLog(source)
    shuffling = threading.Lock()
    first_epochs, sizes = zip(*(image_sizes or [(0, preprocess.image_size)]), strict=True)
    by_size = [preprocess.at_size(size) for size in sizes]

    def preprocess_of(step: int) -> TrainPreprocess:
        return by_size[bisect.bisect_right(first_epochs, step // epoch_steps) - 1]

    def load(batch: Batch, step: int, row: int) -> None:
        epoch, step_of_epoch = divmod(step, epoch_steps)
        with shuffling:  # otherwise every thread would shuffle at the start of an epoch
            order = epoch_order(seed, epoch, source.num_examples)
        place = rows[row] if repeats == 1 else _dealt(rows[row], batch_size, replicas)
        position, repeat = divmod(step_of_epoch * batch_size + place, repeats)
        number = int(order[position])
        substitutes = None
        for skipped in range(_MAX_REPLACEMENTS):
            key = _key(seed, epoch, number, repeat)
            rng = np.random.default_rng(key)
            if _load(source, number, preprocess_of(step), rng, batch, row, bad_images):
                batch["skipped"][row] = skipped
                return
            substitutes = substitutes or np.random.default_rng([*key, 1])
            number = int(substitutes.integers(source.num_examples))
        batch["image"][row], batch["label"][row] = 0, 0
        batch["skipped"][row] = _MAX_REPLACEMENTS

    columns = {"skipped": np.int32}
    steps = range(start_step, num_steps)
    yield from _batches(
        load, steps, len(rows), lambda step: preprocess_of(step).shape, columns, threads
    )


def _dealt(row: int, batch_size: int, replicas: int) -> int:
    """The place of a row among those of a batch that are dealt to the replicas in turn."""
    replica, row_of_replica = divmod(row, batch_size // replicas)
    return row_of_replica * replicas + replica


def _key(seed: int, epoch: int, number: int, repeat: int) -> list[int]:
    """The key of what is drawn for an example; a first repeat has that of a single one."""
    return [seed, epoch, number, *([0, repeat] if repeat else [])]


def eval_batches(
    source: Source,
    preprocess: EvalPreprocess,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    bad_images: BadImageLog | None = None,
    threads: int | None = None,
) -> Iterator[Batch]:
    """Yield all examples once, in order, as the same number of full batches on every host.

    Args:
        source: the examples.
        preprocess: of each image.
        batch_size: over all hosts, a multiple of ``process_count``.
        process_index: which host this is.
        process_count: how many there are.
        bad_images: where bad images are recorded.
        threads: how many decode; None: as many as there are processors.

    Yields:
        ``image`` and ``label`` as :func:`train_batches` (with ten crops, ``image``
        ``[N, 10, size, size, C]``); ``number`` int32, the example's in the split; and ``mask``:
        float32, 0 for the padding of the last batch and for images that cannot be decoded.
    """
    count = source.num_examples
    rows = _host_rows(batch_size, process_index, process_count)
    bad_images = bad_images or BadImageLog(source)
    rng = np.random.default_rng(0)  # unused: evaluation draws nothing

    def load(batch: Batch, step: int, row: int) -> None:
        number = step * batch_size + rows[row]
        valid = number < count and _load(source, number, preprocess, rng, batch, row, bad_images)
        if not valid:
            batch["image"][row] = 0
            batch["label"][row] = 0
        batch["mask"][row] = valid
        batch["number"][row] = number

    steps = range(-(-count // batch_size))
    columns = {"mask": np.float32, "number": np.int32}
    yield from _batches(load, steps, len(rows), lambda step: preprocess.shape, columns, threads)


def eval_images(source: Source, preprocess: EvalPreprocess, numbers: Sequence[int]) -> np.ndarray:
    """The images of some examples as :func:`eval_batches` yields them.

    Args:
        source: the examples.
        preprocess: of each image.
        numbers: of the examples, ``[N]``.

    Returns:
        ``[N, size, size, C]`` uint8 (with ten crops ``[N, 10, size, size, C]``).

    Raises:
        BadImageError: if one of them cannot be decoded.
    """
    batch = {
        "image": np.empty((len(numbers), *preprocess.shape), np.uint8),
        "label": np.empty(len(numbers), np.int32),
    }
    rng = np.random.default_rng(0)  # unused: evaluation draws nothing
    for row, number in enumerate(numbers):
        _fill(source, int(number), preprocess, rng, batch, row)
    return batch["image"]


def _host_rows(batch_size: int, process_index: int, process_count: int) -> range:
    size = batch_size // process_count
    return range(process_index * size, (process_index + 1) * size)


def _load(
    source: Source,
    number: int,
    preprocess: Preprocess,
    rng: np.random.Generator,
    batch: Batch,
    row: int,
    bad_images: BadImageLog,
) -> bool:
    """Load an example into a row of a batch; return False if its image is bad."""
    try:
        _fill(source, number, preprocess, rng, batch, row)
    except BadImageError as error:
        bad_images.add(number, str(error))
        return False
    return True


def _fill(
    source: Source,
    number: int,
    preprocess: Preprocess,
    rng: np.random.Generator,
    batch: Batch,
    row: int,
) -> None:
    content, label = source.read(number)
    decoder = decode if isinstance(content, bytes) else from_array
    batch["image"][row] = preprocess(decoder(content, preprocess.channels), rng)
    batch["label"][row] = label


def _batches(
    load: Callable[[Batch, int, int], None],
    steps: Sequence[int],
    rows: int,
    shape_of: Callable[[int], tuple[int, ...]],
    columns: Mapping[str, DTypeLike],
    threads: int | None,
) -> Iterator[Batch]:
    """Yield batches whose rows threads fill with ``load(batch, step, row)``, a few ahead."""
    threads = threads or processors()
    pieces = np.array_split(np.arange(rows), min(rows, 2 * threads))
    ahead = max(_AHEAD, math.ceil(2 * threads / rows))

    def load_piece(batch: Batch, step: int, piece: np.ndarray) -> None:
        for row in piece:
            load(batch, step, int(row))

    def started(step: int) -> tuple[Batch, list[Future[None]]]:
        batch = {
            "image": np.empty((rows, *shape_of(step)), np.uint8),
            "label": np.empty(rows, np.int32),
            **{name: np.empty(rows, dtype) for name, dtype in columns.items()},
        }
        return batch, [pool.submit(load_piece, batch, step, piece) for piece in pieces]

    pool = ThreadPoolExecutor(threads, thread_name_prefix="input")
    pending: collections.deque[tuple[Batch, list[Future[None]]]] = collections.deque()
    try:
        for step in itertools.chain(steps, [None] * ahead):
            if step is not None:
                pending.append(started(step))
            if pending and (step is None or len(pending) > ahead):
                batch, futures = pending.popleft()
                for future in futures:
                    future.result()
                yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def in_background(iterator: Iterator[T], size: int) -> Iterator[T]:
    """Yield the same items, which a background thread takes up to ``size`` ahead."""
    items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(size)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                items.put((item, error), timeout=0.1)
                return True
        return False

    def take() -> None:
        try:
            for item in iterator:
                if not put(item, None):
                    break
            else:
                put(None, StopIteration())
        except BaseException as error:  # raised again in the consumer
            put(None, error)
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=take, name="input-background", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        thread.join()


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1
