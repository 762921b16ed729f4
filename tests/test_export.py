"""``jaxcnn export``: networks in forms that other programs run."""

import pathlib
import re
import subprocess
import sys

import environments
import export_families
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import image_file, photo
from processes import ROOT

from jaxcnn import cli, convert, models
from jaxcnn.convert.export import Exported, save_stablehlo
from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier
from jaxcnn.testing import relative_error

LOGITS = 1e-5

# Loads each exported network with a loader from the docs, and keeps its logits of images.
RUN_ALL = """
import importlib.util, pathlib, runpy, sys
import numpy as np

assert importlib.util.find_spec("jaxcnn") is None
load = runpy.run_path(sys.argv[1])["load"]
for path in pathlib.Path(sys.argv[2]).glob("*" + sys.argv[3]):
    images = np.load(str(path.with_suffix("")).removesuffix("-folded") + "-images.npy")
    network = load(str(path))
    logits = np.asarray(network(images))
    np.save(f"{path}.npy", logits)
    one = np.asarray(network(images[:1]))  # any number of images
    assert np.abs(one - logits[:1]).max() < 1e-5 * np.abs(logits).max(), path
"""


def loader(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a program of docs/exporting.md to a file."""
    text = (ROOT / "docs" / "exporting.md").read_text()
    (program,) = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert program.count("\n") <= 25
    (folder / name).write_text(program)
    return folder / name


def save_lenet(folder: pathlib.Path) -> tuple[Classifier, dict]:
    model = models.lenet5()
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    convert.save_torch(folder / "lenet5.safetensors", variables)
    return model, variables


def export(folder: pathlib.Path, *arguments: str, file: str = "out", to: str = "stablehlo") -> int:
    weights = ("--model=lenet5", f"--weights={folder / 'lenet5.safetensors'}")
    return cli.main(["export", str(folder / file), f"--to={to}", *weights, *arguments])


@pytest.mark.parametrize("preprocess", [False, True], ids=["normalized", "uint8"])
def test_stablehlo_computes_the_logits_of_any_number_of_images(preprocess, tmp_path, capsys):
    model, variables = save_lenet(tmp_path)
    assert export(tmp_path, *["--preprocess"] * preprocess) == 0
    exported = jax.export.deserialize(bytearray((tmp_path / "out").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1)).astype(np.uint8)
    mean, std = 0.1307, 0.3081  # of MNIST
    normalized = ((pixels / 255 - mean) / std).astype(np.float32)
    expected = jax.jit(model.apply)(variables, normalized)
    for count in (1, 5):
        images = (pixels if preprocess else normalized)[:count]
        assert relative_error(exported.call(images), expected[:count]) < LOGITS
    out = capsys.readouterr().out
    assert ("Images: uint8 [N, 32, 32, 1]" if preprocess else "with mean (0.1307,)") in out
    assert "Logits: float32 [N, 10]" in out


def test_batch_size_is_fixed_if_asked_for(tmp_path):
    save_lenet(tmp_path)
    assert export(tmp_path, "--batch_size=2") == 0
    exported = jax.export.deserialize(bytearray((tmp_path / "out").read_bytes()))
    assert exported.in_avals[0].shape == (2, 32, 32, 1)


@pytest.mark.parametrize("groups", [2, 8], ids=["grouped", "depthwise"])
def test_grouped_convolution_takes_any_number_of_images(groups, tmp_path):
    """On a CPU the way that is fast depends on how many there are."""
    layer = layers.Conv(8, 3, groups=groups)
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 8)).astype(np.float32)
    variables = jax.jit(layer.init)(jax.random.key(0), images)
    save_stablehlo(tmp_path / "layer", Exported(layer.apply, variables, (6, 6, 8)))
    exported = jax.export.deserialize(bytearray((tmp_path / "layer").read_bytes()))
    expected = jax.jit(layer.apply)(variables, images)
    assert relative_error(exported.call(images), expected) < LOGITS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch_size=0"], "--batch_size=0 must be a number, at least 1, or dynamic."),
        (["--batch_size=many"], "--batch_size=many must be a number, at least 1, or dynamic."),
        (["--image_size=0"], "--image_size=0 must be at least 1."),
        (["--image_size=4"], "too small"),
    ],
)
def test_invalid_argument_is_one_sentence(arguments, words, tmp_path, capsys):
    save_lenet(tmp_path)
    assert export(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_path_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    save_lenet(tmp_path)
    assert export(tmp_path, file="missing/out") == 2
    assert "choose a folder that exists" in capsys.readouterr().err
    assert export(tmp_path, file=".") == 2
    assert "is a folder; give the name of a file" in capsys.readouterr().err
    assert export(tmp_path, file="lenet5.safetensors", to="savedmodel") == 2
    assert "exists already; give a new folder" in capsys.readouterr().err


# Concatenations, shortcuts, adaptive pooling; folded batch norms.
SOME = ("densenet121", "lenet5", "resnet18", "vgg")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SOME, marks=pytest.mark.slow, id="some"),
        pytest.param(tuple(export_families.FAMILIES), marks=pytest.mark.exhaustive, id="all"),
    ],
)
def families(request, with_onnx, tmp_path_factory):
    """Networks, and a folder with them exported and with what the files compute.

    They are loaded by programs of the docs, in environments without jaxcnn.
    """
    folder = tmp_path_factory.mktemp("families")
    environments.run(with_onnx, export_families.__file__, folder, *request.param, folder=folder)
    prefix = with_onnx.parent.parent
    for kind, absent in (("stablehlo", ("flax",)), ("onnx", ("flax", "jax"))):
        python = environments.without(folder / kind, "jaxcnn", *absent, prefix=prefix)
        program = loader(f"load_{kind}.py", folder)
        environments.run(python, "-c", RUN_ALL, program, folder, f".{kind}", folder=folder)
    return request.param, folder


@pytest.mark.parametrize("kind", ["stablehlo", "onnx"])
def test_exported_networks_compute_the_modules_logits(kind, families):
    networks, folder = families
    names = [*networks, *(f"{name}-folded" for name in export_families.FOLDED)]
    errors = {
        name: relative_error(
            np.load(folder / f"{name}.{kind}.npy"),
            np.load(folder / f"{name.removesuffix('-folded')}-logits.npy"),
        )
        for name in names
    }
    assert {name: error for name, error in errors.items() if not error < LOGITS} == {}


def test_every_family_is_exported():
    known = {models.model_info(name).family for name in models.list_models()}
    assert {models.model_info(name).family for name in export_families.FAMILIES} == known


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stablehlo", "onnx", "savedmodel"])
def test_documented_loader_classifies_an_image_without_jaxcnn(kind, with_onnx, tmp_path):
    model = models.resnet18()
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    convert.save_torch(tmp_path / "resnet18.safetensors", variables)
    image = photo(0, 64, 64)
    (tmp_path / "photo.png").write_bytes(image_file(image, "PNG"))
    command = ["-m", "jaxcnn", "export", "resnet18", f"--to={kind}", "--image_size=64"]
    command += ["--model=resnet18", "--weights=resnet18.safetensors", "--preprocess"]
    command += ["--fold_batch_norm"]
    if kind == "savedmodel":  # TensorFlow is where the tests are
        if jax.__version_info__ >= (0, 12):  # of which it takes fixed numbers of images only
            command.append("--batch_size=1")
        subprocess.run([sys.executable, *command], check=True, cwd=tmp_path)
        python = environments.without(tmp_path / "environment", "jaxcnn", "jax", "flax")
    else:
        environments.run(with_onnx, *command, folder=tmp_path)
        prefix = with_onnx.parent.parent
        python = environments.without(tmp_path / "environment", "jaxcnn", "flax", prefix=prefix)
    program = loader(f"load_{kind}.py", tmp_path)
    out = environments.run(python, program, "resnet18", "photo.png", "64", folder=tmp_path)

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    logits = jax.jit(model.apply)(
        variables, jnp.asarray((image[None] / 255 - mean) / std, jnp.float32)
    )
    best = np.argsort(logits[0])[::-1][:5]
    probabilities = jax.nn.softmax(logits[0])[best]
    lines = [line.split() for line in out.splitlines()]
    assert [int(index) for index, _ in lines] == best.tolist()
    np.testing.assert_allclose([float(p) for _, p in lines], probabilities, rtol=1e-4)
