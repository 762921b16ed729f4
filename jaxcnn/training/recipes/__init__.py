"""Recipes: how each network's published weights were trained, as data.

A recipe gives the values of config keys (:mod:`jaxcnn.training.config`) that a config file leaves
open. ImageNet, and any dataset without settings of its own, is trained with the recipe's
``settings``. The small datasets of ``DATASETS`` are trained with plain SGD (``SMALL_IMAGES``) and
settings of their own, with which a ResNet learns them well; what a network needs differently there
is in its recipe's ``small`` and ``small_rate``. Nothing of an ImageNet recipe applies to them: no
augmentation, averaging, image size or optimizer.

Most recipes are those of torchvision's training reference, ``references/classification``: its
README lists the flags of ``train.py`` for each network, and ``batch_size`` here is its
``--batch-size`` times the number of GPUs. Where torchvision did not train the weights that it
publishes (``ported``), the recipe is that of the network's paper. A comment says what the paper
leaves open, and what was chosen.
"""

from jaxcnn.training.recipes.recipe import Recipe
from jaxcnn.training.recipes.small import DATASETS, SMALL_IMAGES, is_small
from jaxcnn.training.recipes.table import OTHERS, RECIPES, recipe_for

__all__ = [
    "DATASETS",
    "OTHERS",
    "RECIPES",
    "SMALL_IMAGES",
    "Recipe",
    "is_small",
    "recipe_for",
]
