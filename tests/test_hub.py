"""Networks in folders and on the Hugging Face Hub, which is a server on this machine here."""

import argparse
import io
import json
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import torch
from file_server import served
from hub_server import TOKEN, HubServer
from huggingface_hub import constants
from photos import jpeg, photo
from processes import documented_commands, run_documented

from jaxcnn import cli, convert, models
from jaxcnn.cli import network, push
from jaxcnn.convert import load_pretrained, save_pretrained
from jaxcnn.convert.hub import PretrainedConfig, model_card
from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_folder
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.registry import builder_call
from jaxcnn.training.config import as_json, open_config, resolve
from jaxcnn.training.workdir import claim_workdir

# huggingface_hub uploads without hf_xet, which the server does not speak, as httpx once wanted.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PREPROCESSING = {"crop_size": 28, "mean": [0.5], "std": [0.25]}
CLASSES = ["T-shirt | top", "trousers", "bag"]


def variables_of(model: Classifier, channels: int = 3) -> dict:
    """Random variables for images of the model's input size."""
    images = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, channels), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.2, leaf.shape).astype(leaf.dtype), shapes)


def assert_same(variables: dict, expected: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


@pytest.fixture(scope="module")
def lenet() -> tuple[Classifier, dict]:
    """A network whose parameters have their shapes for images of 28 pixels."""
    model = models.lenet5(num_classes=3).clone(input_size=28)
    return model, variables_of(model, channels=1)


@pytest.fixture
def folder(lenet, tmp_path) -> pathlib.Path:
    save_pretrained(tmp_path / "net", *lenet, classes=CLASSES, preprocessing=PREPROCESSING)
    return tmp_path / "net"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """The folder of a finished run with an average of its weights and with its best weights."""
    workdir = tmp_path_factory.mktemp("runs") / "clothes"
    changes = {"num_classes": 3, "label_smoothing": 0.125, "init_from": "/home/me/start.pth"}
    config = resolve(open_config("lenet5", "fashion_mnist", **changes))
    config.checkpoint.best_by = "top1"
    claim_workdir(workdir, as_json(config), CLASSES)
    variables = variables_of(models.lenet5(num_classes=3), channels=1)
    for scale, name in enumerate(("weights", "weights_ema", "best"), 1):
        scaled = jax.tree.map(lambda leaf, scale=scale: leaf * scale, variables)
        convert.save_torch(workdir / f"{name}.safetensors", scaled)
    lines = [{"step": 5, "epoch": 0.5, "split": "train", "learning_rate": 0.1}]
    lines[0] |= {"loss": 2.0, "top1": 0.25}
    for step, top1 in ((10, 0.875), (20, 0.75)):
        evaluated = {"step": step, "epoch": step / 10, "examples": 1000, "loss": 0.5, "top5": 1.0}
        lines.append({**evaluated, "split": "eval", "top1": top1})
        lines.append({**evaluated, "split": "eval_ema", "top1": top1 + 0.0625})
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[HubServer]:
    """The server, for huggingface_hub in this process and in those that it starts."""
    home = tmp_path_factory.mktemp("hf")
    with served(HubServer()) as server, pytest.MonkeyPatch.context() as patch:
        settings = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        # It may have been imported before.
        url = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture(scope="module")
def pushed(hub, workdir) -> dict[str, bytes]:
    """The files of ``me/clothes``, to which the run was pushed."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
        patch.setattr("sys.stdout", io.StringIO())
        assert cli.main(["push", str(workdir), "me/clothes"]) == 0
        assert sys.stdout.getvalue() == f"Pushed lenet5 to {hub.url}/me/clothes.\n"
    return files_of(hub, "me/clothes")


def files_of(hub: HubServer, name: str, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[name]
    files = repository.commits[repository.branches[branch]]
    return {name: content for name, content in files.items() if name != ".gitattributes"}


def loaded(**arguments) -> network.Network:
    names = {"model": None, "weights": None, "workdir": None}
    return network.load(argparse.Namespace(**names | arguments))


def run_and_error(arguments: list[str], capsys) -> str:
    """The sentence with which a command ends."""
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


# --- which network a module is


@pytest.mark.parametrize("arguments", [{}, {"num_classes": 7}, {"features_only": True}])
def test_every_network_is_described_by_its_builder(arguments):
    for name in models.list_models():
        model = models.create_model(name, **arguments)
        found, found_arguments = builder_call(model.clone(input_size=65))
        assert models.create_model(found, **found_arguments) == model
        found_arguments.pop("out_indices", None)
        assert (found, found_arguments) == ("vgg11" if name == "vgg" else name, arguments)


def test_resnet_of_double_width_is_described_as_wide_resnet():
    assert builder_call(models.resnet50(width_per_group=128)) == ("wide_resnet50_2", {})


# --- folders


def test_saved_network_loads_without_its_architecture(lenet, folder):
    for source in (folder, str(folder)):
        model, variables = load_pretrained(source)
        assert model == lenet[0]
        assert_same(variables, lenet[1])
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_arguments_survive(tmp_path):
    model = models.mobilenet_v2(
        num_classes=5,
        width_mult=0.25,
        inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]],
        norm_layer="group1",
        dtype="bfloat16",
        axis_name="replicas",
    )
    variables = variables_of(model)
    save_pretrained(tmp_path / "net", model, variables)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["architecture"] == "mobilenet_v2" and config["num_classes"] == 5
    assert config["arguments"]["norm_layer"] == "group1"
    assert config["arguments"]["dtype"] == "bfloat16"
    loaded_model, loaded_variables = load_pretrained(tmp_path / "net")
    assert loaded_model == model.clone(axis_name=None)
    assert_same(loaded_variables, variables)


def test_arguments_of_the_caller_take_precedence(folder):
    model, _ = load_pretrained(folder, dtype="bfloat16")
    assert (model.num_classes, model.dtype, model.input_size) == (3, "bfloat16", 28)
    with pytest.raises(UserError, match="3 classes .* where num_classes is 7"):
        load_pretrained(folder, num_classes=7)


def test_saved_classifier_loads_as_a_backbone(lenet, folder):
    model, variables = load_pretrained(folder, features_only=True)
    assert (model.num_classes, model.input_size) == (0, 28) and model.out_indices is not None
    kept = {name: lenet[1]["params"][name] for name in variables["params"]}
    assert "fc3" not in kept
    assert_same(variables["params"], kept)


@pytest.mark.parametrize(
    "arguments", [{"num_classes": 0}, {"features_only": True, "out_indices": (0,)}]
)
def test_saved_backbone_loads(arguments, tmp_path):
    model = models.create_model("lenet5", **arguments)
    variables = variables_of(model, channels=1)
    save_pretrained(tmp_path / "net", model, variables)
    found, found_variables = load_pretrained(tmp_path / "net")
    assert found == model
    assert_same(found_variables, variables)
    with pytest.raises(UserError, match="has no classifier"):
        loaded(weights=str(tmp_path / "net"))


def test_named_architecture_takes_only_the_weights_of_a_folder(tmp_path):
    model = models.lenet5(num_classes=3)
    variables = variables_of(model, channels=1)
    save_pretrained(tmp_path / "net", model, variables)
    (tmp_path / "net" / "config.json").write_text("not read")
    found, found_variables = load_pretrained("lenet5", tmp_path / "net")
    assert found == model
    assert_same(found_variables, variables)


def test_folder_of_the_name_of_an_architecture_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet5").mkdir()
    with pytest.raises(UserError, match="no weights for lenet5"):
        load_pretrained("lenet5")


class OwnNet(models.LeNet5):
    """A network of a user."""


def test_what_cannot_be_saved_is_refused(lenet, tmp_path):
    model, variables = lenet
    for changes, words in (
        ({"model": OwnNet(num_classes=3)}, "create_model cannot build this OwnNet"),
        ({"model": model.clone(folded=())}, "save it before it is folded"),
        ({"model": models.lenet5(num_classes=4)}, "does not fit this LeNet5"),
        ({"classes": ["one"]}, r"classes=\['one'\]; expected a list of 3 names"),
        ({"preprocessing": {"size": 28}}, "unexpected 'size'; accepted: crop_size"),
        ({"preprocessing": {"crop_size": 28, "std": [1.0]}}, "has no 'mean'"),
        ({"preprocessing": PREPROCESSING | {"fit": "crop"}}, "fit='crop'; expected resize or pad"),
        ({"preprocessing": PREPROCESSING | {"mean": [1, 2]}}, r"mean=\[.*one number per channel"),
    ):
        arguments = {"model": model, "variables": variables} | changes
        with pytest.raises(UserError, match=words):
            save_pretrained(tmp_path / "net", **arguments)
    silu = models.regnet_x_400mf(num_classes=2, activation=jax.nn.silu)
    with pytest.raises(UserError, match="activation=.* cannot be written to config.json"):
        save_pretrained(tmp_path / "net", silu, variables)
    assert not list(tmp_path.iterdir())


def test_folder_appears_only_when_it_is_complete(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for target in (folder, folder.parent / "new"):
        with pytest.raises(ZeroDivisionError), atomic_folder(target) as new:
            (new / "config.json").write_text("half")
            raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["net"]
    with atomic_folder(folder) as new:
        (new / "config.json").write_text("whole")
    assert (folder / "config.json").read_text() == "whole"
    assert (folder / "README.md").read_bytes() == before["README.md"]
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no config.json, which says which network it is; name the architecture"),
        ("{", "config.json is not valid JSON"),
        ("[]", "config.json names no architecture"),
        ('{"model": "lenet5"}', "config.json names no architecture"),
        ('{"architecture": "lenet6"}', "config.json: Unknown model 'lenet6'; did you mean"),
        ({"arguments": {"width": 2}}, r"config.json: lenet5\(\) got an unexpected argument"),
        ({"arguments": [1]}, r"arguments=\[1\]; expected a dict"),
        ({"num_classes": "3"}, "num_classes='3'; expected a whole number, at least 0"),
        ({"input_size": True}, "input_size=True; expected a whole number, at least 1"),
        ({"classes": ["a", 1, "c"]}, "expected a list of"),
        ({"preprocessing": {"crop_size": 28}}, "the preprocessing has no 'mean'"),
        ({"preprocessing": PREPROCESSING | {"mean": "mean_image.npy"}}, "mean_image.npy of"),
    ],
)
def test_damaged_config_is_one_sentence(content, words, folder):
    path = folder / "config.json"
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load_pretrained(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_pretrained(tmp_path / "net")


def test_card_of_a_torchvision_network_loads_in_torchvision(tmp_path, monkeypatch):
    model = models.squeezenet1_1(num_classes=4)
    variables = variables_of(model)
    save_pretrained(tmp_path / "net", model, variables)
    card = (tmp_path / "net" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    _, code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(code, names)
    for name, tensor in convert.to_torch(variables).items():
        torch.testing.assert_close(names["model"].state_dict()[name], torch.from_numpy(tensor))
    assert "timm" not in card  # which has no SqueezeNet


def test_card_says_how_timm_loads_a_resnet():
    config = PretrainedConfig("resnet18", num_classes=4, input_size=224, channels=1)
    card = model_card(config, "net")
    assert 'timm.create_model("resnet18", num_classes=4, in_chans=1)' in card
    assert "torchvision.models" not in card  # whose networks see colors


# --- commands


def test_commands_take_preprocessing_and_classes_from_a_folder(folder):
    used = loaded(weights=str(folder))
    assert (used.name, used.channels, used.classes) == ("lenet5", 1, tuple(CLASSES))
    assert used.preprocess.shape == (28, 28, 1) and used.preprocess.crop == "none"
    assert (list(used.mean), list(used.std)) == ([0.5], [0.25])
    assert loaded(weights=str(folder), model="lenet5").classes == tuple(CLASSES)
    with pytest.raises(UserError, match="has weights of lenet5, not of alexnet"):
        loaded(weights=str(folder), model="alexnet")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        loaded(weights=str(folder))


def test_folder_of_a_run_as_weights_is_one_sentence(workdir):
    with pytest.raises(UserError, match="is the folder of a run; use --workdir"):
        loaded(weights=str(workdir))


def test_convert_reads_a_folder(lenet, folder, tmp_path):
    destination = tmp_path / "flax.safetensors"
    assert cli.main(["convert", str(folder), str(destination)]) == 0
    assert_same(convert.load(destination), lenet[1])


def test_network_without_preprocessing_has_that_of_its_architecture(tmp_path):
    model = models.squeezenet1_1(num_classes=2)
    save_pretrained(tmp_path / "net", model, variables_of(model))
    used = loaded(weights=str(tmp_path / "net"))
    assert (used.preprocess.resize_size, used.preprocess.shape) == (256, (224, 224, 3))
    assert used.classes == ("0", "1")


def predictions(image: pathlib.Path, capsys, *arguments: str) -> str:
    assert cli.main(["predict", str(image), "--json", *arguments]) == 0
    return capsys.readouterr().out


@pytest.fixture
def image(tmp_path) -> pathlib.Path:
    (tmp_path / "a.jpg").write_bytes(jpeg(photo(1, 40, 50)))
    return tmp_path / "a.jpg"


def test_pushed_run_predicts_as_the_run(workdir, pushed, image, capsys):
    expected = predictions(image, capsys, "--workdir", str(workdir))
    assert predictions(image, capsys, "--weights", "hf-hub:me/clothes") == expected
    assert set(pushed) == {"README.md", "config.json", "model.safetensors", "curves.png"}


def test_mean_image_of_a_run_is_kept(workdir, image, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("classes.json", "weights.safetensors"):
        (run / name).write_bytes((workdir / name).read_bytes())
    config = json.loads((workdir / "config.json").read_text()) | {"subtract_mean_image": True}
    (run / "config.json").write_text(json.dumps(config))
    mean = np.random.default_rng(0).uniform(0, 1, (32, 32, 1)).astype(np.float32)
    np.save(run / "mean_image.npy", mean)
    out = str(tmp_path / "out")
    assert cli.main(["push", str(run), "me/mean", "--out", out]) == 0
    capsys.readouterr()
    expected = predictions(image, capsys, "--workdir", str(run))
    assert predictions(image, capsys, "--weights", out) == expected
    used = loaded(weights=out)
    np.testing.assert_array_equal(used.mean, mean)


# --- the Hub


def test_pushed_run_gives_the_same_logits_bit_for_bit(workdir, pushed):
    model, variables = load_pretrained("hf-hub:me/clothes")
    run = loaded(workdir=str(workdir))
    assert_same(variables, run.variables)
    images = np.random.default_rng(0).normal(0, 1, (4, 32, 32, 1)).astype(np.float32)
    logits = [m.apply(v, images) for m, v in ((model, variables), (run.model, run.variables))]
    np.testing.assert_array_equal(*logits)


def test_card_of_a_run_tells_data_accuracy_recipe_and_curves(pushed):
    card = pushed["README.md"].decode()
    for words in (
        "# clothes\n",
        "Trained on `fashion_mnist`, split `train`.",
        "Evaluation of the average of the weights after 2 epochs (20 steps)",
        "| top-1 accuracy | 81.25% |",
        "| examples | 1,000 |",
        "| `label_smoothing` | `0.125` |",
        "| `init_from` | `start.pth` |",
        "](curves.png)",
        r"Classes: `T-shirt \| top`, `trousers`, `bag`.",
        'convert.load_pretrained("hf-hub:me/clothes")',
        "jaxcnn predict IMAGE --weights hf-hub:me/clothes",
    ):
        assert words in card
    assert "/home/me" not in card  # where files are on this machine
    assert pushed["curves.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("dataset", "folder:/home/me/pets/", "folder:pets"),
        ("dataset", "csv:/home/me/pets.csv", "csv:pets.csv"),
        ("dataset", "imagenet_resized/32x32:0.1.0", "imagenet_resized/32x32:0.1.0"),
        ("init_from", "/home/me/start.pth", "start.pth"),
        ("init_from", "hf-hub:me/start@v1", "hf-hub:me/start@v1"),
        ("augment.color_jitter", [0.5, 0], "[0.5, 0]"),
    ],
)
def test_card_has_no_paths_of_this_machine(key, value, shown):
    assert push._shown({key: value}, key) == shown


@pytest.mark.parametrize(
    ("weights", "top1"),
    [("weights", "75.00%"), ("best", "87.50%")],  # of the average: see above
)
def test_card_has_the_accuracy_of_the_weights_that_are_pushed(weights, top1, workdir, hub):
    file, name = workdir / f"{weights}.safetensors", f"me/{weights}"
    assert cli.main(["push", str(file), name]) == 0
    assert f"| top-1 accuracy | {top1} |" in files_of(hub, name)["README.md"].decode()
    variables = load_pretrained(f"hf-hub:{name}")[1]
    assert_same(variables, loaded(workdir=str(workdir), weights=str(file)).variables)


def test_private_repository_and_branch(folder, hub, monkeypatch):
    arguments = ["push", str(folder), "me/private", "--private", "--revision", "v1"]
    assert cli.main(arguments) == 0 and cli.main(arguments) == 0
    assert hub.repositories["me/private"].private
    assert files_of(hub, "me/private") == {}
    assert load_pretrained("hf-hub:me/private@v1")[0].num_classes == 3
    with pytest.raises(UserError, match=r"hf-hub:me/private has no config\.json"):
        load_pretrained("hf-hub:me/private")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match="hf-hub:me/private cannot be downloaded .* your login"):
        load_pretrained("hf-hub:me/private")


def test_file_is_pushed_with_its_architecture(lenet, hub, tmp_path, capsys):
    file = tmp_path / "mine.pth"
    model = models.lenet5(num_classes=3)
    variables = variables_of(model, channels=1)
    torch.save({k: torch.from_numpy(v) for k, v in convert.to_torch(variables).items()}, file)
    assert "needs --model" in run_and_error(["push", str(file), "me/net"], capsys)
    assert cli.main(["push", str(file), "me/file", "--model", "lenet5"]) == 0
    found, found_variables = load_pretrained("hf-hub:me/file")
    assert found == model
    assert_same(found_variables, variables)


def test_folder_is_pushed_as_its_owner_left_it(workdir, hub, tmp_path):
    out, count = tmp_path / "out", len(hub.requests)
    assert cli.main(["push", str(workdir), "me/edited", "--out", str(out)]) == 0
    assert len(hub.requests) == count
    assert 'load_pretrained("hf-hub:me/edited")' in (out / "README.md").read_text()
    (out / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (out / "secret.txt").write_text("not part of a network")
    assert cli.main(["push", str(out), "me/edited"]) == 0
    names = ("README.md", "config.json", "model.safetensors", "curves.png")
    assert files_of(hub, "me/edited") == {name: (out / name).read_bytes() for name in names}


def test_refused_pushes_are_one_sentence(folder, hub, tmp_path, monkeypatch, capsys):
    hub.add("me/public", {"a": b""})
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    known = set(hub.repositories)
    for arguments, words in (
        ([folder, "clothes"], "'clothes' is not a repository of the Hub; expected OWNER/NAME"),
        ([folder, "you/net"], r"you/net cannot be uploaded \(.*rights to write to you"),
        ([folder, "me/public", "--private"], "me/public exists and is public"),
        ([folder, "me/new", "--model", "alexnet"], "has weights of lenet5, not of alexnet"),
        ([folder, "me/new", "--out", "a", "--private"], "--out uploads nothing"),
        ([folder, "me/new", "--out", tmp_path / "no" / "a"], "a cannot be written"),
        ([folder, "me/new", "--out", tmp_path / "file"], "file cannot be written"),
        (["nowhere", "me/new"], "There is no file or folder nowhere"),
        ([tmp_path / "empty", "me/new"], "is not the folder of a run"),
    ):
        assert re.search(words, run_and_error(["push", *map(str, arguments)], capsys))
    assert set(hub.repositories) == known and files_of(hub, "me/public") == {"a": b""}
    assert {path.name for path in tmp_path.iterdir()} == {"net", "file", "empty"}

    command = ["push", str(folder), "me/new"]
    monkeypatch.delenv("HF_TOKEN")
    assert "not logged in" in run_and_error(command, capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    error = run_and_error(command, capsys)
    assert "cannot be uploaded (Invalid username or password); check" in error
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be uploaded" in run_and_error(command, capsys)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "needs huggingface_hub, which is not" in run_and_error(command, capsys)


def test_documented_push(workdir, hub, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lenet5-digits").symlink_to(workdir)
    line = documented_commands("docs/predicting.md", "push")[0]
    environ = {"PYTHONPATH": os.pathsep.join(sys.path)}
    heavy = ("tensorflow", "torch")
    result = run_documented(line, {"OWNER/NAME": "me/digits"}, tmp_path, environ, heavy)
    assert (result.returncode, result.stderr) == (0, "")
    assert "model.safetensors" in files_of(hub, "me/digits")


def test_hub_prefers_safetensors_to_pickle(lenet, folder, hub, tmp_path):
    state = convert.to_torch(lenet[1])
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, tmp_path / "b")
    both = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.add("me/net", both | {"pytorch_model.bin": b"damaged"})
    pickle = {"pytorch_model.bin": (tmp_path / "b").read_bytes()}
    hub.add("me/net", pickle, "v1")
    assert_same(load_pretrained("hf-hub:me/net")[1], lenet[1])
    hub.add("me/old", pickle | {"config.json": both["config.json"]})
    assert_same(load_pretrained("hf-hub:me/old")[1], lenet[1])


def test_repository_of_another_program_needs_the_architecture(hub, tmp_path):
    model = models.lenet5(num_classes=3)
    variables = variables_of(model, channels=1)
    convert.save_torch(tmp_path / "a.safetensors", variables)
    weights = {"model.safetensors": (tmp_path / "a.safetensors").read_bytes()}
    for name, config in (("no/config", {}), ("other/config", {"config.json": b'{"n_layer": 2}'})):
        hub.add(name, weights | config)
        for load in (
            lambda source: load_pretrained("lenet5", source),
            lambda source: (loaded(weights=source, model="lenet5").model, variables),
        ):
            assert load(f"hf-hub:{name}")[0] == model
        with pytest.raises(UserError, match="config.json.*name.*architecture") as caught:
            load_pretrained(f"hf-hub:{name}")
        assert f"hf-hub:{name}" in str(caught.value)
    # As timm's: the architecture is enough.
    hub.add("timm/net", weights | {"config.json": b'{"architecture": "lenet5"}'})
    assert load_pretrained("hf-hub:timm/net")[0] == model


def test_repository_that_cannot_be_read_is_one_sentence(hub, monkeypatch):
    hub.add("no/weights", {"config.json": b'{"architecture": "lenet5"}'})
    for source, words in (
        ("hf-hub:no/weights", "has neither model.safetensors nor pytorch_model.bin"),
        ("hf-hub:no/repository", "cannot be downloaded .*; check its name"),
        ("hf-hub:no/weights@v2", "cannot be downloaded .*; check its name"),
    ):
        for arguments in ((source,), ("lenet5", source)):
            with pytest.raises(UserError, match=words) as caught:
                load_pretrained(*arguments)
            assert source in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf-hub:new/net cannot be downloaded"):
        load_pretrained("hf-hub:new/net")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub, .* 'jaxcnn\[hub\]'"):
        load_pretrained("lenet5", "hf-hub:me/net")
