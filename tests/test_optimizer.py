"""SGD and the schedules are torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxcnn.errors import UserError
from jaxcnn.training.optimizer import make_schedule, sgd

STEPS_PER_EPOCH = 7


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


def rates(name: str, num_epochs: int, **arguments) -> np.ndarray:
    schedule = make_schedule(
        name, 0.1, steps_per_epoch=STEPS_PER_EPOCH, num_epochs=num_epochs, **arguments
    )
    steps = jnp.arange(num_epochs * STEPS_PER_EPOCH)
    result = jax.vmap(schedule)(steps)
    assert result.dtype == jnp.float64
    return np.asarray(result)


def torch_rates(make_scheduler, count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make_scheduler(optimizer)
    result = []
    for _ in range(count):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


def test_step_decay_equals_torchs_step_lr():
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 30, 0.1), 90)
    ours = rates("step", 90, decay_epochs=30, decay_factor=0.1)
    np.testing.assert_allclose(ours, np.repeat(reference, STEPS_PER_EPOCH), rtol=1e-12)


@pytest.mark.parametrize("steps_per_epoch", [22, 390, 5004])
@pytest.mark.parametrize("decay_epochs", [10, 30])
def test_compiled_step_decay_in_float32_is_on_time(steps_per_epoch, decay_epochs):
    schedule = make_schedule(
        "step", 0.1, steps_per_epoch=steps_per_epoch, num_epochs=90, decay_epochs=decay_epochs
    )
    with jax.enable_x64(False):
        compiled = jax.jit(schedule)
        for decay in range(1, 4):
            step = decay * decay_epochs * steps_per_epoch
            around = [float(compiled(jnp.int32(s))) for s in (step - 1, step)]
            np.testing.assert_allclose(around, [0.1 * 0.1 ** (decay - 1), 0.1 * 0.1**decay], 1e-5)


def test_cosine_equals_torchs_cosine_annealing():
    count = 5 * STEPS_PER_EPOCH
    reference = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, count), count)
    np.testing.assert_allclose(rates("cosine", 5), reference, rtol=1e-12)


def test_warm_up_rises_linearly_and_the_cosine_ends_at_zero():
    ours = rates("cosine", 5, warmup_epochs=2.0)
    warmup = 2 * STEPS_PER_EPOCH
    np.testing.assert_allclose(
        ours[: warmup + 1], 0.1 * np.arange(1, warmup + 2) / (warmup + 1), rtol=1e-12
    )
    assert (np.diff(ours[warmup:]) < 0).all()
    assert 0 < ours[-1] < 0.001


def test_constant_schedule_is_constant():
    assert (rates("constant", 2) == 0.1).all()


def test_unknown_schedule_and_decay_raise():
    with pytest.raises(UserError, match="no schedule 'cos'; did you mean 'cosine'"):
        rates("cos", num_epochs=1)
    with pytest.raises(UserError, match="decay_epochs is 0; it must be above 0"):
        rates("step", num_epochs=1, decay_epochs=0)
