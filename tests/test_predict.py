"""``jaxcnn predict``: against torchvision, as a process, and what it refuses."""

import copy
import csv
import importlib.util
import io
import json
import os
import pathlib
import pty
import subprocess
import sys
import termios

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from photos import jpeg, photo
from PIL import Image
from processes import ROOT, documented_commands, run_documented
from torchvision.models._meta import _IMAGENET_CATEGORIES
from torchvision.transforms import v2
from torchvision_modules import varied_shufflenet

from jaxcnn import cli, convert, models
from jaxcnn.cli import network
from jaxcnn.data.class_names import imagenet_classes, in_words
from jaxcnn.data.image_list import ImageList
from jaxcnn.errors import UserError
from jaxcnn.models.published import PUBLISHED
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.config import as_json, open_config, resolve, resolved_from_json
from jaxcnn.training.devices import replicate
from jaxcnn.training.step import TrainState
from jaxcnn.training.workdir import claim_workdir

MODEL = "shufflenet_v2_x0_5"
TRANSFORMS = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    """A folder of JPEGs, landscape, portrait, small, and other files."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for name, height, width in (("b", 240, 320), ("a", 400, 260), ("more/c", 90, 120)):
        (folder / f"{name}.jpg").write_bytes(jpeg(photo(height, height, width)))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def module(photos) -> torch.nn.Module:
    paths = sorted(photos.rglob("*.jpg"))
    return varied_shufflenet(torch.stack([TRANSFORMS(Image.open(path)) for path in paths]))


@pytest.fixture(scope="module")
def weights(module, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(module.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """The folder of a finished run on two of imagenet2012's classes, which was not trained."""
    workdir = tmp_path_factory.mktemp("run")
    config = resolve(open_config("lenet5", "fashion_mnist", num_classes=3))
    claim_workdir(workdir, as_json(config), ["n01440764", "n02102040"])
    convert.save_torch(workdir / "weights.safetensors", lenet(num_classes=3))
    return workdir


def lenet(size: int = 32, **arguments) -> dict:
    """Random variables, of LeNet-5 for images of a size; in less time than its own."""
    images = jax.ShapeDtypeStruct((1, size, size, 1), np.float32)
    shapes = jax.eval_shape(models.lenet5(**arguments).init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)


def expected(module, path, transform=TRANSFORMS) -> np.ndarray:
    with torch.no_grad():
        images = transform(Image.open(path).convert("RGB"))
        return module(images.reshape(-1, *images.shape[-3:])).softmax(-1).mean(0).numpy()


def ten_crops(image: Image.Image) -> torch.Tensor:
    """The crops of Krizhevsky et al. 2012 by torchvision's transforms."""
    crops = v2.TenCrop(224)(v2.Resize(256)(image))
    normalize = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return torch.stack([normalize(crop) for crop in crops])


def check_against(module, result, path, transform=TRANSFORMS) -> None:
    """The classes in the same order, with probabilities within 1e-4."""
    probabilities = expected(module, path, transform)
    order = np.argsort(-probabilities)[: len(result["predictions"])]
    assert probabilities[order[0]] > 0.02  # not almost uniform
    assert [row["index"] for row in result["predictions"]] == order.tolist()
    found = [row["probability"] for row in result["predictions"]]
    np.testing.assert_allclose(found, probabilities[order], rtol=0, atol=1e-4)
    names = [row["class"] for row in result["predictions"]]
    assert names == [_IMAGENET_CATEGORIES[index] for index in order]


def test_probabilities_are_torchvisions(photos, module, weights, capsys):
    """Of a folder in batches, the last of which is not full, and of a pattern."""
    flags = ["--model", MODEL, "--weights", weights, "--batch_size", "3", "--json"]
    assert cli.main(["predict", str(photos), str(photos / "*.jpg"), *flags]) == 0
    results = json.loads(capsys.readouterr().out)
    a, b, c = photos / "a.jpg", photos / "b.jpg", photos / "more/c.jpg"
    assert [row["image"] for row in results] == [str(path) for path in (a, b, c, a, b)]
    for row in results:
        check_against(module, row, row["image"])
    first = [row["predictions"][0]["index"] for row in results[:3]]
    assert len(set(first)) == 3


def test_ten_crops_are_torchvisions(photos, module, weights, capsys):
    flags = ["--model", MODEL, "--weights", weights, "--crops", "10", "--topk", "7", "--json"]
    assert cli.main(["predict", str(photos / "a.jpg"), *flags]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert len(row["predictions"]) == 7
    check_against(module, row, photos / "a.jpg", ten_crops)


def test_documented_commands(photos, module, weights, workdir, tmp_path):
    (tmp_path / "cache").mkdir()
    (published,) = (known for known in PUBLISHED if known.model == MODEL)
    (tmp_path / "cache" / published.file).symlink_to(weights)
    (tmp_path / "resnet18.pth").symlink_to(weights)
    (tmp_path / "photos").symlink_to(photos / "more")
    (tmp_path / "more").mkdir()
    (tmp_path / "cat.jpg").symlink_to(photos / "a.jpg")
    Image.open(photos / "b.jpg").save(tmp_path / "more" / "b.png")
    (tmp_path / "7.png").symlink_to(photos / "a.jpg")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lenet5-digits").symlink_to(workdir)
    environ = {"JAXCNN_CACHE": str(tmp_path / "cache")}

    def run(line: str) -> str:
        result = run_documented(line, {"resnet18": MODEL}, tmp_path, environ)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    published, file, standard_input = documented_commands("docs/predicting.md", "predict")
    name, *lines = run(published).splitlines()
    best = expected(module, photos / "a.jpg")
    assert name == "cat.jpg" and len(lines) == 5
    assert lines[0] == f"  {best.max():7.2%}  {_IMAGENET_CATEGORIES[best.argmax()]}"

    rows = list(csv.DictReader(io.StringIO(run(file))))
    images = ["photos/c.jpg", "more/b.png"]
    ranks = [(image, str(rank)) for image in images for rank in range(1, 6)]
    assert [(row["image"], row["rank"]) for row in rows] == ranks
    best = expected(module, tmp_path / "more" / "b.png")
    assert float(rows[5]["probability"]) == pytest.approx(best.max(), abs=1e-4)

    (result,) = json.loads(run(standard_input))
    assert result["image"] == "-"
    # In words, and the number of the logit that is of no class of the dataset.
    assert {row["index"]: row["class"] for row in result["predictions"]} == {
        0: "tench",
        1: "English springer",
        2: "2",
    }
    assert sum(row["probability"] for row in result["predictions"]) == pytest.approx(1)


def read_terminal(terminal: int) -> str:
    output = b""
    try:
        while piece := os.read(terminal, 1024):
            output += piece
    except OSError:  # as Linux ends a terminal
        pass
    os.close(terminal)
    return output.decode()


def test_bars_in_a_terminal(photos, workdir):
    """Of the probabilities, and of the progress."""
    flags = ("--workdir", workdir, "--batch_size", "1")
    command = [sys.executable, "-m", "jaxcnn", "predict", photos / "a.jpg", photos / "b.jpg"]
    (out, stdout), (err, stderr) = pty.openpty(), pty.openpty()
    termios.tcsetwinsize(stderr, (25, 80))
    process = subprocess.Popen([*command, *flags], stdout=stdout, stderr=stderr, env=ENVIRON)
    os.close(stdout)
    os.close(stderr)
    lines = read_terminal(out).splitlines()
    assert "2/2 [" in read_terminal(err)
    assert process.wait() == 0
    assert [lines[0], lines[4]] == [str(photos / "a.jpg"), str(photos / "b.jpg")]
    for block in (lines[1:4], lines[5:8]):
        shares = [float(line.split("%")[0]) for line in block]
        assert shares == sorted(shares, reverse=True)
        for line, share in zip(block, shares, strict=True):
            assert abs(line.count("█") - 0.3 * share) <= 1


def loaded(**arguments) -> network.Network:
    names = {"model": None, "weights": None, "workdir": None} | arguments
    return network.load(type("Arguments", (), names))


def test_network_of_a_run_is_what_it_trained(workdir):
    used = loaded(workdir=str(workdir))
    assert (used.name, used.channels, used.preprocess.shape) == ("lenet5", 1, (32, 32, 1))
    assert used.preprocess.fit == "pad" and used.preprocess.crop == "none"
    np.testing.assert_allclose((*used.mean, *used.std), (0.2860, 0.3530))
    images = np.arange(2 * 32 * 32, dtype=np.uint8).reshape(2, 32, 32, 1)
    normalized = (images / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(used.normalize(images), normalized, atol=1e-6)
    file = workdir / "weights.safetensors"
    assert loaded(model="lenet5", weights=str(file)).classes == used.classes


def test_average_comes_before_the_weights_and_a_checkpoint_last(tmp_path):
    config = resolve(open_config("lenet5", "digits"))
    claim_workdir(tmp_path, as_json(config), list("0123456789"))

    def bias(**names) -> float:
        names = {"workdir": tmp_path} | names
        used = loaded(**{name: value and str(value) for name, value in names.items()})
        return float(used.variables["params"]["fc3"]["bias"][0])

    def filled(value):
        return jax.tree.map(lambda leaf: np.full_like(leaf, value), lenet()["params"])

    with pytest.raises(UserError, match="neither weights nor a checkpoint yet"):
        bias()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    averages = ({}, {}, {"params": filled(1.5), "batch_stats": {}})
    for step, ema in enumerate(averages):
        params = filled(step)
        state = TrainState(
            step=np.int32(step), params=params, batch_stats={}, opt_state=[params], ema=ema
        )
        checkpoints.save(replicate(state))
        if step:
            checkpoints.wait()
            assert bias() == step - 0.5 * bool(ema)
    checkpoints.close()
    convert.save_torch(tmp_path / "weights.safetensors", {"params": filled(3)})
    assert bias() == 3
    convert.save_torch(tmp_path / "weights_ema.safetensors", {"params": filled(4)})
    assert bias() == 4
    convert.save_torch(tmp_path / "best.safetensors", {"params": filled(5)})
    assert bias() == 4
    assert bias(weights="best.safetensors") == bias(weights=tmp_path / "best.safetensors") == 5
    assert bias(workdir=None, model="lenet5", weights=tmp_path / "best.safetensors") == 5


def test_run_on_images_of_another_size(tmp_path):
    """LeNet's first linear layer has the images' size."""
    config = resolve(open_config("lenet5", "digits", image_size=48))
    claim_workdir(tmp_path, as_json(config), list("0123456789"))
    variables = lenet(size=48)
    convert.save_torch(tmp_path / "weights.safetensors", variables)
    used = loaded(workdir=str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, used.variables, variables)
    assert used.preprocess.image_size == 48


@pytest.mark.parametrize(
    ("model", "dataset"),
    [("resnet50", "cifar10"), ("anynet", "digits"), ("alexnet_original", None)],
)
def test_config_is_read_back_from_json(model, dataset):
    settings = as_json(resolve(open_config(model, dataset)))
    assert as_json(resolved_from_json(settings)) == settings


def test_config_of_an_older_version_is_filled_in():
    """0.1.0 wrote None for an argument's default, and lacked keys."""
    settings = as_json(resolve(open_config("resnet18", "cifar10")))
    old = copy.deepcopy(settings)
    old |= {"model_args": dict.fromkeys(settings["model_args"]), "gone": 1}
    del old["interpolation"], old["eval"]["crops"]
    assert as_json(resolved_from_json(old)) == settings
    with pytest.raises(UserError, match=r"config\.image_size='large' is not valid"):
        resolved_from_json(settings | {"image_size": "large"})


def test_mean_image_of_a_run_is_subtracted(workdir, tmp_path):
    config = resolve(open_config("lenet5", "digits", subtract_mean_image=True))
    claim_workdir(tmp_path, as_json(config), list("0123456789"))
    (tmp_path / "weights.safetensors").write_bytes((workdir / "weights.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"mean_image\.npy, which this run subtracts"):
        loaded(workdir=str(tmp_path))
    mean = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32, 1)
    np.save(tmp_path / "mean_image.npy", mean)
    used = loaded(workdir=str(tmp_path))
    images = np.full((2, 32, 32, 1), 51, np.uint8)
    expected = (0.2 - mean) / np.float32(config.std)
    np.testing.assert_allclose(used.normalize(images)[1], expected, atol=1e-6)


def test_file_with_the_name_of_published_weights_is_used_as_those_are(tmp_path):
    torch.manual_seed(0)
    published = next(w for w in PUBLISHED if w.model == "squeezenet1_1")
    path = tmp_path / published.file
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    used = loaded(model="squeezenet1_1", weights=str(path))
    assert (used.preprocess.resize_size, used.preprocess.image_size) == (256, 224)
    assert used.classes == tuple(_IMAGENET_CATEGORIES)
    google = next(w for w in PUBLISHED if w.model == "googlenet")
    assert network._published("googlenet", f"/somewhere/{google.file}") == google


def test_weights_for_gray_images_and_for_four_channels(tmp_path):
    state = torchvision.models.squeezenet1_1(num_classes=4).state_dict()
    kernel = state["features.0.weight"]
    for channels in (1, 4):
        state["features.0.weight"] = kernel[:, :1].repeat(1, channels, 1, 1)
        torch.save(state, tmp_path / f"{channels}.pth")
    used = loaded(model="squeezenet1_1", weights=str(tmp_path / "1.pth"))
    assert used.preprocess.shape == (224, 224, 1)
    assert used.classes == ("0", "1", "2", "3")
    # The means of those of colors.
    np.testing.assert_allclose((*used.mean, *used.std), (0.449, 0.226))
    with pytest.raises(UserError, match="for images of 4 channels"):
        loaded(model="squeezenet1_1", weights=str(tmp_path / "4.pth"))


def test_imagenets_classes_are_torchvisions_and_tfds(root):
    assert list(imagenet_classes().values()) == _IMAGENET_CATEGORIES
    tfds = pathlib.Path(importlib.util.find_spec("tensorflow_datasets").origin).parent
    labels = (tfds / "datasets/imagenet2012/labels.txt").read_text().split()
    assert list(imagenet_classes()) == labels
    imagenette = (tfds / "image_classification/imagenette_labels.txt").read_text().split()
    assert "English springer" in in_words(imagenette) and "n02102040" not in in_words(imagenette)


def test_list_of_images(photos, monkeypatch):
    names = ImageList([str(photos / "more"), str(photos / "**" / "*.jpg")]).names
    c = str(photos / "more/c.jpg")
    assert names == (c, str(photos / "a.jpg"), str(photos / "b.jpg"), c)
    (photos / "more" / "[1].jpg").write_bytes((photos / "a.jpg").read_bytes())
    try:
        literal = str(photos / "more" / "[1].jpg")
        assert ImageList([literal]).names == (literal,)
    finally:
        pathlib.Path(literal).unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jpg", "WORKDIR"], "There is no file or folder 'nowhere.jpg'."),
        (["PHOTOS/*.png", "WORKDIR"], "/*.png' matches no file."),
        (["EMPTY", "WORKDIR"], "/empty' has no images"),
        (["PHOTOS/a.jpg", "PHOTOS/notes.txt", "WORKDIR"], "/notes.txt cannot be read: it is not"),
        (["PHOTOS/a.jpg", "EMPTY/../cut.jpg", "WORKDIR"], "cut.jpg cannot be read: "),
        (["PHOTOS/a.jpg"], "No network is named"),
        (["PHOTOS/a.jpg", "WORKDIR", "--model=lenet5"], "leave out --model"),
        (["PHOTOS/a.jpg", "WORKDIR", "--weights=best.safetensors"], "one of: weights.safetensors"),
        (["PHOTOS/a.jpg", "--weights=a.pth"], "--weights=a.pth needs --model"),
        (["PHOTOS/a.jpg", "--model=resnet81"], "Unknown model 'resnet81'; did you mean"),
        (["PHOTOS/a.jpg", "--model=lenet5"], "no weights for lenet5"),
        (["PHOTOS/a.jpg", "--model=resnet18", "--weights=V3"], "'V3' is neither a file nor"),
        (["PHOTOS/a.jpg", "--model=resnet18", "WEIGHTS"], "It looks like shufflenet_v2_x0_5"),
        (["PHOTOS/a.jpg", "--model=resnet18", "RUN_WEIGHTS"], "is of a run of lenet5"),
        (["PHOTOS/a.jpg", "--workdir=EMPTY"], "/empty is not the folder of a run"),
        (["PHOTOS/a.jpg", "--workdir=nowhere"], "There is no folder nowhere"),
        (["PHOTOS/a.jpg", "WORKDIR", "--topk=0"], "--topk=0 must be at least 1."),
        (["PHOTOS/a.jpg", "WORKDIR", "--crops=10"], "this lenet5 does not crop"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    arguments, words, photos, workdir, weights, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:2000])
    values = {
        "RUN_WEIGHTS": f"--weights={workdir / 'weights.safetensors'}",
        "WEIGHTS": f"--weights={weights}",
        "WORKDIR": f"--workdir={workdir}",
        "PHOTOS": str(photos),
        "EMPTY": str(tmp_path / "empty"),
    }
    for name, value in values.items():
        arguments = [a.replace(name, value) for a in arguments]
    assert cli.main(["predict", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("jaxcnn: ") and captured.err.count("\n") == 1
    assert words in captured.err


def test_weights_that_compute_nan_are_refused(photos, workdir, tmp_path, capsys):
    variables = loaded(workdir=str(workdir)).variables
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    convert.save_torch(tmp_path / "nan.safetensors", broken)
    flags = ["--model=lenet5", f"--weights={tmp_path / 'nan.safetensors'}", "--json"]
    with pytest.warns(UserWarning, match="NaN"):
        assert cli.main(["predict", str(photos / "a.jpg"), *flags]) == 2
    assert capsys.readouterr().out == ""
