"""Evaluation of a network: means over a split, and what it said about each example.

Example, of any network and split (:func:`jaxcnn.data.source.open_source`)::

    normalize = normalizer(mean, std)
    eval_step = devices.pmap(make_eval_step(model, normalize=normalize))
    inputs = EvalInputs(source, preprocess, batch_size=64, max_skipped=1.0, report=warn)
    with tqdm(total=source.num_examples) as bar:
        evaluation = evaluate(
            eval_step,
            devices.replicate(variables),
            inputs,
            with_examples=True,
            progress=bar.update,
        )
    print(evaluation.means["top1"])
    wrong = evaluation.examples.label != evaluation.examples.prediction
"""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.training import distributed
from jaxcnn.training.devices import join, unreplicate
from jaxcnn.training.inputs import EvalInputs


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a network said about each example that could be decoded, in the order of the split.

    Attributes:
        number: of the example in the split, ``[N]`` int32.
        label: ``[N]`` int32.
        prediction: the class of the highest probability, ``[N]`` int32.
        confidence: the probability (softmax) of the prediction, ``[N]`` float32.
        loss: cross-entropy, ``[N]`` float32.
        top5: whether the label is among the five classes of the highest probabilities, ``[N]``
            bool.
    """

    number: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray
    top5: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label, ``[N]`` bool."""
        return self.prediction == self.label

    def calibration_error(self, bins: int = 15) -> float:
        """The expected calibration error, 0 to 1.

        The examples are divided by their confidence into bins of equal width; the error is the
        mean, over the examples, of the difference between the accuracy and the mean confidence of
        the example's bin (Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3).
        """
        edges = np.linspace(0, 1, bins + 1)[1:-1]
        number = np.digitize(self.confidence, edges, right=True)
        gaps = np.bincount(number, self.correct - self.confidence.astype(np.float64))
        return float(np.abs(gaps).sum() / len(number))

    def worst_mistakes(self, count: int) -> np.ndarray:
        """The rows of the wrong predictions of the highest losses, the highest first."""
        (wrong,) = np.nonzero(~self.correct)
        order = np.argsort(-self.loss[wrong], kind="stable")
        return wrong[order[:count]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        means: ``loss``, ``top1`` and ``top5``, means over the examples that could be decoded;
            ``examples``, how many those are; ``skipped``, how many others there are.
        examples: about each example, where asked for, on the main process.
    """

    means: dict[str, float | int]
    examples: Examples | None = None


def evaluate(
    eval_step: Callable[..., Any],
    variables: Any,
    inputs: EvalInputs,
    *,
    with_examples: bool = False,
    progress: Callable[[int], Any] = lambda count: None,
) -> Evaluation:
    """Score every example of a split once; every process must call this.

    Args:
        eval_step: pmapped (:func:`jaxcnn.training.devices.pmap`); see
            :func:`jaxcnn.training.step.make_eval_step`.
        variables: the model's, replicated (:func:`jaxcnn.training.devices.replicate`).
        inputs: the split.
        with_examples: whether the main process gets what was said about each example, from all
            processes.
        progress: called after each batch with how many examples it had, over all processes, such
            as the ``update`` of a tqdm bar; in total ``inputs.source.num_examples``. What it raises
            ends the evaluation.

    Raises:
        UserError: if too many images cannot be decoded, or none can.
    """
    sums: dict[str, Any] = {}
    columns: list[dict[str, np.ndarray]] = []  # of each batch, this process's rows
    left = inputs.source.num_examples
    with contextlib.closing(inputs.batches()) as batches:
        for batch in batches:
            batch_sums, examples = eval_step(variables, batch)
            batch_sums = unreplicate(batch_sums)
            # float64 on the host: float32 would lose examples of a large split
            sums = {name: sums.get(name, 0) + value.item() for name, value in batch_sums.items()}
            if with_examples:
                own = {name: batch[name] for name in ("number", "label", "mask")}
                columns.append(join({**own, **examples}))
            count = min(inputs.batch_size, left)
            left -= count
            progress(count)
    scored = sums.pop("examples")
    skipped = inputs.source.num_examples - scored
    inputs.check_skipped(skipped)
    if not scored:
        raise UserError("No image of the evaluation split could be decoded; repair the files.")
    means = {name: total / scored for name, total in sums.items()}
    means |= {"examples": scored, "skipped": skipped}
    return Evaluation(means, _examples(columns) if with_examples else None)


def _examples(columns: list[dict[str, np.ndarray]]) -> Examples | None:
    """The decoded examples of all batches and processes; None but on the main process."""
    rows = {
        name: distributed.rows_of_all_processes(np.concatenate([each[name] for each in columns]))
        for name in columns[0]
    }
    if not distributed.is_main_process():
        return None
    decoded = rows.pop("mask") > 0
    order = np.argsort(rows["number"][decoded], kind="stable")
    return Examples(**{name: values[decoded][order] for name, values in rows.items()})


@dataclasses.dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation in a workdir: what pictures of a run are made from.

    Attributes:
        step: the steps that had been trained.
        examples: about each example.
        mistakes: rows of ``examples``: those of the highest losses that were wrong, ``[M]``.
        images: of the mistakes, as evaluation crops them, ``[M, H, W, C]`` uint8.
    """

    step: int
    examples: Examples
    mistakes: np.ndarray
    images: np.ndarray


def save_evaluation(path: Path, saved: SavedEvaluation) -> None:
    """Write an evaluation to an ``.npz`` file, which is replaced.

    Raises:
        OSError: if it cannot be written.
    """
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            step=saved.step,
            mistakes=saved.mistakes,
            images=saved.images,
            **dataclasses.asdict(saved.examples),
        )


def load_evaluation(path: Path) -> SavedEvaluation | None:
    """Read what :func:`save_evaluation` wrote; None: there is no such file.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file}
        step, mistakes, images = (arrays.pop(name) for name in ("step", "mistakes", "images"))
        return SavedEvaluation(int(step), Examples(**arrays), mistakes, images)
    # Of a damaged file zipfile and NumPy raise all kinds of errors.
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}); remove it.") from error
