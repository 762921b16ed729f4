"""Losses, gradients and statistics that are NaN or infinite: found, named, and never saved."""

import dataclasses
import functools
import re

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from tiny import TinyNet

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.training import devices
from jaxcnn.training.build import build
from jaxcnn.training.checkpoint_folder import saved_steps
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.ema import Ema
from jaxcnn.training.loop import train_and_evaluate
from jaxcnn.training.metrics import read_metrics
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import init_state, make_train_step

SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)
OPTIMIZER = sgd(SCHEDULE, momentum=0.9)
EMA = Ema(decay=0.5, every_steps=1, steps_per_epoch=100)


def batch(seed: int, bad_replica: int | None = None) -> dict[str, np.ndarray]:
    """Of four replicas."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((4, 2, 8, 8, 1)).astype(np.float32)
    if bad_replica is not None:
        images[bad_replica, 1, 3, 3, 0] = np.inf
    return {"image": images, "label": random.integers(0, 10, (4, 2)).astype(np.int32)}


def by_path(tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def test_skipped_step_leaves_the_state_as_it_was_on_all_replicas():
    model = TinyNet()
    state = devices.replicate(init_state(model, OPTIMIZER, (1, 8, 8, 1), with_ema=True))
    step = devices.pmap(make_train_step(model, OPTIMIZER, ema=EMA, skip_nonfinite=True))
    state, metrics = step(state, batch(0))
    assert metrics["finite"].all()
    before = by_path(state)
    state, metrics = step(state, batch(1, bad_replica=2))
    assert not metrics["finite"].any()
    after = by_path(state)
    advanced = {name for name in after if not np.array_equal(before[name], after[name])}
    assert len(advanced) == 2 and ".step" in advanced  # and the count of the schedule
    assert all("count" in name for name in advanced - {".step"})
    assert all((after[name] == 2).all() for name in advanced)
    state, metrics = step(state, batch(2))
    assert metrics["finite"].all()
    for name, leaf in by_path(state).items():
        assert (leaf == leaf[0]).all() and np.isfinite(leaf).all(), name
        assert "count" in name or not np.array_equal(leaf, before[name]), name


def test_finite_steps_are_the_same_where_others_are_skipped():
    state = init_state(TinyNet(), OPTIMIZER, (1, 8, 8, 1), with_ema=True)
    results = []
    for skip in (False, True):
        step = make_train_step(TinyNet(), OPTIMIZER, ema=EMA, skip_nonfinite=skip)
        data = {name: value.reshape(8, *value.shape[2:]) for name, value in batch(0).items()}
        results.append(jax.jit(functools.partial(step, axis_name=None))(state, data)[0])
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *results)


def test_infinite_gradient_of_a_finite_loss_is_skipped():
    class Root(Classifier):
        """Whose gradient is infinite at the weights that it starts from."""

        num_classes: int = 10

        @nn.compact
        def forward(self, x, train=False):
            weights = self.param("weights", jax.nn.initializers.zeros, (10,))
            return jax.numpy.sqrt(weights) + x.mean((1, 2, 3))[:, None]

    optimizer = optax.sgd(0.1)
    state = init_state(Root(), optimizer, (1, 8, 8, 1))
    step = make_train_step(Root(), optimizer, skip_nonfinite=True)
    data = {name: value[0] for name, value in batch(0).items()}
    new, metrics = step(state, data, axis_name=None)
    assert np.isfinite(metrics["loss"]) and not metrics["finite"]
    assert (new.params["weights"] == 0).all()


@pytest.fixture(scope="module")
def run(data_dir):
    """Builds a run of two epochs of ten steps, some of which have images that are NaN."""

    def make(bad_steps: list[int], **settings):
        small = {"train_split": "train[:640]", "eval__split": "test[:20]", "num_epochs": 2}
        small |= {"log_every_steps": 20} | settings
        config = resolve(open_config("lenet5", "digits", **small))
        experiment = build(config, data_dir)

        def make_step(**kwargs):
            step = experiment.make_train_step(**kwargs)

            def spoilt(state, batch, **kwargs):
                bad = (state.step == np.array(bad_steps) - 1).any()
                images = batch["image"] / 255 * jax.numpy.where(bad, np.nan, 1)
                return step(state, {**batch, "image": images}, **kwargs)

            return spoilt

        return dataclasses.replace(experiment, make_train_step=make_step)

    return make


def train_lines(workdir) -> list[dict]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [line for line in lines if line["split"] == "train"]


@pytest.mark.slow
def test_run_stops_at_a_loss_that_is_nan_and_resumes_with_skipping(run, tmp_path):
    with pytest.raises(UserError) as error:
        train_and_evaluate(run([13, 17]), tmp_path)
    assert re.match(
        r"The loss became NaN in step 13, at a learning rate of [.\d]+; the last good checkpoint "
        rf"is that of step 10 in {tmp_path}/checkpoints\. Lower config\.learning_rate or raise ",
        str(error.value),
    )
    assert saved_steps(tmp_path / "checkpoints") == [10]
    assert [line["step"] for line in train_lines(tmp_path)] == [10]
    train_and_evaluate(run([13, 17], on_nonfinite="skip"), tmp_path)
    first, second = train_lines(tmp_path)
    assert (second["step"], second["skipped_steps"]) == (20, 2)
    assert np.isfinite(second["loss"]) and "skipped_steps" not in first


def test_run_stops_after_some_skipped_steps_in_a_row(run, tmp_path):
    bad = [2, 3, 5, *range(13, 18)]
    settings = {"on_nonfinite": "skip", "max_nonfinite": 3}
    with pytest.raises(UserError, match=r"^3 steps in a row were skipped .* in step 15, at a "):
        train_and_evaluate(run(bad, **settings), tmp_path)
    (line,) = train_lines(tmp_path)
    assert line["skipped_steps"] == 3


def test_line_whose_steps_were_all_skipped_comes_with_the_next(run, tmp_path):
    settings = {"on_nonfinite": "skip", "log_every_steps": 2, "num_epochs": 1}
    train_and_evaluate(run([3, 4, 6], **settings), tmp_path)
    counts = {line["step"]: line["skipped_steps"] for line in train_lines(tmp_path)}
    assert counts == {2: 0, 6: 3, 8: 0, 10: 0}


def test_run_with_debug_nans_stops_at_once_and_names_the_layer(run, tmp_path):
    settings = {"on_nonfinite": "skip", "num_epochs": 1}
    with pytest.raises(
        UserError, match=r"^Step 3: input \(the images, augmented and normalized\) "
    ):
        train_and_evaluate(run([3], **settings), tmp_path, debug_nans=True)
