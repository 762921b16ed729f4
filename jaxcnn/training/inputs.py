"""A config's data, on the devices."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxcnn.data import pipeline
from jaxcnn.data.source import Source, open_source
from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.training import distributed
from jaxcnn.training.request import AXIS

MEAN_IMAGE = "mean_image.npy"
# Batches on the devices beside the one in use.
_AHEAD = 2


class Inputs:
    """The training and the evaluation split of a config.

    Args:
        config: of the run.
        data_dir: where tfds's prepared datasets are; None: tfds's own default.
        tell: is given a sentence about each bad image, once.

    Attributes:
        train: the training split.
        evaluation: the evaluation split.
        channels: of the images that the network gets.

    Raises:
        UserError: see :func:`jaxcnn.data.source.open_source`.
    """

    def __init__(self, config: ConfigDict, data_dir: str | None, tell: Callable[[str], None]):
        def both() -> tuple[Source, Source]:
            return (
                open_source(config.dataset, config.train_split, data_dir),
                open_source(config.dataset, config.eval.split, data_dir),
            )

        # The first process prepares the dataset if need be.
        self.train, self.evaluation = distributed.first_then_all("dataset", both)
        distributed.check_equal(
            # JAX's integers end there.
            lambda: (self.train.digest ^ self.evaluation.digest) % 2**31,
            f"The processes do not find the same examples in {config.dataset}; give all of them "
            f"the same files.",
        )
        self.channels = config.channels or self.train.channels
        self._config = config
        self._train_skips = pipeline.BadImageLog(self.train, tell)
        self._eval_skips = pipeline.BadImageLog(self.evaluation, tell)
        self._hosts = {
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[Any]:
        """Batches of the steps ``start_step`` to ``num_steps`` - 1, split over the local devices.

        Args:
            start_step: number of the first step.
            num_steps: number of the step after the last.

        Yields:
            The devices' part of :func:`jaxcnn.data.pipeline.train_batches`, and how many bad
            images this host met on the way.
        """
        config, augment = self._config, self._config.augment
        preprocess = pipeline.TrainPreprocess(
            image_size=config.image_size,
            channels=self.channels,
            crop=augment.crop,
            fit=config.fit,
            padding=augment.padding,
            flip=augment.flip,
            interpolation=config.interpolation,
            policy=augment.policy,
        )
        batches = pipeline.train_batches(
            self.train,
            preprocess,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start_step,
            num_steps=num_steps,
            bad_images=self._train_skips,
            **self._hosts,
        )

        def put() -> Iterator[Any]:
            for batch in batches:
                skipped = int(batch.pop("skipped").sum())
                yield _on_devices(batch), skipped

        return pipeline.in_background(put(), _AHEAD)

    def eval_batches(self) -> Iterator[Any]:
        """All evaluation examples once, split over the local devices.

        Yields:
            The devices' part of :func:`jaxcnn.data.pipeline.eval_batches`.
        """
        crops = self._config.eval.crops
        batches = self._in_order(self.evaluation, crops, self._eval_skips, **self._hosts)
        return pipeline.in_background(map(_on_devices, batches), _AHEAD)

    def check_skipped(self, source: Source, skipped: int) -> None:
        """Checks that not too many images were bad; all hosts must know the same number.

        Args:
            source: their split.
            skipped: how many were, in one epoch over all hosts.

        Raises:
            UserError: if that is more than ``config.max_skipped`` of the split, rounded up.
        """
        most = self._config.max_skipped
        if skipped > math.ceil(most * source.num_examples):
            split = "training" if source is self.train else "evaluation"
            raise UserError(
                f"{skipped} of the {source.num_examples} {split} images could not be decoded; "
                f"mend or remove the files that are named above, or raise config.max_skipped "
                f"({most})."
            )

    def mean_image(self, workdir: Path, *, begun: bool) -> np.ndarray:
        """The mean of the training images as evaluation would show them, in ``workdir``.

        What AlexNet and ZFNet subtract (Krizhevsky et al. 2012, section 2). The first process
        computes it.

        Args:
            workdir: where it is kept.
            begun: whether it may be there already, for the run goes on.

        Returns:
            ``[size, size, C]`` float32, of values in 0 to 1.

        Raises:
            UserError: if too many of the images are bad.
        """
        path = workdir / MEAN_IMAGE

        def computed() -> np.ndarray:
            if distributed.is_first() and not (begun and path.exists()):
                total, count = np.zeros((), np.int64), 0
                for batch in self._in_order(self.train, 1, self._train_skips):
                    there = batch["mask"] > 0
                    total = total + batch["image"][there].sum(axis=0, dtype=np.int64)
                    count += int(there.sum())
                self.check_skipped(self.train, self.train.num_examples - count)
                with atomic_write(path) as file:
                    np.save(file, (total / max(count, 1) / 255).astype(np.float32))
            return np.load(path)

        return distributed.first_then_all("mean image", computed)

    def _in_order(
        self, source: Source, crops: int, skips: pipeline.BadImageLog, **hosts: int
    ) -> Iterator[pipeline.Batch]:
        config = self._config
        preprocess = pipeline.EvalPreprocess(
            image_size=config.image_size,
            channels=self.channels,
            crop=config.eval.crop,
            fit=config.fit,
            resize_size=config.eval.resize_size,
            interpolation=config.interpolation,
            crops=crops,
        )
        devices = jax.device_count()
        batch_size = config.eval.batch_size or config.batch_size
        return pipeline.eval_batches(
            source,
            preprocess,
            batch_size=math.ceil(batch_size / devices) * devices,
            bad_images=skips,
            **hosts,
        )


def _on_devices(batch: pipeline.Batch) -> Any:
    """Splits each array's first axis over the local devices, ``[devices, N / devices, ...]``."""
    devices = jax.local_devices()
    sharding = NamedSharding(jax.sharding.Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

    def put(array: np.ndarray) -> jax.Array:
        return jax.device_put(array.reshape(len(devices), -1, *array.shape[1:]), sharding)

    return jax.tree.map(put, batch)
