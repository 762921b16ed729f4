"""resnet50 (He et al. 2015) with the recipe of torchvision's second weights.

Trained with the recipe "new_recipe" of jaxcnn/training/recipes: 600 epochs of batches of 1,024
images, 128 on each of 8 devices. Its source: PyTorch's blog, How to train state-of-the-art models
using TorchVision's latest primitives.

It is reported to reach 80.858% top-1 on ImageNet: torchvision's weights IMAGENET1K_V2.

torchvision trained the second weights of many networks with this recipe or one close to it:
--config.model=resnet101, mobilenet_v2, regnet_y_8gf and so on (docs/recipes.md). A small dataset
has its own settings, as with any recipe.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/resnet50_v2.py:folder:/path``."""
    return open_config("resnet50", dataset, recipe="new_recipe")
