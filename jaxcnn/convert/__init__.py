"""PyTorch weights to Flax variables and back.

Example::

    from jaxcnn import convert, models

    model = models.resnet18()
    variables = convert.from_torch(torch_model.state_dict(), model)
    torch_model.load_state_dict(convert.to_torch(variables))  # after torch.from_numpy on each
"""

from jaxcnn.convert.state_dict import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
