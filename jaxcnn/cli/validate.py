"""``jaxcnn validate``: how well a network classifies a dataset."""

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxcnn.cli import dataset_arguments, network
from jaxcnn.cli.checks import check_at_least_1
from jaxcnn.errors import UserError, suggest

if TYPE_CHECKING:
    from jaxcnn.data.source import Source
    from jaxcnn.training.evaluation import Evaluation

_BATCH_SIZE = 64
_MAX_SKIPPED = 0.001
# How many classes are listed as text.
_WORST = 10
# Config keys, in errors that are written for train.py, by the arguments here.
_ARGUMENTS = {
    "--config.eval.split": "--split",
    "config.train_split, config.eval.split": "--split",
    "config.dataset": "--dataset",
    "config.max_skipped": "--max_skipped",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "validate",
        help="measure accuracy, loss and calibration on a dataset",
        description="Print the top-1 and top-5 accuracy, the loss, the calibration error and the\n"
        "accuracy by class of a network on a dataset, computed as in the evaluations of\n"
        "train.py.",
        epilog="examples:\n"
        "  jaxcnn validate --model resnet50 --dataset imagenet2012 --data_dir tfds\n"
        "  jaxcnn validate --model resnet18 --weights mine.pth --dataset folder:/path --json\n"
        "  jaxcnn validate --workdir runs/resnet18-cifar10 --split train",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    network.add_arguments(parser)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", help="a tfds dataset, folder:/path or csv:/path; by default the run's"
    )
    data.add_argument(
        "--split",
        help="such as validation or test[:50%%]; by default the run's evaluation split, or else "
        "the validation or test split",
    )
    dataset_arguments.add_data_dir(data)
    data.add_argument(
        "--max_skipped",
        type=float,
        metavar="FRACTION",
        help=f"of the images that may be damaged: by default the run's, or {_MAX_SKIPPED}",
    )
    network.add_evaluation_arguments(parser)
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help=f"images at once: by default the run's, or {_BATCH_SIZE}, fewer with ten crops",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print how well the network does.

    Raises:
        UserError: if an argument is invalid, the network or the dataset cannot be read, or their
            classes are not the same.
    """
    check_at_least_1(arguments, "batch_size")
    if arguments.max_skipped is not None and not 0 <= arguments.max_skipped <= 1:
        raise UserError(f"--max_skipped={arguments.max_skipped} must be from 0 to 1.")
    if arguments.dataset is None and arguments.workdir is None:
        raise UserError("--dataset is missing: the data to measure the network on.")
    used = network.load_for_evaluation(arguments)
    with dataset_arguments.renamed(_ARGUMENTS):
        result = _evaluate(used, arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(_as_text(result))
    return 0


def _evaluate(used: network.Network, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is printed as JSON."""
    from tqdm import tqdm

    from jaxcnn.data.source import open_source
    from jaxcnn.training import devices
    from jaxcnn.training.evaluation import evaluate
    from jaxcnn.training.inputs import EvalInputs
    from jaxcnn.training.progress import warn
    from jaxcnn.training.step import make_eval_step

    settings = used.settings
    dataset, split = arguments.dataset, arguments.split
    if settings is not None and dataset in (None, settings.dataset):
        dataset, split = settings.dataset, split or settings.split
    max_skipped = arguments.max_skipped
    if max_skipped is None:
        max_skipped = _MAX_SKIPPED if settings is None else settings.max_skipped
    source = _with_labels_of(used, open_source(dataset, split, arguments.data_dir), dataset)
    batch_size = arguments.batch_size or max(1, _BATCH_SIZE // used.preprocess.crops)
    if arguments.batch_size is None and settings is not None:
        # As the run: batches of another size would change the last digits.
        batch_size = settings.batch_size
    else:
        batch_size = min(batch_size, source.num_examples)
    inputs = EvalInputs(
        source,
        used.preprocess,
        batch_size=batch_size,
        max_skipped=max_skipped,
        report=warn,
    )
    eval_step = devices.pmap(make_eval_step(used.model, normalize=used.normalize))
    # tqdm shows nothing (None) unless stderr is a terminal.
    with tqdm(total=source.num_examples, unit="image", dynamic_ncols=True, disable=None) as bar:
        evaluation = evaluate(
            eval_step,
            devices.replicate(used.variables),
            inputs,
            with_examples=True,
            progress=bar.update,
        )
    if not math.isfinite(evaluation.means["loss"]):
        raise UserError(
            f"The loss of this {used.name} is not finite: its weights are damaged, or of a network "
            f"that was not trained."
        )
    about = {"model": used.name, "dataset": dataset, "split": split}
    about["crops"] = used.preprocess.crops
    return about | _figures(evaluation, used.classes)


def _figures(evaluation: "Evaluation", classes: Sequence[str]) -> dict[str, Any]:
    import numpy as np

    examples = evaluation.examples
    counts = np.bincount(examples.label, minlength=len(classes))
    correct = np.bincount(examples.label, examples.correct, minlength=len(classes))
    return {
        **evaluation.means,
        "calibration_error": examples.calibration_error(),
        "classes": [
            {
                "class": classes[index],
                "index": int(index),
                "examples": int(counts[index]),
                "top1": correct[index] / counts[index],
            }
            for index in np.flatnonzero(counts)
        ],
    }


def _with_labels_of(used: network.Network, source: "Source", dataset: str) -> "Source":
    """The source with the labels of the network's classes, which are found by their names.

    Raises:
        UserError: if a class of the source is not one of the network's.
    """
    from jaxcnn.data.class_names import in_words
    from jaxcnn.data.source import Relabeled

    names = in_words(source.classes)
    if names == used.classes[: len(names)]:
        return source
    unnamed = all(map(str.isdecimal, names)) or all(map(str.isdecimal, used.classes))
    if unnamed and len(names) <= len(used.classes):
        return source
    if unnamed:
        raise UserError(
            f"The dataset {dataset} has {len(names)} classes, and the network {len(used.classes)}; "
            f"use weights for these classes."
        )
    labels = {name: label for label, name in enumerate(used.classes)}
    for name in names:
        if name not in labels:
            raise UserError(
                f"The dataset {dataset} has the class {name!r}, which is not one of the network's "
                f"{len(labels)} classes; {suggest(name, labels)}"
            )
    return Relabeled(source, [labels[name] for name in names], used.classes)


def _as_text(result: dict[str, Any]) -> str:
    split = f" {result['split']}" if result["split"] else ""
    crops = ", ten crops" if result["crops"] == 10 else ""
    skipped = f" ({result['skipped']:,} damaged)" if result["skipped"] else ""
    worst = sorted(result["classes"], key=lambda row: row["top1"])[:_WORST]
    return "\n".join(
        [
            f"{result['model']} on {result['dataset']}{split}{crops}: {result['examples']:,} "
            f"examples{skipped}",
            f"loss {result['loss']:.4f}  top-1 {result['top1']:.2%}  top-5 {result['top5']:.2%}  "
            f"calibration error {result['calibration_error']:.2%}",
            "classes of the lowest top-1:",
            *(f"  {row['top1']:7.2%}  {row['class']} (of {row['examples']:,})" for row in worst),
        ]
    )
