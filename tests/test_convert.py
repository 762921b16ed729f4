"""State dicts to variables and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision

from jaxcnn import convert, models
from jaxcnn.errors import UserError


@pytest.fixture(scope="module")
def state_dict() -> dict[str, torch.Tensor]:
    return torchvision.models.resnet18(num_classes=5).state_dict()


def test_there_and_back_is_exact_for_torch(state_dict):
    variables = convert.from_torch(state_dict, models.resnet18(num_classes=5))
    back = convert.to_torch(variables)
    assert back.keys() == state_dict.keys()
    for name, value in state_dict.items():
        assert back[name].dtype == value.numpy().dtype
        assert back[name].tobytes() == value.numpy().tobytes()
    module = torchvision.models.resnet18(num_classes=5)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


def test_there_and_back_is_exact_for_flax():
    model = models.resnet50(num_classes=5)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    back = convert.from_torch(convert.to_torch(variables), model)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_the_values_keep_their_dtype(state_dict):
    halves = {name: value.half() for name, value in state_dict.items()}
    variables = convert.from_torch(halves, models.resnet18(num_classes=5))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float16")}


def test_num_batches_tracked_may_be_absent(state_dict):
    old = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    convert.from_torch(old, models.resnet18(num_classes=5))


def test_one_error_lists_all_that_does_not_fit(state_dict):
    wrong = dict(state_dict)
    del wrong["bn1.weight"]
    wrong["layer5.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        convert.from_torch(wrong, models.resnet18(num_classes=7))
    message = str(error.value)
    assert "missing bn1.weight" in message
    assert "unexpected layer5.weight" in message
    assert "fc.weight has shape (5, 512) where the model has (7, 512)" in message
    assert "fc.bias has shape (5,) where the model has (7,)" in message


def test_other_collections_are_left_out():
    assert convert.to_torch({"params": {}, "intermediates": {"a": np.zeros(1)}}) == {}
