"""Small datasets, which are trained with settings of their own whatever the recipe."""

from collections.abc import Mapping
from typing import Any

from jaxcnn.data.presets import base_name

# What the datasets below have in common.
SMALL_IMAGES: Mapping[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "learning_rate": 0.1,
    "schedule": "cosine",
    "schedule_by": "step",
    "decay_epochs": 30,
    "decay_factor": 0.1,
    "warmup_epochs": 0.0,
    "label_smoothing": 0.0,
    "log_every_steps": 100,
}

# For deep networks without batch norm: with SGD, AlexNet does not learn anything in hundreds of
# steps.
ADAMW: Mapping[str, Any] = {"optimizer": "adamw", "learning_rate": 3e-4}

# By dataset: settings with which a ResNet learns it well, where they differ from SMALL_IMAGES.
DATASETS: dict[str, Mapping[str, Any]] = {
    "cifar10": {"batch_size": 128, "num_epochs": 200, "weight_decay": 5e-4},
    "cifar100": {"batch_size": 128, "num_epochs": 200, "weight_decay": 5e-4},
    "mnist": {"batch_size": 128, "num_epochs": 20, "learning_rate": 0.05},
    "fashion_mnist": {
        "batch_size": 128,
        "num_epochs": 30,
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
    },
    "digits": {
        "batch_size": 64,
        "num_epochs": 20,
        "learning_rate": 0.05,
        "warmup_epochs": 1.0,
        "weight_decay": 5e-4,
        "log_every_steps": 11,
    },
}


def is_small(dataset: str) -> bool:
    """Whether a dataset has settings of its own."""
    return base_name(dataset) in DATASETS
