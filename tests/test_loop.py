"""The loop, in this process: what it writes when, and what it leaves behind."""

import contextlib
import os
import pathlib

import jax
import numpy as np
import optax
import pytest

from jaxcnn import convert
from jaxcnn.data.grid import image_grid
from jaxcnn.errors import UserError
from jaxcnn.training import loop
from jaxcnn.training.build import build
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.loop import train_and_evaluate
from jaxcnn.training.metrics import read_metrics
from jaxcnn.training.monitoring import first_inputs
from jaxcnn.training.step import TrainState, init_state, normalizer
from jaxcnn.training.workdir import CLASSES


@pytest.fixture
def experiment(data_dir):
    """Builds a run of LeNet-5 over two epochs of two steps."""

    def make(**settings):
        small = {"train_split": "train[:128]", "eval__split": "test[:20]", "num_epochs": 2}
        return build(resolve(open_config("lenet5", "digits", **small | settings)), data_dir)

    return make


def raises(sentence: str):
    def fail(*_, **__):
        raise UserError(sentence)

    return fail


def evaluated_steps(workdir: pathlib.Path) -> list[int]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [line["step"] for line in lines if line["split"] == "eval"]


def test_epoch_is_saved_before_its_evaluation_which_a_resumed_run_makes_up_for(
    experiment, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="no evaluation"):
        patch.setattr(loop, "evaluate", raises("no evaluation"))
        train_and_evaluate(experiment(), tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()
    assert evaluated_steps(tmp_path) == []
    train_and_evaluate(experiment(), tmp_path)
    assert evaluated_steps(tmp_path) == [2, 4]
    before = (tmp_path / "metrics.jsonl").read_text()
    train_and_evaluate(experiment(), tmp_path)  # a finished run
    assert (tmp_path / "metrics.jsonl").read_text() == before


def restored(run, workdir: pathlib.Path, step: int) -> TrainState:
    """The state of a checkpoint, with what trained until then."""
    freeze = run.freeze if step <= run.plan.last_frozen_step else None
    like = init_state(run.model, run.optimizer, run.image_shape, freeze=freeze)
    return Checkpoints(workdir / "checkpoints").restore(like, step)


def test_run_that_is_unfrozen_trains_the_head_and_then_everything(
    experiment, tmp_path, monkeypatch, capsys
):
    """Stopped in between, it ends bit for bit like one that was not."""

    def run():
        return experiment(freeze="body", unfreeze_epoch=1)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr(loop, "evaluate", raises("stopped"))
        train_and_evaluate(run(), tmp_path / "a")  # after its first epoch
    train_and_evaluate(run(), tmp_path / "a")
    assert "61,706 parameters, 850 of which train" in capsys.readouterr().out
    train_and_evaluate(run(), tmp_path / "b")
    assert "All parameters train from step 3 on." in capsys.readouterr().out
    start = loop._initial_state(run(), resuming=False)[0].params
    middle, end, other = (
        restored(run(), tmp_path / folder, step) for folder, step in (("a", 2), ("a", 4), ("b", 4))
    )
    assert optax.tree.get(middle.opt_state, "trace").keys() == {"fc3"}
    for layer in start:
        moved = [
            (a[layer]["kernel"] != b[layer]["kernel"]).any()
            for a, b in ((start, middle.params), (middle.params, end.params))
        ]
        assert moved == [layer == "fc3", True], layer
    jax.tree.map(np.testing.assert_array_equal, end, other)
    exported = convert.load_checkpoint(tmp_path / "b" / "weights.safetensors")
    for name, value in convert.to_torch(other.variables).items():
        np.testing.assert_array_equal(exported[name], value)


def test_inputs_shown_are_what_the_network_is_trained_on(experiment):
    plain, erasing = experiment(), experiment(augment__erasing=1.0)
    normalize = normalizer(plain.mean, plain.std)
    with contextlib.closing(plain.inputs.train_batches(0, 1)) as batches:
        batch, _ = next(batches)
    own = np.asarray(batch["image"])[0, :16]  # the first device's
    grid = first_inputs(plain, normalize, batch)
    np.testing.assert_array_equal(grid, image_grid(own, columns=8, scale=3))

    erased = first_inputs(erasing, normalize, batch)
    zero = round(255 * plain.mean[0])  # after the normalization
    assert (grid == zero).mean() < 0.05 < (erased == zero).mean() < 0.35
    others = (grid != zero) & (erased != zero)
    np.testing.assert_array_equal(grid[others], erased[others])


def test_plateau_needs_its_evaluations_to_resume(experiment, tmp_path):
    run = {"schedule": "plateau"}
    train_and_evaluate(experiment(**run), tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(
        UserError, match="metrics.jsonl lacks evaluations of earlier steps, on which"
    ):
        train_and_evaluate(experiment(**run), tmp_path)


def test_failed_run_closes_its_files(experiment, tmp_path):
    with pytest.raises(UserError, match=r"\. Lower config.learning_rate or raise"):
        train_and_evaluate(experiment(learning_rate=1e30, warmup_epochs=0.0), tmp_path)
    links = [pathlib.Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if link.is_symlink()]
    assert not [name for name in opened if str(tmp_path) in name]


def test_head_is_reinitialized_where_the_weights_are_of_other_classes(experiment, tmp_path, capsys):
    run = experiment(num_epochs=1, learning_rate=0.0)
    own = loop._initial_state(run, resuming=False)[0].variables
    other = {"params": {k: {n: v + 1 for n, v in d.items()} for k, d in own["params"].items()}}
    convert.save(tmp_path / "weights.safetensors", other)
    init_from = str(tmp_path / "weights.safetensors")

    def started(classes: str | None):
        (tmp_path / CLASSES).unlink(missing_ok=True)
        if classes is not None:
            (tmp_path / CLASSES).write_text(classes)
        return loop._initial_state(experiment(init_from=init_from), resuming=False)

    for classes in (None, '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'):
        state, reinitialized = started(classes)
        assert reinitialized == []
        assert (state.params["fc3"]["bias"] == other["params"]["fc3"]["bias"]).all()
    state, reinitialized = started('["1", "0", "2", "3", "4", "5", "6", "7", "8", "9"]')
    assert reinitialized == ["fc3"]
    assert (state.params["fc3"]["bias"] == own["params"]["fc3"]["bias"]).all()
    assert (state.params["fc2"]["bias"] == other["params"]["fc2"]["bias"]).all()
