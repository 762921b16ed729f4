"""lenet5 (LeCun et al. 1998).

Trained with the recipe "lenet" of jaxcnn/training/recipes: 20 epochs of batches of 128 images.
Its source: published nowhere: today's SGD on MNIST.

The paper trained otherwise, so no published accuracy belongs to it.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "mnist") -> ConfigDict:
    """The config for a dataset: ``--config configs/lenet5.py:fashion_mnist``."""
    return open_config("lenet5", dataset)
