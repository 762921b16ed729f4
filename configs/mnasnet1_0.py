"""mnasnet1_0 (Tan et al. 2019).

Trained with the recipe "mnasnet" of jaxcnn/training/recipes: 350 epochs of batches of 4,096
images. Its source: Tan et al. 2019, section 5; tensorflow/tpu, models/official/mnasnet.

torchvision's weights IMAGENET1K_V1 reach 73.456% top-1 on ImageNet; they are ported, and the recipe
is the paper's. Those weights were trained by others, with SGD and a cosine: see docs/recipes.md.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/mnasnet1_0.py:cifar10``."""
    return open_config("mnasnet1_0", dataset)
