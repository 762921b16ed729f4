"""State dicts to variables and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision

from jaxcnn import convert, models
from jaxcnn.convert.state_dict import _cleaned
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


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_models_are_understood(prefix, state_dict):
    wrapped = {prefix + name: value for name, value in state_dict.items()}
    wrapped["n_averaged"] = torch.tensor(3)  # of torch.optim.swa_utils.AveragedModel
    model = models.resnet18(num_classes=5)
    jax.tree.map(
        np.testing.assert_array_equal,
        convert.from_torch(wrapped, model),
        convert.from_torch(state_dict, model),
    )


def test_a_head_of_another_size_can_be_left_out(state_dict):
    model = models.resnet18(num_classes=7)
    variables = convert.from_torch(state_dict, model, skip=("fc",), rng=jax.random.key(3))
    fresh = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 64, 64, 3)))
    np.testing.assert_array_equal(
        variables["params"]["fc"]["kernel"], fresh["params"]["fc"]["kernel"]
    )
    np.testing.assert_array_equal(
        convert.to_torch(variables)["conv1.weight"], state_dict["conv1.weight"]
    )
    headless = {k: v for k, v in state_dict.items() if not k.startswith("fc.")}
    convert.from_torch(headless, model, skip=("fc",), rng=jax.random.key(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"skip": ("fc",)}, "give rng="),
        ({"skip": ("fc1",), "rng": jax.random.key(0)}, "no module 'fc1'.*did you mean 'fc'"),
        ({"skip": ("f",), "rng": jax.random.key(0)}, "no module 'f'"),
    ],
)
def test_what_cannot_be_skipped_is_said(arguments, words, state_dict):
    with pytest.raises(UserError, match=words):
        convert.from_torch(state_dict, models.resnet18(num_classes=5), **arguments)


def test_variables_do_not_share_memory_with_torch():
    module = torchvision.models.resnet18(num_classes=5)
    variables = convert.from_torch(module.state_dict(), models.resnet18(num_classes=5))
    before = jax.tree.map(np.array, variables)
    with torch.no_grad():
        for leaf in module.state_dict().values():
            leaf.zero_()
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_old_spellings_of_densenet_are_todays():
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": 0,
        "features.denseblock1.denselayer1.conv.2.weight": 1,
        "features.norm0.weight": 2,
    }
    assert list(_cleaned(old)) == [
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock1.denselayer1.conv2.weight",
        "features.norm0.weight",
    ]
