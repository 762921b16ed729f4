"""The config files of ``configs/`` by name, for an installation without them.

This is a config file, too: ``--config PATH_OF_THIS_FILE:resnet18:digits`` is
``--config configs/resnet18.py:digits``.
"""

from ml_collections import ConfigDict

from jaxcnn import models
from jaxcnn.errors import UserError, suggest
from jaxcnn.training.config.resolve import open_config
from jaxcnn.training.recipes import OTHERS

FINETUNE = "finetune"


def get_config(request: str) -> ConfigDict:
    """The config that ``configs/NAME.py`` gives.

    Args:
        request: ``NAME`` or ``NAME:ARGUMENT``, where NAME is an architecture or a recipe
            (``resnet50_v2``) and ARGUMENT a dataset; or ``finetune:ARCHITECTURE``.

    Raises:
        UserError: for an unknown name.

    Example::

        config = get_config("resnet18:digits")
    """
    name, _, argument = request.partition(":")
    if name == FINETUNE:
        return finetune_config(argument or "resnet18")
    if name in OTHERS:
        other = OTHERS[name]
        return open_config(other.model, argument or None, recipe=other.recipe.name)
    known = models.list_models()
    if name not in known:
        names = [*known, *OTHERS, FINETUNE]
        raise UserError(f"Unknown recipe {name!r}; {suggest(name, names)}")
    return open_config(name, argument or None)


def finetune_config(model: str) -> ConfigDict:
    """The config for fine-tuning a network with published weights on a dataset yet to be given."""
    config = open_config(model, recipe="finetune", init_from="DEFAULT")
    config.dataset = None
    return config
