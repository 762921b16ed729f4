"""The recipes of torchvision's training reference, from which all others differ."""

from jaxcnn.training.recipes.recipe import Recipe, ema_decay

README = "torchvision, references/classification/README.md"

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


# Fine-tuning: from the trunk that was trained on 3.6 billion images of Instagram, which is that of
# the weights IMAGENET1K_SWAG_LINEAR_V1. The authors give batch, epochs, mixup, averaging, crop and
# synchronized batch norm in issue 8; rate, schedule and weight decay are the paper's as issue 9
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
        "ema.decay": ema_decay(0.9999, batch_size=512, num_epochs=8),
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


def efficientnet_v2(name: str, train_size: int, eval_size: int) -> Recipe:
    """An EfficientNet v2 that torchvision trained, with its sizes in pixels."""
    sizes = {
        "image_size": train_size,
        "eval.image_size": eval_size,
        "eval.resize_size": eval_size,
    }
    return NEW_RECIPE.but(name, f"{README}, EfficientNet-V2", sizes, devices=32)


def convnext(name: str, resize_size: int) -> Recipe:
    """The command line of the README, with the resize that the weights' transforms have."""
    settings = {
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "eval.resize_size": resize_size,
    }
    return NEW_RECIPE.but(name, f"{README}, ConvNeXt", settings, devices=16)


# --- fine-tuning

# Its batches of four images are small for an accelerator: with a larger batch the rate is scaled.
FINETUNE = REFERENCE.but(
    "finetune",
    "PyTorch's tutorials, Transfer learning for computer vision",
    {
        "num_epochs": 25,
        "batch_size": 4,
        "base_batch_size": 4,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "decay_epochs": 7,
        "decay_factor": 0.1,
    },
    devices=1,
    weights=None,
    on_small_datasets=True,
)
