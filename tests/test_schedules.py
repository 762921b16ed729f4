"""The schedules are torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from jaxcnn.errors import UserError
from jaxcnn.training.schedules import Plateau, make_schedule

STEPS_PER_EPOCH, EPOCHS, RATE = 7, 12, 0.1


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def rates(name: str, num_epochs: int = EPOCHS, **arguments) -> np.ndarray:
    schedule = make_schedule(
        name, RATE, steps_per_epoch=STEPS_PER_EPOCH, num_epochs=num_epochs, **arguments
    )
    result = jax.vmap(schedule)(jnp.arange(num_epochs * STEPS_PER_EPOCH))
    assert result.dtype == jnp.float64
    return np.asarray(result)


def torch_rates(make_scheduler, count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = make_scheduler(optimizer)
    result = []
    for _ in range(count):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


# By schedule: its arguments, and torch's scheduler for ticks of which there are `total` after the
# warm-up, `per_epoch` in an epoch.
SCHEDULES = {
    "constant": ({}, lambda o, total, per_epoch: lr_scheduler.ConstantLR(o, 1.0)),
    "step": (
        {"decay_epochs": 3, "decay_factor": 0.5},
        lambda o, total, per_epoch: lr_scheduler.StepLR(o, 3 * per_epoch, 0.5),
    ),
    "multistep": (
        {"milestones": (2, 3, 7), "decay_factor": 0.5},
        lambda o, total, per_epoch: lr_scheduler.MultiStepLR(
            o, [per_epoch * epoch for epoch in (2, 3, 7)], 0.5
        ),
    ),
    "exponential": (
        {"decay_factor": 0.8},
        lambda o, total, per_epoch: lr_scheduler.ExponentialLR(o, 0.8 ** (1 / per_epoch)),
    ),
    "cosine": (
        {"min_learning_rate": 0.01},
        lambda o, total, per_epoch: lr_scheduler.CosineAnnealingLR(o, total, 0.01),
    ),
    "polynomial": (
        {"power": 1.5},
        lambda o, total, per_epoch: lr_scheduler.PolynomialLR(o, total, 1.5),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's
@pytest.mark.parametrize("by", ["epoch", "step"])
@pytest.mark.parametrize(("warmup", "method"), [(0, "linear"), (3, "linear"), (3, "constant")])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_and_warmups_equal_torchs(name, warmup, method, by):
    arguments, make_main = SCHEDULES[name]
    per_epoch = STEPS_PER_EPOCH if by == "step" else 1

    def make(optimizer):
        main = make_main(optimizer, (EPOCHS - warmup) * per_epoch, per_epoch)
        if not warmup:
            return main
        if method == "linear":
            first = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup * per_epoch)
        else:
            first = lr_scheduler.ConstantLR(optimizer, 0.01, total_iters=warmup * per_epoch)
        return lr_scheduler.SequentialLR(optimizer, [first, main], [warmup * per_epoch])

    expected = np.repeat(torch_rates(make, EPOCHS * per_epoch), STEPS_PER_EPOCH // per_epoch)
    ours = rates(name, by=by, warmup_epochs=warmup, warmup_method=method, **arguments)
    np.testing.assert_allclose(ours, expected, rtol=1e-11)


@pytest.mark.parametrize("steps_per_epoch", [22, 390, 5004])
@pytest.mark.parametrize("decay_epochs", [10, 30])
@pytest.mark.parametrize("by", ["epoch", "step"])
def test_compiled_step_decay_in_float32_is_on_time(steps_per_epoch, decay_epochs, by):
    schedule = make_schedule(
        "step",
        0.1,
        steps_per_epoch=steps_per_epoch,
        num_epochs=90,
        decay_epochs=decay_epochs,
        by=by,
    )
    with jax.enable_x64(False):
        compiled = jax.jit(schedule)
        for decay in range(1, 4):
            step = decay * decay_epochs * steps_per_epoch
            around = [float(compiled(jnp.int32(s))) for s in (step - 1, step)]
            np.testing.assert_allclose(around, [0.1 * 0.1 ** (decay - 1), 0.1 * 0.1**decay], 1e-5)


def test_unknown_names_and_no_decay_raise():
    with pytest.raises(UserError, match="no schedule 'cos'; did you mean 'cosine'"):
        rates("cos", num_epochs=1)
    with pytest.raises(UserError, match="no unit of schedules 'steps'; did you mean 'step'"):
        rates("cosine", num_epochs=1, by="steps")
    with pytest.raises(UserError, match="no warm-up 'lin'; did you mean 'linear'"):
        rates("cosine", num_epochs=1, warmup_method="lin")
    with pytest.raises(UserError, match="decay_epochs is 0; it must be above 0"):
        rates("step", num_epochs=1, decay_epochs=0)


@given(
    values=st.lists(st.floats(0.0, 2.0, width=16), max_size=30),
    metric=st.sampled_from(["loss", "top1"]),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.1]),
    lowest=st.sampled_from([0.0, 1e-3]),
)
def test_plateau_equals_torchs(values, metric, patience, threshold, lowest):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    mode = "min" if metric == "loss" else "max"
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.3, patience=patience, threshold=threshold, min_lr=lowest
    )
    ours = Plateau(metric, RATE, 0.3, patience, threshold, lowest)
    for number, value in enumerate(values, 1):
        scheduler.step(value)
        rate = RATE * ours.rate_factor(values[:number])
        np.testing.assert_allclose(rate, optimizer.param_groups[0]["lr"], rtol=1e-12)
