"""Recipes: how a network is trained, as data.

A recipe gives the values of config keys (:mod:`jaxcnn.training.config`) that a config file leaves
open. ImageNet, and any dataset without settings of its own, is trained with the recipe's
``settings``. The small datasets of ``DATASETS`` have settings of their own, with which a ResNet
learns them well; what a network needs differently there is in its recipe's ``small``.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: its name.
        source: where the settings are published.
        settings: values by config key.
        small: values by config key on the datasets of ``DATASETS``, in place of the dataset's.
        small_rate: what the learning rate of a small dataset's settings is multiplied by.
        dataset: trained on by default.
    """

    name: str
    source: str
    settings: Settings
    small: Settings = dataclasses.field(default_factory=dict)
    small_rate: float = 1.0
    dataset: str = "imagenet2012"

    def on_small_images(self, **small: Any) -> "Recipe":
        """The same recipe with other settings on small datasets."""
        settings = {name.replace("__", "."): value for name, value in small.items()}
        return dataclasses.replace(self, small={**self.small, **settings})


REFERENCE = Recipe(
    name="reference",
    source="torchvision, references/classification: its defaults, with which ResNets were trained",
    settings={
        "batch_size": 256,
        "num_epochs": 90,
        "learning_rate": 0.1,
        "schedule": "step",
        "schedule_by": "epoch",
        "decay_epochs": 30,
        "decay_factor": 0.1,
        "warmup_epochs": 0.0,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "label_smoothing": 0.0,
        "log_every_steps": 100,
    },
)
# A network without batch norm needs a learning rate ten times smaller.
WITHOUT_NORM = Recipe(
    name="without_norm",
    source="torchvision, references/classification: AlexNet and VGG, --lr 0.01",
    settings={**REFERENCE.settings, "learning_rate": 0.01},
    small_rate=0.1,
)
LENET = Recipe(
    name="lenet",
    source="the network of LeCun et al. 1998 with today's SGD",
    settings={**REFERENCE.settings, "learning_rate": 0.02},
    small_rate=0.4,
    dataset="mnist",
)

# RegNets need a learning rate ten times smaller on small images: at that of a ResNet their loss
# first rises to several tens, torchvision's own likewise.
REGNET = dataclasses.replace(REFERENCE, small_rate=0.1)

# By architecture; all others are trained with REFERENCE. On small datasets an image has the
# smallest round size that the network takes in training, where that is more than 32, and there
# are no auxiliary heads, which would need far larger images.
RECIPES: dict[str, Recipe] = {
    "alexnet": WITHOUT_NORM.on_small_images(image_size=64),
    "alexnet_original": WITHOUT_NORM.on_small_images(image_size=67),
    "anynet": REGNET,
    "googlenet_original": WITHOUT_NORM.on_small_images(model_args__aux_logits=False),
    "inception_v3": REFERENCE.on_small_images(model_args__aux_logits=False, image_size=80),
    "lenet5": LENET,
    "nin": WITHOUT_NORM.on_small_images(image_size=67),
    **dict.fromkeys(
        (
            *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf"),
            *("regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf"),
            *("regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf"),
            *("regnet_y_8gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf"),
        ),
        REGNET,
    ),
    "squeezenet1_0": WITHOUT_NORM,
    "squeezenet1_1": WITHOUT_NORM,
    "vgg": WITHOUT_NORM,
    "vgg11": WITHOUT_NORM,
    "vgg13": WITHOUT_NORM,
    "vgg16": WITHOUT_NORM,
    "vgg19": WITHOUT_NORM,
    "zfnet": WITHOUT_NORM.on_small_images(image_size=64),
}

# By dataset: settings with which a ResNet learns it well, where they differ from REFERENCE.
DATASETS: dict[str, Settings] = {
    "cifar10": {
        "batch_size": 128,
        "num_epochs": 200,
        "schedule": "cosine",
        "schedule_by": "step",
        "weight_decay": 5e-4,
    },
    "cifar100": {
        "batch_size": 128,
        "num_epochs": 200,
        "schedule": "cosine",
        "schedule_by": "step",
        "weight_decay": 5e-4,
    },
    "mnist": {
        "batch_size": 128,
        "num_epochs": 20,
        "schedule": "cosine",
        "schedule_by": "step",
        "learning_rate": 0.05,
    },
    "fashion_mnist": {
        "batch_size": 128,
        "num_epochs": 30,
        "schedule": "cosine",
        "schedule_by": "step",
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
    },
    "digits": {
        "batch_size": 64,
        "num_epochs": 20,
        "schedule": "cosine",
        "schedule_by": "step",
        "learning_rate": 0.05,
        "warmup_epochs": 1.0,
        "weight_decay": 5e-4,
        "log_every_steps": 11,
    },
}


def recipe_for(model: str) -> Recipe:
    """The recipe of an architecture."""
    return RECIPES.get(model, REFERENCE)


def training_settings(model: str, dataset: str) -> dict[str, Any]:
    """The values of config keys for training a model on a dataset.

    Args:
        model: an architecture.
        dataset: a tfds name without variant and version, such as ``"cifar10"``.
    """
    recipe = recipe_for(model)
    if dataset not in DATASETS:
        return dict(recipe.settings)
    of_dataset = dict(DATASETS[dataset])
    if "learning_rate" in of_dataset:
        of_dataset["learning_rate"] = round(of_dataset["learning_rate"] * recipe.small_rate, 10)
    return {**recipe.settings, **of_dataset, **recipe.small}
