"""Recipes: how each network's published weights were trained, as data.

A recipe gives the values of config keys (:mod:`jaxcnn.training.config`) that a config file leaves
open. ImageNet, and any dataset without settings of its own, is trained with the recipe's
``settings``. The small datasets of ``DATASETS`` are trained with plain SGD (``SMALL_IMAGES``) and
settings of their own, with which a ResNet learns them well; what a network needs differently there
is in its recipe's ``small`` and ``small_rate``. Nothing of an ImageNet recipe applies to them: no
augmentation, averaging, image size or optimiser.

Most recipes are those of torchvision's training reference, ``references/classification``: its
README lists the flags of ``train.py`` for each network, and ``batch_size`` here is its
``--batch-size`` times the number of GPUs. Where torchvision did not train the weights that it
publishes (``ported``), the recipe is that of the network's paper. A comment says what the paper
leaves open, and what was chosen.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxcnn.data.presets import base_name
from jaxcnn.models.published import PUBLISHED

Settings = Mapping[str, Any]

README = "torchvision, references/classification/README.md"


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
        settings = {name.replace("__", "."): value for name, value in small.items()}
        return dataclasses.replace(self, small={**self.small, **settings})

    def on(self, dataset: str) -> dict[str, Any]:
        """The values of config keys for training on a dataset.

        Args:
            dataset: a tfds name, such as ``"cifar10"`` or ``"cifar10:3.0.2"``, or images in files.
        """
        if is_small(dataset):
            settings = {**SMALL_IMAGES, **DATASETS[base_name(dataset)]}
            settings["learning_rate"] = round(settings["learning_rate"] * self.small_rate, 10)
            return {**settings, **self.small}
        return dict(self.settings)

    def top1(self, model: str) -> float | None:
        """The top-1 accuracy on ImageNet that is reported for a model, 0 to 1; None: none is."""
        for entry in PUBLISHED:
            if (entry.model, entry.name) == (model, self.weights):
                return entry.top1
        return self.paper_top1


# --- torchvision's reference, from which all others differ

REFERENCE = Recipe(
    name="reference",
    source=f"{README}, the table of default parameters",
    settings={
        "batch_size": 8 * 32,
        "num_epochs": 90,
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "learning_rate": 0.1,
        "schedule": "step",
        "schedule_by": "epoch",
        "decay_epochs": 30,
        "decay_factor": 0.1,
        "warmup_epochs": 0.0,
        "label_smoothing": 0.0,
        "log_every_steps": 100,
    },
    devices=8,
)

# A network without batch norm needs a learning rate ten times smaller.
WITHOUT_NORM = REFERENCE.but(
    "without_norm", f"{README}, AlexNet and VGG", {"learning_rate": 0.01}, small_rate=0.1
)

RESNEXT50 = REFERENCE.but("resnext50", f"{README}, ResNext", {"num_epochs": 100})
RESNEXT101 = REFERENCE.but(
    "resnext101",
    f"{README}, ResNext: the batch and rate of the published weights",
    {"num_epochs": 100, "batch_size": 64 * 16, "learning_rate": 0.4},
    devices=64,
)

# The pull request says "the standard training procedure for ResNet" but for a cosine with warm
# restarts over 256 epochs, and float16. It does not say when the rate restarted: one cosine here.
WIDE_RESNET = REFERENCE.but(
    "wide_resnet",
    "torchvision, pull request 912",
    {"num_epochs": 256, "schedule": "cosine"},
)

# The flags are those of the pull request for examples/imagenet of PyTorch, whose rate falls by ten
# every 30 epochs; on how many devices is not said. (The paper's own are others: a batch of 512 and
# a rate of 0.04 that falls linearly.)
SQUEEZENET = WITHOUT_NORM.but(
    "squeezenet",
    "torchvision, pull request 49",
    {"num_epochs": 100, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 2e-4},
    devices=None,
)

MOBILENET_V2 = REFERENCE.but(
    "mobilenet_v2",
    f"{README}, MobileNetV2",
    {
        "num_epochs": 300,
        "learning_rate": 0.045,
        "weight_decay": 4e-5,
        "decay_epochs": 1,
        "decay_factor": 0.98,
    },
)

# The published weights are averages of the last three checkpoints that improved top-1, which no
# key does.
MOBILENET_V3 = REFERENCE.but(
    "mobilenet_v3",
    f"{README}, MobileNetV3 Large & Small",
    {
        "optimizer": "rmsprop",
        "num_epochs": 600,
        "batch_size": 8 * 128,
        "learning_rate": 0.064,
        "weight_decay": 1e-5,
        "decay_epochs": 2,
        "decay_factor": 0.973,
        "augment.policy": "auto_augment_imagenet",
        "augment.erasing": 0.2,
    },
)

# RegNets need a learning rate ten times smaller on small images: at that of a ResNet their loss
# first rises to several tens, torchvision's own likewise.
REGNET_SMALL = REFERENCE.but(
    "regnet_small",
    f"{README}, RegNet, small models",
    {
        "num_epochs": 100,
        "batch_size": 8 * 128,
        "learning_rate": 0.8,
        "weight_decay": 5e-5,
        "schedule": "cosine",
        "warmup_epochs": 5.0,
        "warmup_decay": 0.1,
    },
    small_rate=0.1,
)
REGNET_Y_400MF = REGNET_SMALL.but(
    "regnet_y_400mf",
    f"{README}, RegNet, small models: the rate of regnet_y_400mf",
    {"learning_rate": 0.4},
)
REGNET_MEDIUM = REGNET_SMALL.but(
    "regnet_medium",
    f"{README}, RegNet, medium models",
    {"batch_size": 8 * 64, "learning_rate": 0.4},
)
REGNET_LARGE = REGNET_SMALL.but(
    "regnet_large",
    f"{README}, RegNet, large models",
    {"batch_size": 8 * 32, "learning_rate": 0.2},
)
# AnyNet is the design space of RegNets, of which no weights are published.
ANYNET = REGNET_SMALL.but("anynet", f"{README}, RegNet, small models", {}, weights=None)


def _ema_decay(decay: float, *, batch_size: int, num_epochs: int) -> float:
    """The ``ema.decay`` that acts as ``decay`` at every update, where ``ema.steps`` is 1.

    As in torchvision, 1 less ``ema.decay`` is multiplied by batch size and steps, and divided by
    epochs.
    """
    return round(1 - (1 - decay) * num_epochs / batch_size, 12)


# Fine-tuning: from the trunk that was trained on 3.6 billion images of Instagram, which is that of
# the weights IMAGENET1K_SWAG_LINEAR_V1. The authors give batch, epochs, mixup, averaging, crop and
# synchronised batch norm in issue 8; rate, schedule and weight decay are the paper's as issue 9
# quotes it. Neither says whether momentum is Nesterov's: it is, as for the linear layer
# (torchvision, pull request 5793).
SWAG = REFERENCE.but(
    "swag",
    "facebookresearch/SWAG, issues 8 and 9",
    {
        "num_epochs": 8,
        "batch_size": 64 * 8,
        "learning_rate": 0.006,
        "weight_decay": 0.0,
        "nesterov": True,
        "schedule": "cosine",
        "schedule_by": "step",
        "sync_batch_norm": True,
        "ema.decay": _ema_decay(0.9999, batch_size=512, num_epochs=8),
        "ema.steps": 1,
        "augment.mixup": 0.1,
        "interpolation": "bicubic",
        "image_size": 384,
        "eval.resize_size": 384,
    },
    devices=64,
    weights="IMAGENET1K_SWAG_E2E_V1",
    small_rate=0.1,
)

# The recipe of the weights IMAGENET1K_V2 of ResNet-50, and of what was trained since.
NEW_RECIPE = REFERENCE.but(
    "new_recipe",
    "PyTorch's blog, How to train state-of-the-art models using TorchVision's latest primitives",
    {
        "num_epochs": 600,
        "batch_size": 8 * 128,
        "learning_rate": 0.5,
        "weight_decay": 2e-5,
        "norm_weight_decay": 0.0,
        "schedule": "cosine",
        "warmup_epochs": 5.0,
        "warmup_decay": 0.01,
        "label_smoothing": 0.1,
        "ema.decay": 0.99998,
        "ema.steps": 32,
        "augment.policy": "trivial_augment_wide",
        "augment.erasing": 0.1,
        "augment.mixup": 0.2,
        "augment.cutmix": 1.0,
        "augment.repeats": 4,
        "image_size": 176,
        "eval.image_size": 224,
        "eval.resize_size": 232,
    },
)
NEW_SHUFFLENET = NEW_RECIPE.but("new_shufflenet", f"{README}, ShuffleNet V2", {})
NEW_MNASNET = NEW_RECIPE.but("new_mnasnet", "torchvision, pull request 6019", {})
NEW_RESNEXT = NEW_RECIPE.but("new_resnext", "torchvision, pull request 5935", {})


def _efficientnet_v2(name: str, train_size: int, eval_size: int) -> Recipe:
    sizes = {
        "image_size": train_size,
        "eval.image_size": eval_size,
        "eval.resize_size": eval_size,
    }
    return NEW_RECIPE.but(name, f"{README}, EfficientNet-V2", sizes, devices=32)


def _convnext(name: str, resize_size: int) -> Recipe:
    """The command line of the README, with the resize that the weights' transforms have."""
    settings = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "eval.resize_size": resize_size,
    }
    return NEW_RECIPE.but(name, f"{README}, ConvNeXt", settings, devices=16)


# --- the papers' recipes

# Augmentation of fb.resnet.torch, with which the authors trained the weights that torchvision
# ported (README of liuzhuang13/DenseNet: 4 GPUs).
DENSENET = REFERENCE.but(
    "densenet",
    "Huang et al. 2017, section 4.2, and fb.resnet.torch, datasets/imagenet.lua",
    {
        "nesterov": True,
        "augment.color_jitter": (0.4, 0.4, 0.4, 0.0),
        "augment.lighting": 0.1,
    },
    devices=4,
    ported=True,
)

# The paper gives momentum and the fall of the rate, and trained asynchronously; rate, batch, weight
# decay and the 250 epochs are those of Caffe's bvlc_googlenet/solver.prototxt, which has the
# paper's schedule. The paper averages the parameters, but does not say how: no average here.
GOOGLENET = REFERENCE.but(
    "googlenet",
    "Szegedy et al. 2014, section 6; Caffe, models/bvlc_googlenet",
    {
        "num_epochs": 250,
        "batch_size": 32,
        "learning_rate": 0.01,
        "weight_decay": 2e-4,
        "decay_epochs": 8,
        "decay_factor": 0.96,
    },
    devices=None,
    ported=True,
)
# Without batch norm.
GOOGLENET_ORIGINAL = GOOGLENET.but(
    "googlenet_original",
    GOOGLENET.source,
    {},
    weights=None,
    ported=False,
    small_rate=0.1,
)

# 50 replicas of 32 images that trained asynchronously: one batch of 1,600 here. The paper names no
# weight decay, no momentum beside RMSProp and no decay of the running average: those of the
# authors' code, tensorflow/models, inception/inception_train.py and slim: 4e-5, 0.9 and 0.9999.
# TensorFlow's RMSProp has its eps (1.0) inside of the root.
INCEPTION_V3 = REFERENCE.but(
    "inception_v3",
    "Szegedy et al. 2015, sections 7 and 8",
    {
        "optimizer": "rmsprop",
        "optimizer_args.eps": 1.0,
        "num_epochs": 100,
        "batch_size": 50 * 32,
        "learning_rate": 0.045,
        "weight_decay": 4e-5,
        "clip_grad_norm": 2.0,
        "decay_epochs": 2,
        "decay_factor": 0.94,
        "label_smoothing": 0.1,
        "ema.decay": _ema_decay(0.9999, batch_size=1600, num_epochs=100),
        "ema.steps": 1,
    },
    devices=50,
    ported=True,
)

# MnasNet's section 5 and the authors' code, tensorflow/tpu, models/official/mnasnet: the number of
# epochs, label smoothing, the average, and that norms do not decay. Its warm-up starts at zero, and
# its decays are counted from the first step; here from 0.01 of the rate and from the warm-up's end.
# TensorFlow's RMSProp has its eps (0.001) inside of the root: outside, its root, as in torchvision.
MNASNET = REFERENCE.but(
    "mnasnet",
    "Tan et al. 2019, section 5; tensorflow/tpu, models/official/mnasnet",
    {
        "optimizer": "rmsprop",
        "num_epochs": 350,
        "batch_size": 4096,
        "learning_rate": 0.256,
        "weight_decay": 1e-5,
        "norm_weight_decay": 0.0,
        "schedule_by": "step",
        "warmup_epochs": 5.0,
        "decay_epochs": 2.4,
        "decay_factor": 0.97,
        "label_smoothing": 0.1,
        "ema.decay": _ema_decay(0.9999, batch_size=4096, num_epochs=350),
        "ema.steps": 1,
    },
    devices=None,
    ported=True,
)


# "Similar settings as MnasNet"; batch, epochs, warm-up, label smoothing and average are those of
# the authors' code, tensorflow/tpu, models/official/efficientnet (its rate is 0.016 for each 256
# images: 4,096 at 0.256).
def _efficientnet(name: str, image_size: int) -> Recipe:
    settings = {
        "augment.policy": "auto_augment_imagenet",
        "interpolation": "bicubic",
        "image_size": image_size,
    }
    source = "Tan and Le 2019, section 5.2; tensorflow/tpu, models/official/efficientnet"
    return MNASNET.but(name, source, settings)


# In four stages of about 87 epochs the images grow from 128 to 380 pixels. The strengths of
# RandAugment (5 to 25), mixup (0 to 0.5) and dropout (0.1 to 0.5), which the paper raises with
# them, have no schedule here: torchvision's magnitude 9, the last alpha (google/automl,
# efficientnetv2/effnetv2_configs.py) and the network's own dropout of 0.4. The mean and the
# deviation are those of the ported weights.
EFFICIENTNET_V2_L = MNASNET.but(
    "efficientnet_v2_l",
    "Tan and Le 2021, section 5.1 and table 6; google/automl, efficientnetv2",
    {
        "augment.policy": "rand_augment",
        "augment.mixup": 0.5,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "image_size": 380,
        "image_sizes": ((0, 128), (87, 212), (174, 296), (261, 380)),
        "eval.image_size": 480,
        "eval.resize_size": 480,
    },
)

# 300,000 steps of 1,024 images are 240 epochs. The paper's "slightly less aggressive scale
# augmentation" is not specified.
SHUFFLENET = REFERENCE.but(
    "shufflenet",
    "Ma et al. 2018, section 4: the settings of Zhang et al. 2018 (ShuffleNet), section 4",
    {
        "num_epochs": 240,
        "batch_size": 1024,
        "learning_rate": 0.5,
        "weight_decay": 4e-5,
        "schedule": "polynomial",
        "schedule_by": "step",
        "power": 1.0,
    },
    devices=4,
    ported=True,
)

# Inputs of about -128 to 128, less the mean image: values of 0 to 1 are divided by 1/255.
_PIXELS = {"subtract_mean_image": True, "std": (1 / 255,)}
# The paper does not say how long the error has to stand still: torch's default of ten epochs. It
# says that crops have 224 pixels, but its feature maps take 227.
ALEXNET_ORIGINAL = WITHOUT_NORM.but(
    "alexnet_original",
    "Krizhevsky et al. 2012, sections 4 and 5",
    {
        **_PIXELS,
        "batch_size": 128,
        "num_epochs": 90,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "plateau",
        "plateau.metric": "top1",
        "decay_factor": 0.1,
        "min_learning_rate": 1e-5,  # "reduced three times prior to termination"
        "augment.crop": "resize_and_crop",
        "augment.resize_size": 256,
        "augment.lighting": 0.1,
        "image_size": 227,
        "eval.resize_size": 256,
        "eval.crops": 10,
    },
    devices=None,  # two GPUs, each of them with half of the network
    weights=None,
    paper_top1=0.593,  # table 2, one network: an error of 40.7%
)
# What the paper leaves open is AlexNet's, on whose code it is based: weight decay, and the factor
# by which the rate was lowered by hand. Its initial weights are the constant 0.01, with which equal
# filters stay equal: --config.model_args.weight_init=0.01; the network's own are normal, 0.01.
ZFNET = WITHOUT_NORM.but(
    "zfnet",
    "Zeiler and Fergus 2013, section 3",
    {
        **_PIXELS,
        "batch_size": 128,
        "num_epochs": 70,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "renormalize_filters": 0.1,
        "schedule": "plateau",
        "plateau.metric": "top1",
        "decay_factor": 0.1,
        "augment.crop": "resize_and_crop",
        "augment.resize_size": 256,
        "image_size": 224,
        "eval.resize_size": 256,
        "eval.crops": 10,
    },
    devices=1,
    weights=None,
    paper_top1=0.616,  # table 2, one network as in figure 3: an error of 38.4%
)
# The paper trains on CIFAR, SVHN and MNIST: batches of 128, and a rate that falls by ten when the
# accuracy on the training set stops improving, twice. It has no settings for ImageNet; rate, weight
# decay and epochs are AlexNet's, whose procedure it follows.
NIN = WITHOUT_NORM.but(
    "nin",
    "Lin et al. 2013, section 4.1; Krizhevsky et al. 2012, section 5",
    {
        "batch_size": 128,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "plateau",
        "plateau.metric": "top1",
        "decay_factor": 0.1,
        "min_learning_rate": 1e-4,  # "one percent of the initial value"
    },
    devices=None,
    weights=None,
)
# The paper trained with a second-order method of its own.
LENET = REFERENCE.but(
    "lenet",
    "published nowhere: today's SGD on MNIST",
    {"num_epochs": 20, "batch_size": 128, "learning_rate": 0.02, "schedule": "cosine"},
    devices=None,
    weights=None,
    small_rate=0.4,
    dataset="mnist",
)

# By architecture; all others are trained with REFERENCE. On small datasets an image has the
# smallest round size that the network takes in training, where that is more than 32, and there
# are no auxiliary heads, which would need far larger images.
RECIPES: dict[str, Recipe] = {
    "alexnet": WITHOUT_NORM.on_small_images(image_size=64),
    "alexnet_original": ALEXNET_ORIGINAL.on_small_images(image_size=67),
    "anynet": ANYNET,
    "convnext_tiny": _convnext("convnext_tiny", 236),
    "convnext_small": _convnext("convnext_small", 230),
    **dict.fromkeys(("convnext_base", "convnext_large"), _convnext("convnext", 232)),
    **dict.fromkeys(("densenet121", "densenet161", "densenet169", "densenet201"), DENSENET),
    **{
        f"efficientnet_b{index}": _efficientnet(f"efficientnet_b{index}", size)
        for index, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    "efficientnet_v2_s": _efficientnet_v2("efficientnet_v2_s", 300, 384),
    "efficientnet_v2_m": _efficientnet_v2("efficientnet_v2_m", 384, 480),
    "efficientnet_v2_l": EFFICIENTNET_V2_L,
    "googlenet": GOOGLENET,
    "googlenet_original": GOOGLENET_ORIGINAL.on_small_images(model_args__aux_logits=False),
    "inception_v3": INCEPTION_V3.on_small_images(model_args__aux_logits=False, image_size=80),
    "lenet5": LENET,
    **dict.fromkeys(("mnasnet0_5", "mnasnet1_0"), MNASNET),
    **dict.fromkeys(("mnasnet0_75", "mnasnet1_3"), NEW_MNASNET),
    "mobilenet_v2": MOBILENET_V2,
    **dict.fromkeys(("mobilenet_v3_large", "mobilenet_v3_small"), MOBILENET_V3),
    "nin": NIN.on_small_images(image_size=67),
    **dict.fromkeys(
        (
            *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf"),
            *("regnet_y_800mf", "regnet_y_1_6gf"),
        ),
        REGNET_SMALL,
    ),
    "regnet_y_400mf": REGNET_Y_400MF,
    **dict.fromkeys(
        (
            *("regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf"),
            *("regnet_y_3_2gf", "regnet_y_8gf"),
        ),
        REGNET_MEDIUM,
    ),
    **dict.fromkeys(("regnet_x_32gf", "regnet_y_16gf", "regnet_y_32gf"), REGNET_LARGE),
    "regnet_y_128gf": SWAG,
    "resnext50_32x4d": RESNEXT50,
    "resnext101_32x8d": RESNEXT101,
    "resnext101_64x4d": NEW_RESNEXT,
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"), SHUFFLENET),
    **dict.fromkeys(("shufflenet_v2_x1_5", "shufflenet_v2_x2_0"), NEW_SHUFFLENET),
    **dict.fromkeys(("squeezenet1_0", "squeezenet1_1"), SQUEEZENET),
    "vgg": dataclasses.replace(WITHOUT_NORM, weights=None),
    "vgg11": WITHOUT_NORM,
    "vgg13": WITHOUT_NORM,
    "vgg16": WITHOUT_NORM,
    "vgg19": WITHOUT_NORM,
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), WIDE_RESNET),
    "zfnet": ZFNET.on_small_images(image_size=64),
}


class Other(NamedTuple):
    """A recipe beside a network's own.

    Attributes:
        model: trained by default.
        recipe: in place of the model's own.
    """

    model: str
    recipe: Recipe


# By the name of the config file.
OTHERS: dict[str, Other] = {
    "resnet50_v2": Other("resnet50", dataclasses.replace(NEW_RECIPE, weights="IMAGENET1K_V2")),
}


# --- small datasets

# What the datasets below have in common.
SMALL_IMAGES: Settings = {
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

# By dataset: settings with which a ResNet learns it well, where they differ from SMALL_IMAGES.
DATASETS: dict[str, Settings] = {
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


def recipe_for(model: str) -> Recipe:
    """The recipe of an architecture."""
    return RECIPES.get(model, REFERENCE)


def training_settings(model: str, dataset: str) -> dict[str, Any]:
    """The values of config keys for training a model on a dataset: see :meth:`Recipe.on`."""
    return recipe_for(model).on(dataset)


def other_settings(name: str, dataset: str) -> dict[str, Any]:
    """The values of config keys of another recipe of ``OTHERS``, for its config file to give.

    Args:
        name: of the config file.
        dataset: trained on; a small one has the settings that it has with any recipe.
    """
    return {} if is_small(dataset) else OTHERS[name].recipe.on(dataset)
