"""Optimizers beyond what tests/parity compares over twenty steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UserError
from jaxcnn.training.optimizer import (
    WeightDecay,
    carry_over,
    make_optimizer,
    renormalize_filters,
    sgd,
)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    "arguments",
    [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    ],
)
def test_sgd_equals_torchs(arguments):
    start = np.random.default_rng(0).standard_normal(5)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    torch_optimizer = torch.optim.SGD([theirs], lr=0.1, **arguments)
    optimizer = sgd(0.1, **arguments)
    ours = jnp.asarray(start)
    state = optimizer.init(ours)
    for _ in range(5):
        torch_optimizer.zero_grad()
        (theirs**4).sum().backward()
        torch_optimizer.step()
        updates, state = optimizer.update(jax.grad(lambda p: (p**4).sum())(ours), state, ours)
        ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-14)


def random_params(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "conv": {"kernel": 0.2 * rng.standard_normal((3, 3, 4, 6)), "bias": np.ones(6)},
        "fc": {"kernel": rng.standard_normal((6, 5)), "bias": np.ones(5)},
    }


def test_renormalized_filters_equal_a_loop_in_numpy():
    """Of Zeiler and Fergus 2013, section 3."""
    radius, params = 0.1, random_params()
    params["conv"]["kernel"] *= np.linspace(0.01, 1, 6)  # some within the radius, some not
    gradients = random_params(seed=1)
    plain = make_optimizer("sgd", 0.01)
    optimizer = make_optimizer("sgd", 0.01, filter_radius=radius)
    updates, _ = plain.update(gradients, plain.init(params), params)
    expected = jax.tree.map(np.array, optax.apply_updates(params, updates))
    changed = 0
    for number in range(6):
        filter_ = expected["conv"]["kernel"][..., number]
        size = np.sqrt(np.mean(filter_**2))
        if size > radius:
            filter_ *= radius / size
            changed += 1
    assert 0 < changed < 6
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    ours = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), ours, expected)


@settings(deadline=None)  # the first example compiles
@given(seed=st.integers(0, 2**16), radius=st.floats(0.01, 1.0))
def test_no_filter_is_above_the_radius_after_a_step(seed, radius):
    params = random_params(seed)
    transformation = renormalize_filters(radius)
    updates, _ = transformation.update(random_params(seed + 1), optax.EmptyState(), params)
    kernel = params["conv"]["kernel"] + updates["conv"]["kernel"]
    size = np.sqrt(np.mean(np.square(kernel), axis=(0, 1, 2)))
    assert (size <= radius * (1 + 1e-14)).all()  # one addition's rounding


def test_adaptive_clipping_bounds_each_units_gradient():
    """By 0.01 of the norm of its parameters: Brock et al. 2021, section 4.1."""
    params, gradients = random_params(), random_params(seed=1)
    optimizer = make_optimizer("sgd", 1.0, clip_adaptive=0.01)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    for layer, axes in (("conv", (0, 1, 2)), ("fc", (0,))):
        sizes = [
            np.sqrt(np.sum(np.square(tree[layer]["kernel"]), axes)) for tree in (updates, params)
        ]
        np.testing.assert_allclose(sizes[0], 0.01 * sizes[1], rtol=1e-6)


def test_unknown_optimizers_and_arguments_raise():
    with pytest.raises(UserError, match="no optimizer 'adam'; did you mean 'adamw'"):
        make_optimizer("adam", 0.1)
    with pytest.raises(
        UserError, match="adamw got an unexpected argument 'alpha'; accepted: beta1"
    ):
        make_optimizer("adamw", 0.1, arguments={"alpha": 0.9})


def test_arguments_of_other_optimizers_raise():
    with pytest.raises(UserError, match="adamw takes no momentum"):
        make_optimizer("adamw", 0.1, momentum=0.9)
    with pytest.raises(UserError, match="rmsprop has no Nesterov momentum"):
        make_optimizer("rmsprop", 0.1, momentum=0.9, nesterov=True)


def test_unfrozen_parameters_count_their_own_steps_as_torchs_adamw():
    start = {name: np.random.default_rng(0).standard_normal(4) for name in ("body", "head")}
    theirs = {name: torch.nn.Parameter(torch.from_numpy(v.copy())) for name, v in start.items()}
    theirs["body"].requires_grad_(False)
    torch_optimizer = torch.optim.AdamW(theirs.values(), lr=0.1, weight_decay=0.01)
    optimizer = make_optimizer("adamw", 0.1, weight_decay=WeightDecay(0.01))
    ours = {name: jnp.asarray(value) for name, value in start.items()}
    trainable = {"head"}
    state = optimizer.init({name: ours[name] for name in trainable})
    for step in range(20):
        if step == 10:
            theirs["body"].requires_grad_(True)
            trainable = {"body", "head"}
            state = carry_over(state, optimizer.init(ours))
        torch_optimizer.zero_grad()
        sum((theirs[name] ** 4).sum() for name in trainable).backward()
        torch_optimizer.step()
        part = {name: ours[name] for name in trainable}
        gradients = jax.tree.map(lambda p: 4 * p**3, part)
        updates, state = optimizer.update(gradients, state, part)
        ours |= optax.apply_updates(part, updates)
    for name in start:
        np.testing.assert_allclose(ours[name], theirs[name].detach(), rtol=1e-12)


def test_state_for_more_parameters_keeps_what_the_old_one_has():
    everything = random_params()
    head = {"fc": everything["fc"]}
    optimizer = make_optimizer("sgd", lambda step: 0.1, momentum=0.9)
    _, old = optimizer.update(head, optimizer.init(head), head)
    new = carry_over(old, optimizer.init(everything))
    trace, count = (optax.tree.get(new, name) for name in ("trace", "count"))
    np.testing.assert_array_equal(trace["fc"]["kernel"], head["fc"]["kernel"])
    assert (trace["conv"]["kernel"] == 0).all()
    assert count == 1
