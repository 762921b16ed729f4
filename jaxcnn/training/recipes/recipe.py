"""What a recipe is."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxcnn.data.presets import base_name
from jaxcnn.models.published import PUBLISHED
from jaxcnn.training.recipes.small import DATASETS, SMALL_IMAGES, is_small

Settings = Mapping[str, Any]


_NEEDS = ("image_size", "model_args.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        name: its name.
        source: where the settings are published.
        settings: values by config key.
        devices: number of devices that the published batch was spread over; None: not published.
        weights: the published weights that were trained with the recipe (or, if ``ported``, that
            come from elsewhere): a name of :data:`jaxcnn.models.published.PUBLISHED`; None: no
            weights are published.
        ported: whether torchvision took these weights from elsewhere, so that the recipe is the
            paper's.
        paper_top1: top-1 accuracy on ImageNet's validation images that the paper reports, 0 to 1,
            where there are no ``weights``.
        small: values by config key on the datasets of ``DATASETS``, in place of the dataset's.
        small_rate: what the learning rate of a small dataset's settings is multiplied by.
        by_dataset: values by config key on single datasets of ``DATASETS``, by name, in place of
            ``small``.
        on_small_datasets: whether the ``settings`` are those on small datasets, too.
        dataset: trained on by default.
    """

    name: str
    source: str
    settings: Settings
    devices: int | None = None
    weights: str | None = "IMAGENET1K_V1"
    ported: bool = False
    paper_top1: float | None = None
    small: Settings = dataclasses.field(default_factory=dict)
    small_rate: float = 1.0
    by_dataset: Mapping[str, Settings] = dataclasses.field(default_factory=dict)
    on_small_datasets: bool = False
    dataset: str = "imagenet2012"

    def but(self, name: str, source: str, settings: Settings, **fields: Any) -> "Recipe":
        """Another recipe with these settings in place of this one's.

        Args:
            name: its name.
            source: where it is published.
            settings: values by config key, of those that differ.
            **fields: other attributes that differ.
        """
        settings = {**self.settings, **settings}
        return dataclasses.replace(self, name=name, source=source, settings=settings, **fields)

    def on_small_images(self, **small: Any) -> "Recipe":
        """The same recipe with other settings on small datasets."""
        return dataclasses.replace(self, small={**self.small, **_dotted(small)})

    def on_dataset(self, dataset: str, **settings: Any) -> "Recipe":
        """The same recipe with other settings on one of the small datasets."""
        others = {**self.by_dataset.get(dataset, {}), **_dotted(settings)}
        return dataclasses.replace(self, by_dataset={**self.by_dataset, dataset: others})

    def on(self, dataset: str) -> dict[str, Any]:
        """The values of config keys for training on a dataset.

        Args:
            dataset: a tfds name, such as ``"cifar10"`` or ``"cifar10:3.0.2"``, or images in files.
        """
        if is_small(dataset) and not self.on_small_datasets:
            settings = {**SMALL_IMAGES, **DATASETS[base_name(dataset)]}
            settings["learning_rate"] = round(settings["learning_rate"] * self.small_rate, 10)
            return {**settings, **self.small, **self.by_dataset.get(base_name(dataset), {})}
        if is_small(dataset):  # with what the network needs there to run at all
            needs = {k: v for k, v in self.small.items() if k.startswith(_NEEDS)}
            return {**self.settings, **needs}
        return dict(self.settings)

    def top1(self, model: str) -> float | None:
        """The top-1 accuracy on ImageNet that is reported for a model, 0 to 1; None: none is."""
        for entry in PUBLISHED:
            if (entry.model, entry.name) == (model, self.weights):
                return entry.top1
        return self.paper_top1


def _dotted(settings: Settings) -> dict[str, Any]:
    """Settings by config key, from keyword arguments."""
    return {name.replace("__", "."): value for name, value in settings.items()}


def ema_decay(decay: float, *, batch_size: int, num_epochs: int) -> float:
    """The ``ema.decay`` that acts as ``decay`` at every update, where ``ema.steps`` is 1.

    As in torchvision, 1 less ``ema.decay`` is multiplied by batch size and steps, and divided by
    epochs.
    """
    return round(1 - (1 - decay) * num_epochs / batch_size, 12)
