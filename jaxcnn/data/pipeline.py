"""Batches of uint8 images for this host, each a function of (seed, step) alone.

The shuffle of an epoch is a permutation drawn from (seed, epoch); a step takes the next
``batch_size`` of it and a host its rows of those. Crops and flips are drawn from (seed, epoch,
example). So the stream is the same whatever the number of threads, hosts or earlier crashes.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcnn.data import transforms
from jaxcnn.data.source import Source, parse_example
from jaxcnn.data.tensorflow import tf

Batch = dict[str, np.ndarray]
# (encoded image, seed) to an image [size, size, C]
Preprocess = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def train_preprocess(
    *, channels: int, image_size: int, crop: str, fit: str, padding: int, flip: bool
) -> Preprocess:
    """What training does to an image on the host: see :class:`jaxcnn.data.presets.Preset`."""

    def preprocess(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        if crop == "random_resized_crop":
            image = transforms.random_resized_crop(encoded, image_size, channels, seed)
        else:
            image = transforms.fit(transforms.decode(encoded, channels), image_size, fit)
            if crop == "pad_and_crop":
                image = transforms.pad_and_crop(image, padding, seed)
        if flip:
            image = transforms.random_flip(image, _fold_in(seed, 1))
        return tf.ensure_shape(image, [image_size, image_size, channels])

    return preprocess


def eval_preprocess(
    *, channels: int, image_size: int, crop: str, fit: str, resize_size: int
) -> Preprocess:
    """What evaluation does to an image on the host: see :class:`jaxcnn.data.presets.Preset`."""

    def preprocess(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        del seed  # nothing random
        image = transforms.decode(encoded, channels)
        if crop == "resize_and_center_crop":
            image = transforms.resize_and_center_crop(image, resize_size, image_size)
        else:
            image = transforms.fit(image, image_size, fit)
        return tf.ensure_shape(image, [image_size, image_size, channels])

    return preprocess


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The shuffled example numbers of an epoch, ``[num_examples]``."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(num_examples)


def train_batches(
    source: Source,
    preprocess: Preprocess,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Training batches of the steps ``start_step`` to ``num_steps`` - 1.

    An epoch is ``num_examples // batch_size`` steps; the examples left over are others every
    epoch.

    Args:
        source: the examples.
        preprocess: from :func:`train_preprocess`.
        batch_size: over all hosts; ``process_count`` divides it.
        seed: of the shuffles, crops and flips.
        start_step: number of the first step; going on in the middle of an epoch costs nothing.
        num_steps: number of the step after the last.
        process_index: which host this is.
        process_count: how many there are.

    Yields:
        ``image`` ``[batch_size / process_count, size, size, C]`` uint8, ``label`` int32.
    """
    steps_per_epoch = source.num_examples // batch_size
    rows = _host_rows(batch_size, process_index, process_count)

    def indices(step: int) -> tuple[np.ndarray, int]:
        epoch, position = divmod(step, steps_per_epoch)
        order = epoch_order(seed, epoch, source.num_examples)
        return order[position * batch_size :][:batch_size][rows], epoch

    dataset = _batches(source, preprocess, indices, range(start_step, num_steps), seed)
    for image, label in dataset.as_numpy_iterator():
        yield {"image": image, "label": label}


def eval_batches(
    source: Source,
    preprocess: Preprocess,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """All examples once, in order, as equally many full batches on every host.

    Args:
        source: the examples.
        preprocess: from :func:`eval_preprocess`.
        batch_size: over all hosts; ``process_count`` divides it.
        process_index: which host this is.
        process_count: how many there are.

    Yields:
        ``image``, ``label`` as :func:`train_batches`, and ``mask``: float32, 0 for the padding
        of the last batch.
    """
    count = source.num_examples
    rows = _host_rows(batch_size, process_index, process_count)

    def wanted(step: int) -> np.ndarray:
        return np.arange(step * batch_size, (step + 1) * batch_size)[rows]

    def indices(step: int) -> tuple[np.ndarray, int]:
        return np.minimum(wanted(step), count - 1), 0

    steps = range(-(-count // batch_size))
    dataset = _batches(source, preprocess, indices, steps, seed=0)
    for step, (image, label) in zip(steps, dataset.as_numpy_iterator(), strict=True):
        yield {"image": image, "label": label, "mask": np.float32(wanted(step) < count)}


def _host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _fold_in(seed: Any, data: Any) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, data)


def _batches(
    source: Source,
    preprocess: Preprocess,
    indices: Callable[[int], tuple[np.ndarray, int]],
    steps: range,
    seed: int,
) -> tf.data.Dataset:
    """(images, labels) of each step; ``indices`` gives a step's example numbers and epoch."""
    batch_size = len(indices(steps.start)[0]) if steps else 1

    def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers, epoch = indices(int(step))
        records = np.array(source.read(numbers), dtype=object)
        return records, numbers.astype(np.int64), np.full(len(numbers), epoch, np.int64)

    def read_step(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        types = (tf.string, tf.int64, tf.int64)
        tensors = tf.numpy_function(read, [step], types, stateful=False)
        return tuple(tf.ensure_shape(tensor, [batch_size]) for tensor in tensors)

    def decode(record: tf.Tensor, number: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        encoded, label = parse_example(source, record)
        example_seed = _fold_in(_fold_in([seed, 0], epoch), number)
        return preprocess(encoded, example_seed), label

    return (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(read_step, num_parallel_calls=2)
        .unbatch()
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )
