"""What fine-tuning gains: 200 images of five classes, after training on five other classes.

    python benchmarks/fine_tuning.py --data_dir=DIR [--seeds=5] [--epochs=3] [--lengths=5,25]
        [--classes=5,6,7,8,9]

A ResNet-18 is trained on five classes of Fashion-MNIST. From its weights, 200 images of the other
five (40 of each, others for each seed) are learned with the recipe of ``configs/finetune.py``, all
layers and with ``freeze=body``; and from random weights with as many steps, at the best of several
rates, chosen on a seed of its own. All of that for runs of several lengths, in epochs of ten steps.
The tables show the accuracy on the 5,000 test images of those classes.
"""

import argparse
import contextlib
import io
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcnn.platform import set_xla_flags

set_xla_flags()  # before JAX is imported

from jaxcnn.data.images import decode  # noqa: E402
from jaxcnn.data.source import open_source  # noqa: E402
from jaxcnn.training.build import build  # noqa: E402
from jaxcnn.training.config import open_config, resolve  # noqa: E402
from jaxcnn.training.loop import train_and_evaluate  # noqa: E402
from jaxcnn.training.metrics import read_metrics  # noqa: E402

PER_CLASS = 40
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TUNING_SEED = 100
# Fashion-MNIST's preset, which a folder does not bring.
IMAGES = {
    "image_size": 32,
    "channels": 1,
    "mean": (0.2860,),
    "std": (0.3530,),
    "fit": "pad",
    "augment__crop": "pad_and_crop",
    "augment__padding": 2,
    "augment__flip": True,
    "eval__crop": "none",
}
# The classic tutorial's batch of four, and its rate, five times as large.
FINE_TUNING = {"recipe": "finetune", "batch_size": 20}


def read(split: str, data_dir: str | None) -> dict[int, np.ndarray]:
    """The images of a split by class, ``[N, 28, 28, 1]``."""
    source = open_source("fashion_mnist", split, data_dir)
    images: dict[int, list[np.ndarray]] = {label: [] for label in range(10)}
    for number in range(source.num_examples):
        content, label = source.read(number)
        images[label].append(decode(content, 1))
    return {label: np.stack(arrays) for label, arrays in images.items()}


def write(folder: pathlib.Path, split: str, images: dict[int, np.ndarray]) -> None:
    """Write images as a dataset ``folder:``, one array per class."""
    for label, array in images.items():
        (folder / split / str(label)).mkdir(parents=True, exist_ok=True)
        np.save(folder / split / str(label) / "images.npy", array)


def trained(folder: pathlib.Path, workdir: pathlib.Path, **settings: Any) -> None:
    """Train on a folder without a word."""
    last = {"eval__every_epochs": 10_000, "checkpoint__every_epochs": 10_000}  # and so at the end
    config = open_config("resnet18", f"folder:{folder}", **IMAGES, **last, **settings)
    experiment = build(resolve(config))
    with contextlib.redirect_stdout(io.StringIO()):
        train_and_evaluate(experiment, workdir)


def accuracy(folder: pathlib.Path, **settings: Any) -> float:
    """The top-1 accuracy of a run that is not kept."""
    with tempfile.TemporaryDirectory() as workdir:
        trained(folder, pathlib.Path(workdir), **settings)
        return read_metrics(pathlib.Path(workdir) / "metrics.jsonl")[-1]["top1"]


def pretrained(folder: pathlib.Path, root: pathlib.Path, epochs: int) -> pathlib.Path:
    """The weights of a network that was trained on a folder."""
    trained(
        folder,
        root / "run",
        batch_size=128,
        num_epochs=epochs,
        learning_rate=0.05,
        weight_decay=5e-4,
        schedule="cosine",
        schedule_by="step",
    )
    return root / "run" / "weights.safetensors"


def compare(
    folder_of: Callable[[int], pathlib.Path], weights: pathlib.Path, epochs: int, seeds: int
) -> None:
    """Print the table of runs of one length."""
    common = {**FINE_TUNING, "num_epochs": epochs}

    def from_nothing(seed: int, rate: float) -> float:
        # The rate is for this batch: no scaling.
        rates = {"learning_rate": rate, "base_batch_size": FINE_TUNING["batch_size"]}
        return accuracy(folder_of(seed), seed=seed, **common, **rates)

    tuning = {rate: from_nothing(TUNING_SEED, rate) for rate in RATES}
    best = max(tuning, key=tuning.__getitem__)
    own = 0.001 * FINE_TUNING["batch_size"] / 4
    tuned = {"init_from": str(weights), **common}
    starts: dict[str, Callable[[int], float]] = {
        "fine-tuned": lambda seed: accuracy(folder_of(seed), seed=seed, **tuned),
        "head only": lambda seed: accuracy(folder_of(seed), seed=seed, freeze="body", **tuned),
        "random weights": lambda seed: from_nothing(seed, best),
    }
    print(f"{epochs} epochs; random weights by rate, seed {TUNING_SEED}:", end=" ")
    print(", ".join(f"{rate:g}: {100 * value:.2f}" for rate, value in tuning.items()))
    print(f"| start | rate | {' | '.join(f'seed {n}' for n in range(seeds))} | mean |")
    print(f"|---|---:|{'---:|' * (seeds + 1)}")
    for start, run in starts.items():
        values = [run(seed) for seed in range(seeds)]
        cells = [f"{100 * value:.2f}" for value in (*values, statistics.mean(values))]
        rate = best if start == "random weights" else own
        print(f"| {start} | {rate:g} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of training on the first classes")
    parser.add_argument("--lengths", default="5,25", help="epochs of fine-tuning")
    parser.add_argument("--classes", default="5,6,7,8,9", help="that are learned from 200 images")
    arguments = parser.parse_args()
    classes = {int(label) for label in arguments.classes.split(",")}
    train, test = (read(split, arguments.data_dir) for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        first = set(range(10)) - classes
        write(root / "first", "train", {label: train[label] for label in first})
        write(root / "first", "val", {label: test[label] for label in first})
        weights = pretrained(root / "first", root, arguments.epochs)

        def folder_of(seed: int) -> pathlib.Path:
            rng, folder = np.random.default_rng(seed), root / f"others{seed}"
            chosen = {
                label: train[label][rng.choice(len(train[label]), PER_CLASS, replace=False)]
                for label in sorted(classes)
            }
            write(folder, "train", chosen)
            write(folder, "val", {label: test[label] for label in classes})
            return folder

        for length in arguments.lengths.split(","):
            compare(folder_of, weights, int(length), arguments.seeds)


if __name__ == "__main__":
    main()
