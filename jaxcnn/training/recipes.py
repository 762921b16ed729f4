"""Configs: what is trained, on what, and how."""

import dataclasses
from typing import Any

from ml_collections import config_dict

from jaxcnn.data.presets import base_name, preset
from jaxcnn.models import builder_arguments, create_model

# What differs from torchvision's reference recipe for ImageNet, by dataset: settings with which a
# ResNet learns the dataset well.
_SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": {"batch_size": 128, "num_epochs": 200, "schedule": "cosine", "weight_decay": 5e-4},
    "cifar100": {"batch_size": 128, "num_epochs": 200, "schedule": "cosine", "weight_decay": 5e-4},
    "mnist": {"batch_size": 128, "num_epochs": 20, "schedule": "cosine", "learning_rate": 0.05},
    "fashion_mnist": {
        "batch_size": 128,
        "num_epochs": 30,
        "schedule": "cosine",
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
    },
    "digits": {
        "batch_size": 64,
        "num_epochs": 20,
        "schedule": "cosine",
        "learning_rate": 0.05,
        "warmup_epochs": 1.0,
        "weight_decay": 5e-4,
        "log_every_steps": 11,
    },
}

# Networks without norms bear a tenth of the learning rate, as torchvision's reference gives AlexNet
# and VGG.
_WITHOUT_NORM = {
    *("alexnet", "alexnet_original", "googlenet_original", "lenet5", "nin", "zfnet"),
    *("squeezenet1_0", "squeezenet1_1", "vgg", "vgg11", "vgg13", "vgg16", "vgg19"),
}

# Arguments of a builder that a config sets by other keys, or that are no plain values.
_NOT_IN_CONFIG = {
    *("num_classes", "dtype", "param_dtype", "axis_name"),
    *("activation", "block_type", "stem_type"),
}
# Those that it gives by name.
_NAMED = {"norm_layer", "weight_init"}


def recipe(model: str, dataset: str = "imagenet2012") -> config_dict.ConfigDict:
    """The config of a model on a dataset.

    On ImageNet, and on any dataset without settings of its own, it is torchvision's reference
    for ResNets: batch 256, SGD with momentum 0.9 and weight decay 1e-4, learning rate 0.1 (0.01
    for networks without norms), times 0.1 every 30 of 90 epochs.

    Args:
        model: one of :func:`jaxcnn.models.list_models`.
        dataset: ``"digits"``, any tfds image-classification dataset, or images in files
            (``"folder:/path"``, ``"csv:/path"``).

    Raises:
        UserError: for an unknown model.
    """
    images = preset(dataset)
    if images.train_crop == "random_resized_crop":  # photographs, at the size the model is made for
        size = create_model(model).input_size
        resize_size = round(size * images.resize_size / images.image_size)
        images = dataclasses.replace(images, image_size=size, resize_size=resize_size)
    placeholder = config_dict.placeholder
    config = config_dict.ConfigDict(
        {
            "model": model,
            "model_args": {
                # None: the builder's own, whatever model the command line chooses
                key: placeholder(str if key in _NAMED else object if value is None else type(value))
                for key, value in builder_arguments(model).items()
                if key not in _NOT_IN_CONFIG
            },
            "num_classes": placeholder(int),  # None: the dataset's
            "init_from": placeholder(str),  # weights to begin with; None: random ones
            "dataset": dataset,
            "train_split": images.train_split,
            "max_skipped": 0.001,  # the part of the images that may turn out to be bad
            "image_size": images.image_size,
            "channels": placeholder(int),  # 1 or 3; None: the dataset's
            "mean": images.mean,
            "std": images.std,
            "subtract_mean_image": False,
            "fit": images.fit,  # resize or pad
            "interpolation": "bilinear",  # or bicubic
            "augment": {
                "crop": images.train_crop,  # random_resized_crop, pad_and_crop or none
                "padding": images.padding,
                "flip": images.flip,
                "policy": "none",  # rand_augment or trivial_augment_wide
                # On the device:
                "color_jitter": (0.0, 0.0, 0.0, 0.0),  # brightness, contrast, saturation, hue
                "grayscale": 0.0,  # probability
                "lighting": 0.0,  # standard deviation
                "erasing": 0.0,  # probability
                "mixup": 0.0,  # alpha
                "cutmix": 0.0,  # alpha
            },
            "eval": {
                "split": placeholder(str),  # None: the test or validation split
                "crop": images.eval_crop,  # resize_and_center_crop or none
                "resize_size": images.resize_size,
                "crops": 1,  # or 10
                "batch_size": placeholder(int),  # None: that of training
                "every_epochs": 1,
            },
            "batch_size": 256,  # over all devices of all hosts
            "num_epochs": 90,
            "learning_rate": 0.1,
            "schedule": "step",  # constant, step or cosine
            "warmup_epochs": 0.0,
            "decay_epochs": 30,
            "decay_factor": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-4,
            "label_smoothing": 0.0,
            "dtype": "float32",  # of the computation: float32 or bfloat16
            "sync_batch_norm": False,
            "seed": 0,
            "log_every_steps": 100,
            "checkpoint": {"every_epochs": 1, "keep": 3},
        }
    )
    if images.eval_split:
        config.eval.split = images.eval_split
    config.update(_SETTINGS.get(base_name(dataset), {}))
    if model in _WITHOUT_NORM:
        config.learning_rate /= 10
    return config
