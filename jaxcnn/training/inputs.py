"""A run's images, on the devices."""

import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data import pipeline
from jaxcnn.data.source import Source
from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.training import devices, distributed

MEAN_IMAGE = "mean_image.npy"
# Batches on the devices beside the one in use.
_AHEAD = 2


class EvalInputs:
    """A split to evaluate on, each of its examples once; of a run, or of any network.

    Args:
        source: the examples.
        preprocess: of each image.
        batch_size: images per step, over all devices; rounded up to a multiple of them.
        max_skipped: the fraction of the images that may be bad.
        report: called with a sentence about each bad image, once.

    Attributes:
        source: the examples.
        preprocess: of each image.
        batch_size: images per step, over all devices.
    """

    def __init__(
        self,
        source: Source,
        preprocess: pipeline.EvalPreprocess,
        *,
        batch_size: int,
        max_skipped: float,
        report: Callable[[str], None],
    ):
        self.source, self.preprocess = source, preprocess
        self.batch_size = math.ceil(batch_size / jax.device_count()) * jax.device_count()
        self._max_skipped = max_skipped
        self._bad_images = pipeline.BadImageLog(source, report)

    def batches(self) -> Iterator[Any]:
        """All examples once, split over the local devices.

        Yields:
            The devices' part of :func:`jaxcnn.data.pipeline.eval_batches`.
        """
        batches = pipeline.eval_batches(
            self.source,
            self.preprocess,
            batch_size=self.batch_size,
            bad_images=self._bad_images,
            **_this_process(),
        )
        return pipeline.in_background(map(devices.split, batches), _AHEAD)

    def images(self, numbers: Sequence[int]) -> np.ndarray:
        """The images of some examples in one crop, ``[N, size, size, C]`` uint8.

        Raises:
            BadImageError: if one of them cannot be decoded.
        """
        single = dataclasses.replace(self.preprocess, crops=1)
        return pipeline.eval_images(self.source, single, numbers)

    def check_skipped(self, skipped: int) -> None:
        """Check that not too many images were bad; all hosts must pass the same number.

        Args:
            skipped: how many were bad, over all hosts.

        Raises:
            UserError: if that is more than ``max_skipped`` of the split, rounded up.
        """
        _check_skipped(skipped, self.source, "evaluation", self._max_skipped)


class Inputs:
    """The training and the evaluation split of a run.

    Args:
        train: the training split.
        evaluation: the evaluation split.
        train_preprocess: what training does to an image on the host.
        eval_preprocess: what evaluation does.
        batch_size: images per training step, over all devices.
        eval_batch_size: images per evaluation step, rounded up to a multiple of the devices.
        image_sizes: the first epoch and the size of each stage of progressive resizing; empty:
            that of ``train_preprocess`` throughout.
        repeats: how often an epoch repeats each of its examples.
        seed: of shuffles, crops and flips.
        max_skipped: the fraction of a split's images that may be bad.
        report: called with a sentence about each bad image, once.

    Attributes:
        train: the training split.
        evaluation: the evaluation split, as it is fed.
    """

    def __init__(
        self,
        train: Source,
        evaluation: Source,
        train_preprocess: pipeline.TrainPreprocess,
        eval_preprocess: pipeline.EvalPreprocess,
        *,
        batch_size: int,
        eval_batch_size: int,
        image_sizes: Sequence[tuple[int, int]] = (),
        repeats: int = 1,
        seed: int,
        max_skipped: float,
        report: Callable[[str], None],
    ):
        self.train = train
        self.evaluation = EvalInputs(
            evaluation,
            eval_preprocess,
            batch_size=eval_batch_size,
            max_skipped=max_skipped,
            report=report,
        )
        self._train_preprocess, self._batch_size = train_preprocess, batch_size
        self._image_sizes, self._repeats = image_sizes, repeats
        self._seed, self._max_skipped = seed, max_skipped
        self._bad_images = pipeline.BadImageLog(train, report)

    def train_batches(self, start_step: int, num_steps: int) -> Iterator[tuple[Any, int]]:
        """Batches of the steps ``start_step`` to ``num_steps - 1``, split over the local devices.

        Args:
            start_step: number of the first step.
            num_steps: number of the step after the last.

        Yields:
            The devices' part of :func:`jaxcnn.data.pipeline.train_batches`, and how many bad
            images this host met while making it.
        """
        batches = pipeline.train_batches(
            self.train,
            self._train_preprocess,
            batch_size=self._batch_size,
            image_sizes=self._image_sizes,
            repeats=self._repeats,
            replicas=jax.device_count(),
            seed=self._seed,
            start_step=start_step,
            num_steps=num_steps,
            bad_images=self._bad_images,
            **_this_process(),
        )

        def put() -> Iterator[Any]:
            for batch in batches:
                skipped = int(batch.pop("skipped").sum())
                yield devices.split(batch), skipped

        return pipeline.in_background(put(), _AHEAD)

    def check_skipped(self, skipped: int) -> None:
        """Check that not too many training images were bad; all hosts must pass the same number.

        Args:
            skipped: how many were bad, in one epoch over all hosts.

        Raises:
            UserError: if that is more than ``max_skipped`` of the split, rounded up.
        """
        _check_skipped(skipped, self.train, "training", self._max_skipped)

    def mean_image(self, workdir: Path, *, reuse: bool) -> np.ndarray:
        """The mean of the training images as evaluation would show them, kept in ``workdir``.

        AlexNet and ZFNet subtract it (Krizhevsky et al. 2012, section 2). The main process
        computes it.

        Args:
            workdir: where it is kept.
            reuse: whether to take the one that is there, if there is one.

        Returns:
            ``[size, size, C]`` float32, of values in 0 to 1.

        Raises:
            UserError: if too many of the images are bad.
        """
        path = workdir / MEAN_IMAGE

        def load() -> np.ndarray:
            if distributed.is_main_process() and not (reuse and path.exists()):
                mean = self._computed_mean()
                with atomic_write(path) as file:
                    np.save(file, mean)
            return np.load(io.BytesIO(path.read_bytes()))

        return distributed.main_process_first("mean image", load)

    def _computed_mean(self) -> np.ndarray:
        total, count = np.zeros((), np.int64), 0
        for batch in pipeline.eval_batches(
            self.train,
            dataclasses.replace(self.evaluation.preprocess, crops=1),
            batch_size=self.evaluation.batch_size,
            bad_images=self._bad_images,
        ):
            decoded = batch["mask"] > 0
            total = total + batch["image"][decoded].sum(axis=0, dtype=np.int64)
            count += int(decoded.sum())
        self.check_skipped(self.train.num_examples - count)
        return (total / max(count, 1) / 255).astype(np.float32)


def _this_process() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def _check_skipped(skipped: int, source: Source, split: str, max_skipped: float) -> None:
    if skipped > math.ceil(max_skipped * source.num_examples):
        raise UserError(
            f"{skipped} of the {source.num_examples} {split} images could not be decoded; "
            f"repair or remove the files that are named above, or raise config.max_skipped "
            f"({max_skipped})."
        )
