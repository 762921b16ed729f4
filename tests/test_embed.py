"""``jaxcnn embed``: against torchvision, the files that it writes, and what it refuses."""

import pathlib
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch
import torchvision
from photos import jpeg, photo
from PIL import Image
from processes import documented_commands, run_documented

from jaxcnn import cli, convert, models
from jaxcnn.models.published import PUBLISHED
from jaxcnn.training.config import as_json, open_config, resolve
from jaxcnn.training.workdir import claim_workdir

MODEL = "squeezenet1_1"
TRANSFORMS = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    """A folder of three JPEGs."""
    folder = tmp_path_factory.mktemp("photos")
    for name, height, width in (("b", 240, 320), ("a", 400, 260), ("c", 90, 120)):
        (folder / f"{name}.jpg").write_bytes(jpeg(photo(height, height, width)))
    return folder


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1().eval()


@pytest.fixture(scope="module")
def weights(module, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(module.state_dict(), path)
    return str(path)


def write_run(workdir: pathlib.Path, scale: float = 0.1) -> str:
    """The folder of a run of LeNet-5 on gray images, with weights of a size."""
    config = resolve(open_config("lenet5", "fashion_mnist"))
    claim_workdir(workdir, as_json(config), list("0123456789"))
    rng = np.random.default_rng(0)
    shapes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5)}
    shapes |= {"fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}
    state = {}
    for layer, shape in shapes.items():
        state[f"{layer}.weight"] = rng.normal(0, scale, shape).astype(np.float32)
        state[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
    convert.save_torch(workdir / "weights.safetensors", convert.from_torch(state, models.lenet5()))
    return str(workdir)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> str:
    return write_run(tmp_path_factory.mktemp("run"))


def test_features_are_torchvisions(photos, module, weights, tmp_path, capsys):
    """In batches, the last of which is not full."""
    out = tmp_path / "features.npz"
    network = ["--model", MODEL, "--weights", weights, "--batch_size", "2"]
    assert cli.main(["embed", str(photos), *network, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote 512 features of 3 images to {out}.\n"
    paths = sorted(photos.glob("*.jpg"))
    images = torch.stack([TRANSFORMS(Image.open(path)) for path in paths])
    with torch.no_grad():
        expected = module.features(images).mean((2, 3)).numpy()
    file = np.load(out)
    assert file["paths"].tolist() == list(map(str, paths))
    assert file["features"].dtype == np.float32
    np.testing.assert_allclose(file["features"], expected, rtol=1e-3, atol=1e-5)


def test_parquet_has_the_same_rows(photos, workdir, tmp_path):
    for name in ("a.npz", "a.parquet"):
        command = ["embed", str(photos), "--workdir", workdir, "--out", str(tmp_path / name)]
        assert cli.main(command) == 0
    file, table = np.load(tmp_path / "a.npz"), pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column("path").to_pylist() == file["paths"].tolist()
    features = np.array(table.column("features").to_pylist(), np.float32)
    assert features.shape == (3, 84) and len(np.unique(features, axis=0)) == 3
    np.testing.assert_array_equal(features, file["features"])


def refused(capsys, *arguments: object) -> str:
    assert cli.main(["embed", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxcnn: ") and error.count("\n") == 1
    return error


def test_what_cannot_be_written_is_refused(photos, workdir, tmp_path, capsys, monkeypatch):
    network = (photos, "--workdir", workdir, "--out")
    assert "must end in .npz or .parquet" in refused(capsys, *network, "a.csv")
    missing = tmp_path / "missing" / "a.npz"
    assert "cannot be written (No such file or directory)" in refused(capsys, *network, missing)
    error = refused(capsys, *network, "a.npz", "--batch_size", 0)
    assert "--batch_size=0 must be at least 1" in error
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    error = refused(capsys, *network, tmp_path / "a.parquet")
    assert "needs pyarrow" in error and "'jaxcnn[parquet]'" in error and ".npz" in error


def test_an_error_leaves_the_old_file(photos, workdir, tmp_path, capsys):
    out = tmp_path / "a.npz"
    out.write_bytes(b"old")
    (tmp_path / "damaged.jpg").write_bytes(b"no image")
    assert "damaged.jpg cannot be read" in refused(
        capsys, photos, tmp_path / "damaged.jpg", "--workdir", workdir, "--out", out
    )
    (tmp_path / "huge").mkdir()
    huge = write_run(tmp_path / "huge", scale=1e30)
    error = refused(capsys, photos, "--workdir", huge, "--out", out)
    assert "The features of" in error and "not finite" in error
    assert out.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "damaged.jpg", "huge"}


@pytest.mark.slow
def test_documented_commands(photos, weights, workdir, tmp_path):
    (tmp_path / "cache").mkdir()
    (published,) = (known for known in PUBLISHED if known.model == MODEL)
    (tmp_path / "cache" / published.file).symlink_to(weights)
    (tmp_path / "resnet18.pth").symlink_to(weights)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "more").mkdir()
    Image.open(photos / "b.jpg").save(tmp_path / "more" / "b.png")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lenet5-digits").symlink_to(workdir)
    environ = {"JAXCNN_CACHE": str(tmp_path / "cache")}
    printed = []
    for line in documented_commands("docs/predicting.md", "embed"):
        result = run_documented(line, {"resnet18": MODEL}, tmp_path, environ)
        assert (result.returncode, result.stderr) == (0, "")
        printed.append(result.stdout)
    assert printed == [
        "Wrote 512 features of 3 images to features.npz.\n",
        "Wrote 512 features of 1 image to features.parquet.\n",
        "Wrote 84 features of 3 images to features.npz.\n",
    ]
