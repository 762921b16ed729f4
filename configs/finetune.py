"""Fine-tuning: a network with published weights, or a file's, and a new head for other classes.

Trained with the recipe "finetune" of jaxcnn/training/recipes: 25 epochs of batches of 4 images, all
on one device. Its source: PyTorch's tutorials, Transfer learning for computer vision. A larger
batch scales the rate of 0.001 with it.

    python train.py --config configs/finetune.py:resnet50 --config.dataset=folder:/path
    ... --config.init_from=runs/a/weights.safetensors   other weights than torchvision's best
    ... --config.freeze=body                            train the head only
    ... --config.unfreeze_epoch=5                       and everything from the sixth epoch on
    ... --config.head_learning_rate=0.01                a rate of its own for the head
    ... --config.layer_decay=0.8                        lower rates for earlier blocks
"""

from ml_collections import ConfigDict

from jaxcnn.training.config import finetune_config


def get_config(model: str = "resnet18") -> ConfigDict:
    """The config for a network: ``--config configs/finetune.py:resnet50``."""
    return finetune_config(model)
