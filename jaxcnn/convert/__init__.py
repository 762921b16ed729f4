"""PyTorch weights to Flax variables and back, without PyTorch.

Example::

    from jaxcnn import convert, models

    state_dict = convert.load_checkpoint("resnet18.pth")  # {name: np.ndarray}; runs no code
    variables = convert.from_torch(state_dict, models.resnet18())
    convert.save_torch("resnet18.safetensors", variables)

    model, variables = convert.load_pretrained("resnet18")  # downloads torchvision's weights
    convert.save_pretrained("mine", model, variables)  # a folder that says which network it is
    model, variables = convert.load_pretrained("mine")  # or "hf-hub:OWNER/NAME"
"""

from jaxcnn.convert.fold import fold_batch_norm
from jaxcnn.convert.hub import save_pretrained
from jaxcnn.convert.pretrained import initialize_from, load_pretrained, pretrained_weights
from jaxcnn.convert.state_dict import from_torch, to_torch
from jaxcnn.convert.variables import load, save, save_torch
from jaxcnn.errors import CheckpointError
from jaxcnn.io.checkpoint import load_checkpoint

__all__ = [
    "CheckpointError",
    "fold_batch_norm",
    "from_torch",
    "initialize_from",
    "load",
    "load_checkpoint",
    "load_pretrained",
    "pretrained_weights",
    "save",
    "save_pretrained",
    "save_torch",
    "to_torch",
]
