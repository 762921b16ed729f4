"""Every network is torchvision's, in float64 to the last digits.

How each family is compared stands in families.py; the table at the end of the run shows the
errors.
"""

import numpy as np
import pytest
import torch
import torchvision
from compare import LOGITS, STEPS, images, logits_errors, pair
from families import FAMILIES
from steps import worst_step_error
from torchvision_modules import module_without_values

from jaxcnn import models
from jaxcnn.convert.state_dict import expected_torch_shapes

NAMES = [
    name
    for name in torchvision.models.list_models(torchvision.models)
    if not name.startswith(("maxvit", "swin", "vit"))  # of attention, not convolutions
]
FAST = {name for family in FAMILIES.values() for name in family.fast}
KEYWORDS = [case for family in FAMILIES.values() for case in family.keywords]
STEPPED = [name for family in FAMILIES.values() for name in family.steps]
# Of which the default suite compares more than logits.
THOROUGH = {"resnet18", "squeezenet1_1"}


def family_of(name: str):
    return FAMILIES[models.model_info(name).family]


def slow_but(fast: set[str], names: list[str]):
    return [pytest.param(n, marks=[pytest.mark.slow] * (n not in fast)) for n in names]


def test_all_of_torchvisions_convolutional_networks_are_here():
    assert set(NAMES) <= set(models.list_models())
    assert len(NAMES) == 68


@pytest.mark.parametrize("name", slow_but(FAST, NAMES))
def test_the_parameter_tree_is_torchvisions(name):
    module = module_without_values(name)
    theirs = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    theirs = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    assert expected_torch_shapes(models.create_model(name)) == theirs


@pytest.mark.parametrize("name", slow_but(FAST, NAMES))
def test_logits_equal_torchvisions(name, table):
    """In both modes, for images of an odd size and seven classes."""
    x = images(2, 3, *family_of(name).size)
    for train, error in logits_errors(name, x, num_classes=7).items():
        table(name, "train" if train else "eval", error)
        assert error <= LOGITS, f"train={train}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_torchvisions_at_the_default_size(name, table):
    size = models.model_info(name).input_size
    (error,) = logits_errors(name, images(1, 3, size, size), modes=(False,)).values()
    table(name, "default size", error)
    assert error <= LOGITS


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), KEYWORDS)
def test_keyword_arguments_mean_what_they_mean_in_torchvision(name, kwargs):
    x = images(2, 3, *family_of(name).size)
    for train, error in logits_errors(name, x, **kwargs).items():
        assert error <= LOGITS, f"train={train}"


@pytest.mark.parametrize("name", slow_but(THOROUGH, STEPPED))
def test_three_training_steps_equal_torchs(name, table):
    model, _, module = pair(name, num_classes=10)
    family = family_of(name)
    error, where = worst_step_error(
        model,
        module,
        family.steps[name],
        learning_rate=family.learning_rate,
        aux_weight=family.aux_weight,
    )
    table(name, "three steps", error)
    assert error <= STEPS, where


@pytest.mark.parametrize("name", slow_but(THOROUGH, STEPPED))
def test_the_comparison_measures_the_port_and_not_chaos(name):
    """Torch against itself, its input moved by one unit in the last place."""
    _, _, module = pair(name, num_classes=10)
    module.train()
    x = images(*family_of(name).steps[name])
    with torch.no_grad():
        reference, moved = (
            module(torch.from_numpy(array)) for array in (x, np.nextafter(x, np.inf))
        )
    if isinstance(reference, tuple):
        reference, moved = reference[0], moved[0]
    assert (moved - reference).abs().max() <= LOGITS / 10 * reference.abs().max()
