"""Which run a workdir belongs to, and damaged files in it."""

import json
import pathlib

import pytest

from jaxcnn.errors import UserError
from jaxcnn.training.best import ranked
from jaxcnn.training.metrics import MetricsWriter, read_metrics
from jaxcnn.training.plan import Plan
from jaxcnn.training.workdir import claim_workdir, has_checkpoint, read_classes

SETTINGS = {"model": "lenet5", "eval": {"crops": 1}, "log_every_steps": 10}


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
    """The workdir of a run that has saved a checkpoint."""
    claim_workdir(tmp_path, SETTINGS, ["cat", "dog"])
    (tmp_path / "checkpoints" / "22").mkdir(parents=True)
    return tmp_path


def test_new_workdir_gets_config_and_classes(tmp_path):
    claim_workdir(tmp_path / "a" / "b", SETTINGS, ["cat", "dog"])
    assert json.loads((tmp_path / "a" / "b" / "config.json").read_text()) == SETTINGS
    assert read_classes(tmp_path / "a" / "b") == ["cat", "dog"]


def test_same_run_may_resume_with_another_value_of_a_resumable_key(run):
    assert has_checkpoint(run)
    claim_workdir(
        run, SETTINGS | {"log_every_steps": 5}, ["cat", "dog"], resumable={"log_every_steps"}
    )
    assert json.loads((run / "config.json").read_text())["log_every_steps"] == 5


def test_different_config_is_refused_and_named(run):
    with pytest.raises(UserError, match="config.eval.crops was 1 and is now 10"):
        claim_workdir(run, SETTINGS | {"eval": {"crops": 10}}, ["cat", "dog"])
    assert json.loads((run / "config.json").read_text()) == SETTINGS


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["dog", "cat"], "class 0 was 'cat' and is now 'dog'"),
        (["cat", "dog", "emu"], "there were 2 and are now 3"),
    ],
)
def test_other_classes_are_refused(run, classes, words):
    with pytest.raises(UserError, match=words):
        claim_workdir(run, SETTINGS, classes)


def test_workdir_without_a_checkpoint_is_free(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff{")
    claim_workdir(tmp_path, SETTINGS, ["cat"])
    assert json.loads((tmp_path / "config.json").read_text()) == SETTINGS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not valid JSON"),
        (b"[1]", "is not a config"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (None, "no config.json"),
    ],
)
def test_damaged_config_json_is_named(run, content, words):
    (run / "config.json").unlink()
    if content is not None:
        (run / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=f"config.json.*{words}|{words}"):
        claim_workdir(run, SETTINGS, ["cat", "dog"])


def test_damaged_classes_json_is_named(run):
    (run / "classes.json").write_text("{}")
    with pytest.raises(UserError, match=r"classes.json is not a list of class names"):
        claim_workdir(run, SETTINGS, ["cat", "dog"])


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_file_in_place_of_a_folder_is_named(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"{name} is a file, but must be a folder"):
        claim_workdir(tmp_path, SETTINGS, ["cat"])
    assert not (tmp_path / "config.json").exists()


def test_folder_in_place_of_the_metrics_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="metrics.jsonl is a folder, but must be a file"):
        claim_workdir(tmp_path, SETTINGS, ["cat"])


def test_run_of_the_first_version_may_resume_but_not_with_permuted_classes(run):
    (run / "classes.json").unlink()
    old = SETTINGS | {"model_args": {"dropout": None}}
    (run / "config.json").write_text(json.dumps(old))
    settings = SETTINGS | {"model_args": {"dropout": 0.5}}
    with pytest.raises(UserError, match="class 2 was '2' and is now '10'"):
        claim_workdir(run, settings, ["0", "1", "10", "2"])
    claim_workdir(run, settings, ["cat", "dog"])


def test_processes_must_share_the_workdir(tmp_path):
    with pytest.raises(UserError, match="not that of the main process"):
        claim_workdir(tmp_path, SETTINGS, ["cat"], write=False)


def test_lines_of_metrics_that_cannot_be_read_are_dropped_and_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = [{"step": s, "epoch": s, "split": "train", "loss": 0.5} for s in (1, 2, 3)]
    lines = [json.dumps(line).encode() for line in whole]
    damaged = [
        *(b"garbage", b"", b"[1]", b'{"loss": 1}', b"\xff\xfe", b'{"step": "x", "split": 1}'),
        b'{"step": 1, "split": "train", "loss": NaN}',
        b'{"step": 1, "split": "train", "loss": 1e999}',
    ]
    path.write_bytes(b"\n".join([lines[0], *damaged, lines[1], lines[2], b'{"step": 4, "spl']))
    reports = []
    MetricsWriter(tmp_path, start_step=2, report=reports.append).close()
    assert read_metrics(path) == whole[:2]
    assert reports == [f"Dropped 8 line(s) of {path} that cannot be read."]


def test_metrics_of_a_resumed_run_follow_its_checkpoint(tmp_path):
    with_steps = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        with_steps.write(step, step, "train", loss=1.0)
    with_steps.close()
    resumed = MetricsWriter(tmp_path, start_step=2)
    resumed.write(3, 3, "train", loss=2.0)
    resumed.close()
    losses = [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses == [(1, 1.0), (2, 1.0), (3, 2.0)]


def test_plan_ends_with_an_evaluation_and_a_checkpoint():
    plan = Plan(
        steps_per_epoch=3,
        num_epochs=5,
        batch_size=8,
        log_every_steps=2,
        evaluate_every_epochs=2,
        save_every_epochs=3,
    )
    steps = range(plan.num_steps + 1)
    assert plan.num_steps == 15
    assert [step for step in steps if plan.evaluates(step)] == [6, 12, 15]
    assert [step for step in steps if plan.saves(step)] == [9, 15]
    assert [step for step in steps[1:] if plan.logs(step)] == [2, 3, 4, 6, 8, 9, 10, 12, 14, 15]
    assert plan.epoch(4) == pytest.approx(4 / 3)


def test_plan_saves_by_steps_and_what_is_evaluated():
    plan = Plan(
        steps_per_epoch=5,
        num_epochs=4,
        batch_size=8,
        evaluate_every_epochs=2,
        save_every_epochs=3,
        save_every_steps=4,
        save_evaluated=True,
    )
    steps = range(plan.num_steps + 1)
    assert [step for step in steps if plan.saves(step)] == [4, 8, 10, 12, 15, 16, 20]
    # A run that resumes has lost the metrics of the steps before: no line may be about those.
    assert all(plan.logs(step) for step in steps if plan.saves(step))


def test_plan_compares_replicas_every_few_steps_and_before_each_checkpoint():
    plan = Plan(steps_per_epoch=5, num_epochs=2, batch_size=8, check_replicas_every=3)
    steps = range(1, 11)
    checked = [step for step in steps if plan.checks_replicas(step, saves=plan.saves(step))]
    assert checked == [3, 5, 6, 9, 10]
    off = Plan(steps_per_epoch=5, num_epochs=2, batch_size=8)
    assert not any(off.checks_replicas(step, saves=True) for step in steps)


@pytest.mark.parametrize(
    ("best_by", "steps"),
    [("top1", [2, 3, 1]), ("loss", [3, 1, 2]), ("ema_top5", [3]), ("ema_loss", [])],
)
def test_best_step_is_the_first_of_the_best_figures(best_by, steps):
    evaluations = {
        1: {"loss": 0.5, "top1": 0.7},
        2: {"loss": 0.5, "top1": 0.9},
        3: {"loss": 0.25, "top1": 0.9, "ema_top5": 0.1},
    }
    assert ranked([3, 2, 1, 4], evaluations, best_by) == steps


def test_evaluation_that_will_be_repeated_is_dropped(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step, split in ((1, "train"), (1, "eval"), (2, "train"), (2, "eval"), (3, "train")):
        writer.write(step, step, split, loss=1.0)
    writer.close()
    MetricsWriter(tmp_path, start_step=2, without=("eval", "eval_ema")).close()
    kept = [(line["step"], line["split"]) for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert kept == [(1, "train"), (1, "eval"), (2, "train")]


def test_run_of_an_earlier_version_resumes_only_with_the_same_learning_rate(tmp_path):
    """0.1.0 warmed up from zero, and its cosine fell at every step."""
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    old = {"schedule": "step", "warmup_epochs": 0.0}

    def claim(**changes) -> None:
        settings = {"schedule_by": "epoch", **old, **changes}
        (tmp_path / "config.json").write_text(json.dumps(old | changes))
        claim_workdir(tmp_path, settings, ["a"], write=False)

    claim()
    claim(schedule="constant")
    for changes in ({"warmup_epochs": 1.0}, {"schedule": "cosine"}):
        with pytest.raises(
            UserError, match="of an earlier version .* the learning rate would jump"
        ):
            claim(**changes)
