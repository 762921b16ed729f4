"""Every network computes what torchvision's does, in float64.

families.py says how each family is compared; the table at the end of the run shows the errors.
"""

import numpy as np
import pytest
import torch
import torchvision
from compare import images, logits_errors, pair
from families import FAMILIES
from steps import worst_step_error
from tiers import tiers
from torchvision_modules import module_without_values

from jaxcnn import models
from jaxcnn.convert.state_dict import expected_torch_shapes
from jaxcnn.testing.arrays import LOGITS, STEPS

NAMES = [
    name
    for name in torchvision.models.list_models(torchvision.models)
    if not name.startswith(("maxvit", "swin", "vit"))  # attention, not convolutions
]
FAST = {name for family in FAMILIES.values() for name in family.fast}
KEYWORDS = [case for family in FAMILIES.values() for case in family.keywords]
STEPPED = [name for family in FAMILIES.values() for name in family.steps]
# The default suite compares the logits of these, CI those of all but the largest networks.
QUICK = {"alexnet", "mobilenet_v2", "regnet_y_400mf", "resnet18", "vgg11"}
QUICK |= {"shufflenet_v2_x0_5", "squeezenet1_1"}
MODERATE = {name for name in NAMES if models.model_info(name).parameters < 90e6}
# Inception v3 takes minutes: with its auxiliary head, images of 299 pixels at least, and six of
# them. test_inception.py steps without the head.
STEPPED_IN_CI = set(STEPPED) - {"inception_v3"}
# The default suite compares more than the logits of these.
THOROUGH = {"resnet18", "squeezenet1_1"}


def family_of(name: str):
    return FAMILIES[models.model_info(name).family]


def test_all_convolutional_networks_of_torchvision_are_included():
    assert set(NAMES) <= set(models.list_models())
    assert len(NAMES) == 68


@pytest.mark.parametrize("name", tiers(NAMES, fast=FAST, slow=NAMES))
def test_the_parameter_tree_is_torchvisions(name):
    module = module_without_values(name)
    theirs = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    theirs = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    assert expected_torch_shapes(models.create_model(name)) == theirs


@pytest.mark.parametrize("name", tiers(NAMES, fast=QUICK, slow=MODERATE))
def test_logits_equal_torchvisions(name, table):
    """In evaluation and training, with images of an odd size and seven classes."""
    x = images(2, 3, *family_of(name).size)
    for train, error in logits_errors(name, x, num_classes=7).items():
        table(name, "train" if train else "eval", error)
        assert error <= LOGITS, f"train={train}"


@pytest.mark.parametrize("name", tiers(NAMES, slow=FAST))
def test_logits_equal_torchvisions_at_the_default_size(name, table):
    size = models.model_info(name).input_size
    (error,) = logits_errors(name, images(1, 3, size, size), modes=(False,)).values()
    table(name, "default size", error)
    assert error <= LOGITS


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), KEYWORDS)
def test_keyword_arguments_have_torchvisions_meaning(name, kwargs):
    x = images(2, 3, *family_of(name).size)
    for train, error in logits_errors(name, x, **kwargs).items():
        assert error <= LOGITS, f"train={train}"


@pytest.mark.parametrize("name", tiers(STEPPED, fast=THOROUGH, slow=STEPPED_IN_CI))
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


@pytest.mark.parametrize("name", tiers(STEPPED, fast=THOROUGH, slow=STEPPED_IN_CI))
def test_torchs_logits_are_stable_against_rounding(name):
    """Otherwise the comparisons would measure chaos, not the port."""
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
