"""The loop, in this process: what it writes when, and what it leaves behind."""

import contextlib
import itertools
import os
import pathlib
import time

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
from jaxcnn.training.start import initial_state
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


BEST = {
    "num_epochs": 4,
    "ema__decay": 0.99,
    "ema__steps": 1,
    "learning_rate": 4.0,  # so high that the last step is not the best
    "warmup_epochs": 0.0,
    "schedule": "constant",
    "checkpoint__best_by": "ema_top1",
    "checkpoint__keep": 1,
}


def without_times(line: dict) -> dict:
    return {k: v for k, v in line.items() if k not in ("images_per_second", "input_wait")}


def figures(workdir: pathlib.Path, split: str, name: str) -> dict[int, float]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return {line["step"]: line[name] for line in lines if line["split"] == split}


@pytest.mark.parametrize(("every", "found"), [(3, 3), (100, 4)])
def test_replica_that_drifts_stops_the_run_before_it_is_saved(
    every, found, experiment, tmp_path, monkeypatch
):
    """One bit of one of four devices flips in the third of four steps; the second is saved."""
    make_step = loop._train_step

    def make(*args):
        step = make_step(*args)

        def step_and_flip(state, batch):
            state, metrics = step(state, batch)
            if int(state.step[0]) == 3:
                bias = state.params["fc3"]["bias"]
                values = np.array(bias)
                values.view(np.uint32)[2, 0] ^= 1
                values = jax.device_put(values, bias.sharding)
                layer = {**state.params["fc3"], "bias": values}
                state = state.replace(params={**state.params, "fc3": layer})
            return state, metrics

        return step_and_flip

    monkeypatch.setattr(loop, "_train_step", make)
    run = experiment(check_replicas_every=every, log_every_steps=1)
    words = rf"By step {found} cpu:2 differs from the other 3 devices in \d+ of \d+ arrays"
    with pytest.raises(UserError, match=words):
        train_and_evaluate(run, tmp_path)
    assert os.listdir(tmp_path / "checkpoints") == ["2"]


@pytest.mark.slow
def test_best_checkpoint_and_its_weights_are_kept_whether_a_run_is_stopped_or_not(
    experiment, tmp_path, monkeypatch
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_and_evaluate(experiment(**BEST), whole)
    top1 = figures(whole, "eval_ema", "top1")
    best = max(top1, key=top1.get)
    assert best < 8
    folders = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert folders == [str(best), "8"]
    run = experiment(**BEST)
    like = init_state(run.model, run.optimizer, run.image_shape, with_ema=True)
    saved = Checkpoints(whole / "checkpoints").restore(like, best)
    exported = convert.load_checkpoint(whole / "best.safetensors")
    for name, value in convert.to_torch(saved.ema).items():
        np.testing.assert_array_equal(exported[name], value)

    calls = itertools.count(1)

    def stop(*args, **kwargs):
        if next(calls) == 8:  # of the average, after that of the variables, at the last step
            raise UserError("stopped")
        return evaluate(*args, **kwargs)

    evaluate = loop.evaluate
    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr(loop, "evaluate", stop)
        train_and_evaluate(experiment(**BEST), stopped)
    # As if killed between the two lines of an evaluation.
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (lone,) = (line for line in lines if '"step": 8,' in line and '"eval"' in line)
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write(lone)
    train_and_evaluate(experiment(**BEST), stopped)
    written = [read_metrics(folder / "metrics.jsonl") for folder in (whole, stopped)]
    assert [without_times(line) for line in written[0]] == [
        without_times(line) for line in written[1]
    ]
    for name in ("best.safetensors", "weights.safetensors", "weights_ema.safetensors"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(os.listdir(stopped / "checkpoints")) == folders


@pytest.mark.parametrize(
    ("setting", "saved", "logged"),
    [
        ({"every_minutes": 1e-9}, ["1", "2", "3", "4"], [1, 2, 3, 4]),
        ({"every_steps": 3}, ["2", "3", "4"], [2, 3, 4]),
    ],
)
def test_checkpoints_by_steps_and_minutes(setting, saved, logged, experiment, tmp_path):
    """By minutes with the next line of metrics, which resuming does not change."""
    settings = {f"checkpoint__{name}": value for name, value in setting.items()}
    settings |= {"log_every_steps": 1 if "every_minutes" in setting else 10}
    train_and_evaluate(experiment(checkpoint__keep=10, **settings), tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == saved
    assert list(figures(tmp_path, "train", "loss")) == logged


def test_minutes_are_counted_from_the_last_checkpoint():
    now = time.monotonic()
    assert loop._minutes_have_passed(10, now - 601)
    assert not loop._minutes_have_passed(20, now - 601)
    assert not loop._minutes_have_passed(None, now - 601)


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
    start = initial_state(run(), resuming=False)[0].params
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
    own = initial_state(run, resuming=False)[0].variables
    other = {"params": {k: {n: v + 1 for n, v in d.items()} for k, d in own["params"].items()}}
    convert.save(tmp_path / "weights.safetensors", other)
    init_from = str(tmp_path / "weights.safetensors")

    def started(classes: str | None):
        (tmp_path / CLASSES).unlink(missing_ok=True)
        if classes is not None:
            (tmp_path / CLASSES).write_text(classes)
        return initial_state(experiment(init_from=init_from), resuming=False)

    for classes in (None, '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'):
        state, reinitialized = started(classes)
        assert reinitialized == []
        assert (state.params["fc3"]["bias"] == other["params"]["fc3"]["bias"]).all()
    state, reinitialized = started('["1", "0", "2", "3", "4", "5", "6", "7", "8", "9"]')
    assert reinitialized == ["fc3"]
    assert (state.params["fc3"]["bias"] == own["params"]["fc3"]["bias"]).all()
    assert (state.params["fc2"]["bias"] == other["params"]["fc2"]["bias"]).all()
