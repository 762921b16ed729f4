"""What fine-tuning gains: 200 images of five classes, after training on five other classes.

    python benchmarks/fine_tuning.py --data_dir=DIR [--seeds=5] [--epochs=3]

A ResNet-18 is trained on the first five classes of Fashion-MNIST. From its weights, 200 images of
the other five (40 of each, others for each seed) are learnt with the recipe of
``configs/finetune.py``, all layers and with ``freeze=body``; and from random weights with as many
steps, at the best of several rates, chosen on a seed of its own. The table shows the accuracy on
the 5,000 test images of those classes.
"""

import argparse
import contextlib
import io
import pathlib
import statistics
import tempfile
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of training on the first classes")
    arguments = parser.parse_args()
    train, test = (read(split, arguments.data_dir) for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        write(root / "first", "train", {label: train[label] for label in range(5)})
        write(root / "first", "val", {label: test[label] for label in range(5)})
        weights = pretrained(root / "first", root, arguments.epochs)

        def folder_of(seed: int) -> pathlib.Path:
            rng, folder = np.random.default_rng(seed), root / f"others{seed}"
            chosen = {
                label: train[label][rng.choice(len(train[label]), PER_CLASS, replace=False)]
                for label in range(5, 10)
            }
            write(folder, "train", chosen)
            write(folder, "val", {label: test[label] for label in range(5, 10)})
            return folder

        def from_nothing(seed: int, rate: float) -> float:
            # The rate is for this batch: no scaling.
            rates = {"learning_rate": rate, "base_batch_size": FINE_TUNING["batch_size"]}
            return accuracy(folder_of(seed), seed=seed, **FINE_TUNING, **rates)

        tuning = {rate: from_nothing(TUNING_SEED, rate) for rate in RATES}
        rate = max(tuning, key=tuning.__getitem__)
        print(f"random weights, by rate: { {k: f'{100 * v:.2f}' for k, v in tuning.items()} }")
        tuned = {"init_from": str(weights), **FINE_TUNING}
        columns: dict[str, list[float]] = {"fine-tuned": [], "head only": [], "random weights": []}
        for seed in range(arguments.seeds):
            folder = folder_of(seed)
            columns["fine-tuned"].append(accuracy(folder, seed=seed, **tuned))
            columns["head only"].append(accuracy(folder, seed=seed, freeze="body", **tuned))
            columns["random weights"].append(from_nothing(seed, rate))
        print(
            f"| start | rate | {' | '.join(f'seed {n}' for n in range(arguments.seeds))} | mean |"
        )
        print(f"|---|---:|{'---:|' * (arguments.seeds + 1)}")
        for start, values in columns.items():
            shown = rate if start == "random weights" else 0.001 * FINE_TUNING["batch_size"] / 4
            cells = [f"{100 * value:.2f}" for value in (*values, statistics.mean(values))]
            print(f"| {start} | {shown:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
