"""``jaxcnn validate``: against a run's own evaluation and PyTorch, and what it refuses."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from photos import jpeg, photo
from PIL import Image
from processes import ROOT, documented_commands, run_documented
from torchvision.models._meta import _IMAGENET_CATEGORIES
from torchvision_modules import varied_shufflenet

from jaxcnn import cli, convert
from jaxcnn.data.class_names import imagenet_classes, in_words
from jaxcnn.io.safetensors import write_safetensors
from jaxcnn.models.published import PUBLISHED
from jaxcnn.training.build import build
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.evaluation import Examples
from jaxcnn.training.loop import train_and_evaluate
from jaxcnn.training.metrics import read_metrics

MODEL = "shufflenet_v2_x0_5"
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
TRANSFORMS = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory) -> pathlib.Path:
    """A run that keeps an average and subtracts a mean image."""
    workdir = tmp_path_factory.mktemp("validated")
    settings = {
        "train_split": "train[:128]",
        "eval__batch_size": 100,
        "num_epochs": 1,
        "learning_rate": 0.5,
        "ema__decay": 0.999,
        "ema__steps": 1,
        "warmup_epochs": 0,
        "subtract_mean_image": True,
    }
    train_and_evaluate(
        build(resolve(open_config("lenet5", "digits", **settings)), data_dir), workdir
    )
    return workdir


@pytest.fixture(scope="module")
def documented(workdir, weights, dataset, data_dir, tmp_path_factory):
    """Runs a command of the docs, by its place there."""
    folder = tmp_path_factory.mktemp("documented")
    (published,) = (known for known in PUBLISHED if known.model == MODEL)
    (folder / published.file).symlink_to(weights)
    (folder / "mine.pth").symlink_to(weights)
    (folder / "runs").mkdir()
    (folder / "runs" / "lenet5-digits").symlink_to(workdir)
    environ = {"JAXCNN_CACHE": str(folder), "TFDS_DATA_DIR": data_dir}
    values = {
        "/path": str(dataset),
        "imagenet2012": f"folder:{dataset}",
        **dict.fromkeys(("resnet18", "resnet50"), MODEL),
    }
    commands = documented_commands("docs/predicting.md", "validate")
    assert len(commands) == 3

    def run(number: int) -> str:
        result = run_documented(commands[number], values, folder, environ)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    return run


def validated(capsys, *arguments) -> dict:
    assert cli.main(["validate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_run_is_scored_as_in_its_last_evaluation(documented, workdir, data_dir, capsys):
    last = read_metrics(workdir / "metrics.jsonl")[-1]
    assert last["split"] == "eval_ema"
    output = documented(0)
    first, second, *_ = output.splitlines()
    assert first == "lenet5 on digits test: 359 examples"
    assert second.startswith(
        f"loss {last['loss']:.4f}  top-1 {last['top1']:.2%}  top-5 {last['top5']:.2%}  "
    )
    lines = re.findall(r"^ +([\d.]+)%  (\d) \(of (\d+)\)$", output, re.MULTILINE)
    assert sorted(name for _, name, _ in lines) == list("0123456789")
    shares = [float(share) for share, _, _ in lines]
    assert shares == sorted(shares)

    values = validated(capsys, "--workdir", workdir, "--data_dir", data_dir)
    for name in ("loss", "top1", "top5", "examples"):
        assert values[name] == last[name]
    correct = sum(row["top1"] * row["examples"] for row in values["classes"])
    assert correct / 359 == pytest.approx(values["top1"])


def test_other_weights_and_another_split_of_a_run(workdir, data_dir, capsys):
    weights = ("--model", "lenet5", "--weights", workdir / "weights.safetensors")
    lines = read_metrics(workdir / "metrics.jsonl")
    plain = next(line for line in lines if line["split"] == "eval")
    data = ("--dataset", "digits", "--data_dir", data_dir)
    assert validated(capsys, *weights, *data)["loss"] == plain["loss"] != lines[-1]["loss"]
    part = validated(capsys, *weights, *data, "--split", "train[:5]")
    assert (part["split"], part["examples"]) == ("train[:5]", 5)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [photo(number, 250 + 10 * number, 300) for number in range(12)]


@pytest.fixture(scope="module")
def module(images) -> torch.nn.Module:
    pillow = map(Image.fromarray, images)
    return varied_shufflenet(torch.stack([TRANSFORMS(image) for image in pillow]))


@pytest.fixture(scope="module")
def weights(module, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(module.state_dict(), path)
    return str(path)


def logits_of(module, path) -> torch.Tensor:
    with torch.no_grad():
        return module(TRANSFORMS(Image.open(path))[None])[0]


@pytest.fixture(scope="module")
def dataset(module, images, tmp_path_factory) -> pathlib.Path:
    """Photographs in folders with names or WordNet ids, two of three where the network says."""
    root = tmp_path_factory.mktemp("folders")
    for number, pixels in enumerate(images):
        image = jpeg(pixels)
        (root / "image.jpg").write_bytes(image)
        best = int(logits_of(module, root / "image.jpg").argmax())
        label = best if number % 3 else 100 + number // 2
        names = list(imagenet_classes()) if number % 2 else _IMAGENET_CATEGORIES
        folder = root / "val" / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        (root / "image.jpg").rename(folder / f"{number}.jpg")
    for folder in (root / "val").iterdir():
        (root / "train" / folder.name).mkdir(parents=True)
        (root / "train" / folder.name / "1.jpg").write_bytes(image)
    return root


def test_figures_are_those_of_pytorch(documented, module, dataset):
    """Of a dataset that has some of ImageNet's classes, in an order of its own."""
    values = json.loads(documented(1))
    paths = sorted((dataset / "val").rglob("*.jpg"))
    logits = torch.stack([logits_of(module, path) for path in paths])
    names = in_words([path.parent.name for path in paths])
    labels = torch.tensor([_IMAGENET_CATEGORIES.index(name) for name in names])
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert values["loss"] == pytest.approx(loss, rel=1e-4)
    top5 = (logits.topk(5).indices == labels[:, None]).any(1)
    assert values["top5"] == pytest.approx(top5.float().mean().item())
    correct = logits.argmax(1) == labels
    assert 4 <= correct.sum() < 12
    assert len(logits.argmax(1).unique()) > 4
    assert values["top1"] == pytest.approx(correct.float().mean().item())
    classes = {row["class"]: row for row in values["classes"]}
    assert classes.keys() == set(names)
    for name, row in classes.items():
        own = correct[[own_name == name for own_name in names]].float()
        assert (row["examples"], row["top1"]) == (len(own), pytest.approx(own.mean().item()))
        assert row["index"] == _IMAGENET_CATEGORIES.index(name)

    confidence = logits.softmax(1).max(1).values
    bins = (confidence * 15).ceil()
    assert len(bins.unique()) >= 2
    gaps = [
        (bins == number).float().mean() * (correct.float() - confidence)[bins == number].mean()
        for number in bins.unique()
    ]
    expected = sum(gap.abs().item() for gap in gaps)
    assert values["calibration_error"] == pytest.approx(expected, abs=1e-4)


def test_published_weights_are_validated(documented, dataset):
    first, second, *_ = documented(2).splitlines()
    assert first == f"{MODEL} on folder:{dataset} validation: 12 examples"
    assert "  top-1 66.67%  " in second


def test_calibration_error_of_a_worked_example():
    """Of 15 bins: two examples are in that from 0.6 to 0.667, one in the next, one in the last."""
    confidence = np.array([0.61, 0.65, 0.69, 1], np.float32)
    label = np.array([0, 0, 1, 1], np.int32)
    prediction = np.array([0, 1, 1, 1], np.int32)
    other = {"number": np.arange(4), "loss": confidence, "top5": label == label}
    examples = Examples(label=label, prediction=prediction, confidence=confidence, **other)
    expected = (2 * abs(0.5 - 0.63) + 1 * abs(1 - 0.69) + 1 * 0) / 4
    assert examples.calibration_error() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model=shufflenet_v2_x0_5"], "--dataset is missing"),
        (["--dataset=digits"], "No network is named"),
        (["RUN", "--dataset=digitz"], "--dataset='digitz': tfds has no such dataset; did you"),
        (["RUN", "--split=holdout"], "has no split 'holdout'"),
        (["RUN", "--batch_size=0"], "--batch_size=0 must be at least 1."),
        (["RUN", "--max_skipped=2"], "--max_skipped=2.0 must be from 0 to 1."),
        (["RUN", "--crops=10"], "this lenet5 does not crop"),
        (["RUN", "--dataset=folder:/nowhere"], "--dataset: there is no folder '/nowhere'"),
        (["RUN", "--dataset=folder:FOLDERS"], "has 12 classes, and the network 10"),
        (["RUN", "--dataset=folder:BAD"], "raise --max_skipped (0.001)"),
        (["NET", "--dataset=folder:NAMES"], "the class 'tabbi', which is not one of the network"),
        (["NET", "--dataset=folder:EMPTY"], "has no train"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    arguments, words, workdir, weights, data_dir, tmp_path, capsys
):
    def folders(name: str, *classes: str, content: bytes) -> str:
        for place in ("train", "val"):
            for class_name in classes:
                folder = tmp_path / name / place / class_name
                folder.mkdir(parents=True)
                (folder / "1.jpg").write_bytes(content)
                (folder / "2.jpg").write_bytes(content)
        return str(tmp_path / name)

    image = jpeg(photo(0, 40, 40))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "val").mkdir()
    values = {
        "RUN": f"--workdir={workdir}",
        "NET": f"--model=shufflenet_v2_x0_5@--weights={weights}",
        "FOLDERS": folders("folders", *map(str, range(12)), content=image),
        "BAD": folders("bad", "0", "1", content=b"no image"),
        "NAMES": folders("names", "tabbi", "tench", content=image),
        "EMPTY": str(tmp_path / "empty"),
    }
    for name, value in values.items():
        arguments = [part for a in arguments for part in a.replace(name, value).split("@")]
    assert cli.main(["validate", *arguments, f"--data_dir={data_dir}"]) == 2
    *skipped, last = capsys.readouterr().err.splitlines()
    assert last.startswith("jaxcnn: ") and words in last and "config." not in last
    assert all(line.startswith("Skipped ") for line in skipped)


def test_weights_that_compute_nan_are_refused(workdir, data_dir, tmp_path, capsys):
    tensors = convert.load_checkpoint(workdir / "weights.safetensors")
    write_safetensors(tmp_path / "nan.safetensors", {n: t * np.nan for n, t in tensors.items()})
    flags = [f"--weights={tmp_path / 'nan.safetensors'}", f"--data_dir={data_dir}", "--json"]
    with pytest.warns(UserWarning, match="NaN"):
        assert cli.main(["validate", "--model=lenet5", "--dataset=digits", *flags]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_interrupt_ends_with_status_130(workdir, tmp_path):
    os.mkfifo(tmp_path / "image.jpg")
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxcnn", "predict", tmp_path / "image.jpg", "--workdir", workdir],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRON,
    )
    with open(tmp_path / "image.jpg", "wb"):  # opens once the process reads
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "Interrupted.\n")
