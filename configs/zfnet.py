"""zfnet (Zeiler and Fergus 2013).

Trained with the recipe "zfnet" of jaxcnn/training/recipes: 70 epochs of batches of 128 images,
all on one device. Its source: Zeiler and Fergus 2013, section 3.

The paper reports 61.6% top-1 on ImageNet. Filters are kept to a root mean square of 0.1, which was
meant for the inputs of about -128 to 128 that this config feeds. The paper's initial weights are
the constant 0.01, with which equal filters stay equal: --config.model_args.weight_init=0.01; the
network's own are normal with that deviation. The textbooks' forms are built by arguments:
docs/networks.md.
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import open_config


def get_config(dataset: str = "imagenet2012") -> ConfigDict:
    """The config for a dataset: ``--config configs/zfnet.py:cifar10``."""
    return open_config("zfnet", dataset)
