"""Which network is trained with which recipe."""

import dataclasses
from typing import NamedTuple

from jaxcnn.errors import UserError, suggest
from jaxcnn.training.recipes.papers import (
    ALEXNET_ORIGINAL,
    DENSENET,
    EFFICIENTNET_V2_L,
    GOOGLENET,
    GOOGLENET_ORIGINAL,
    INCEPTION_V3,
    LENET,
    MNASNET,
    NIN,
    SHUFFLENET,
    ZFNET,
    efficientnet,
)
from jaxcnn.training.recipes.recipe import Recipe
from jaxcnn.training.recipes.reference import (
    ANYNET,
    FINETUNE,
    MOBILENET_V2,
    MOBILENET_V3,
    NEW_MNASNET,
    NEW_RECIPE,
    NEW_RESNEXT,
    NEW_SHUFFLENET,
    REFERENCE,
    REGNET_LARGE,
    REGNET_MEDIUM,
    REGNET_SMALL,
    REGNET_Y_400MF,
    RESNEXT50,
    RESNEXT101,
    SQUEEZENET,
    SWAG,
    WIDE_RESNET,
    WITHOUT_NORM,
    convnext,
    efficientnet_v2,
)
from jaxcnn.training.recipes.small import ADAMW

# An MNASNet's batch norms have torch's momentum, not the paper's, which takes thousands of steps,
# and more than one pixel in the last maps.
_MNASNET_SMALL = {"image_size": 64, "model_args__norm_layer": "batch"}

_BOTTLENECKS: dict[str, Recipe] = {
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), REFERENCE),
    "resnext50_32x4d": RESNEXT50,
    "resnext101_32x8d": RESNEXT101,
    "resnext101_64x4d": NEW_RESNEXT,
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), WIDE_RESNET),
}

# By architecture; all others are trained with REFERENCE. On small datasets an image has the
# smallest round size that the network takes in training, where that is more than 32 and there
# are no auxiliary heads, which would need far larger images. EfficientNets B0 to B7 take 32, too,
# but their last maps are then of one pixel: the smallest ends digits at 30%.
#
# Digits' epochs are 22 steps, too few for some: MobileNetV3's running statistics, of which each
# step replaces one percent, are not yet those of the network; a SqueezeNet, whose logits pass a
# rectifier, learns slowly at a rate that does not kill that; and NiN, ZFNet and the original
# AlexNet begin slowly.
RECIPES: dict[str, Recipe] = {
    "alexnet": WITHOUT_NORM.on_small_images(image_size=64, **ADAMW),
    "alexnet_original": ALEXNET_ORIGINAL.on_small_images(image_size=67, **ADAMW).on_dataset(
        "digits", num_epochs=40
    ),
    "anynet": ANYNET,
    "convnext_tiny": convnext("convnext_tiny", 236).on_small_images(**ADAMW),
    "convnext_small": convnext("convnext_small", 230).on_small_images(**ADAMW),
    **dict.fromkeys(
        ("convnext_base", "convnext_large"), convnext("convnext", 232).on_small_images(**ADAMW)
    ),
    **dict.fromkeys(("densenet121", "densenet161", "densenet169", "densenet201"), DENSENET),
    **{
        f"efficientnet_b{index}": efficientnet(f"efficientnet_b{index}", size).on_small_images(
            image_size=64
        )
        for index, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    "efficientnet_v2_s": efficientnet_v2("efficientnet_v2_s", 300, 384),
    "efficientnet_v2_m": efficientnet_v2("efficientnet_v2_m", 384, 480),
    "efficientnet_v2_l": EFFICIENTNET_V2_L,
    "googlenet": GOOGLENET,
    "googlenet_original": GOOGLENET_ORIGINAL.on_small_images(model_args__aux_logits=False, **ADAMW),
    "inception_v3": INCEPTION_V3.on_small_images(model_args__aux_logits=False, image_size=80),
    "lenet5": LENET,
    **dict.fromkeys(("mnasnet0_5", "mnasnet1_0"), MNASNET.on_small_images(**_MNASNET_SMALL)),
    **dict.fromkeys(("mnasnet0_75", "mnasnet1_3"), NEW_MNASNET.on_small_images(**_MNASNET_SMALL)),
    "mobilenet_v2": MOBILENET_V2,
    **dict.fromkeys(
        ("mobilenet_v3_large", "mobilenet_v3_small"),
        MOBILENET_V3.on_dataset("digits", batch_size=32, num_epochs=40),
    ),
    "nin": NIN.on_small_images(image_size=67, **ADAMW).on_dataset("digits", num_epochs=40),
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
    # Each residual block begins as the identity (Goyal et al. 2017, section 5.1): without, the loss
    # of a ResNet-50 first rises to tens on small images, and it ends digits at 78%, not 98.6%.
    **{
        name: recipe.on_small_images(model_args__zero_init_residual=True)
        for name, recipe in _BOTTLENECKS.items()
    },
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"), SHUFFLENET),
    **dict.fromkeys(("shufflenet_v2_x1_5", "shufflenet_v2_x2_0"), NEW_SHUFFLENET),
    **dict.fromkeys(
        ("squeezenet1_0", "squeezenet1_1"),
        SQUEEZENET.on_small_images(**ADAMW).on_dataset("digits", num_epochs=40),
    ),
    "vgg": dataclasses.replace(WITHOUT_NORM, weights=None),
    "vgg11": WITHOUT_NORM,
    "vgg13": WITHOUT_NORM,
    "vgg16": WITHOUT_NORM,
    "vgg19": WITHOUT_NORM,
    "zfnet": ZFNET.on_small_images(image_size=64, **ADAMW).on_dataset("digits", num_epochs=40),
}


class Other(NamedTuple):
    """A config file whose recipe is not its network's own.

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

_BY_NAME = {recipe.name: recipe for recipe in (REFERENCE, NEW_RECIPE, FINETUNE, *RECIPES.values())}


def recipe_for(model: str, name: str | None = None) -> Recipe:
    """The recipe of an architecture.

    Args:
        model: the architecture.
        name: of another recipe than its own; what the network needs on small datasets stays.

    Raises:
        UserError: for an unknown recipe.
    """
    own = RECIPES.get(model, REFERENCE)
    if name is None or name == own.name:
        return own
    if name not in _BY_NAME:
        raise UserError(
            f"config.recipe={name!r}: there is no such recipe; {suggest(name, _BY_NAME)}"
        )
    return dataclasses.replace(
        _BY_NAME[name], small=own.small, small_rate=own.small_rate, by_dataset=own.by_dataset
    )
