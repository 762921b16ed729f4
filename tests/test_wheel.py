"""The package as it is installed without the source tree."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile

import environments
import numpy as np
import pytest
import torch
import torchvision
from test_imports import BLOCKED

from jaxcnn.cli import extras
from jaxcnn.errors import UserError
from jaxcnn.training.config import as_json, get_config

LOAD_AND_PREDICT = """
import importlib.util, sys
import numpy as np

import jaxcnn.models, jaxcnn.convert
from jaxcnn import convert

absent = {"tensorflow", "tensorflow_datasets", "sklearn", "torch", "matplotlib"}
assert not [name for name in absent if importlib.util.find_spec(name)]
model, variables = convert.load_pretrained("resnet18", "resnet18.pth")
logits = model.apply(variables, np.load("images.npy"))
np.testing.assert_allclose(logits, np.load("logits.npy"), rtol=1e-4, atol=1e-4)
assert not {"orbax", "orbax.checkpoint"} & set(sys.modules)
print(jaxcnn.__file__)
"""

USER = """\
import jax
import jax.numpy as jnp
from jaxcnn import convert, models

model = models.create_model("resnet18", num_classes=10, dtype=jnp.bfloat16)
variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
names: list[str] = models.list_models()
state_dict = convert.to_torch(variables)
parameters: int = models.model_info("resnet18").parameters
"""


@pytest.mark.slow
def test_models_and_weights_work_without_extras(installed, tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        np.save(tmp_path / "logits.npy", network(images))
    np.save(tmp_path / "images.npy", images.permute(0, 2, 3, 1))
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    out = environments.run(installed, "-c", LOAD_AND_PREDICT, folder=tmp_path)
    assert str(installed.parent.parent) in out  # and not the source tree


@pytest.mark.slow
def test_commands_work_without_extras(installed, tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(tmp_path / "black.png")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    network = ("--model", "resnet18", "--weights", "resnet18.pth")

    def run(*arguments: str) -> str:
        return environments.run(installed, "-m", "jaxcnn", *arguments, folder=tmp_path)

    assert "resnet18" in run("models")
    assert "11,689,512" in run("summary", "resnet18")
    assert "conv1.weight" in run("inspect", "resnet18.pth")
    run("convert", "resnet18.pth", "flax.safetensors", "--model", "resnet18")
    assert len(json.loads(run("predict", "black.png", "--json", *network))) == 1
    assert json.loads(run("config", "resnet18:digits"))["num_epochs"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["train", "lenet5:digits"], "tensorflow_datasets", "train"),
        (["validate", "--model=resnet18", "--dataset=digits"], "tensorflow_datasets", "train"),
        (["visualize", "filters", "--model=resnet18", "--out=f.png"], "matplotlib", "visualize"),
    ],
    ids=["train", "validate", "visualize"],
)
def test_missing_package_is_one_sentence(arguments, package, extra, installed, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    if arguments[0] != "train":
        arguments = [*arguments, "--weights=resnet18.pth"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [installed, "-m", "jaxcnn", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=own,
        check=False,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"needs {package}, which is not installed" in line
    assert f"pip install 'jaxcnn[{extra}]'" in line


@pytest.mark.slow
def test_training_by_name_needs_no_source_tree(wheel, tmp_path):
    python = environments.without(tmp_path / "environment", "jaxcnn")
    pip = ["-m", "pip", f"--python={python}", "install", "-q", "--no-deps"]
    subprocess.run([sys.executable, *pip, wheel], check=True)
    flags = ("--config.num_epochs=1", "--workdir=run", f"--data_dir={tmp_path}")
    command = python.with_name("jaxcnn")
    out = environments.run(command, "train", "lenet5:digits", *flags, folder=tmp_path)
    assert out.splitlines()[-1].startswith("epoch 1: eval loss")
    assert (tmp_path / "run" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_users_code_is_type_checked(installed, tmp_path):
    """The annotations are found (py.typed), and say what is wrong."""

    def mypy(code: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "user.py").write_text(code)
        command = ["mypy", "--strict", f"--python-executable={installed}", "user.py"]
        return subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    assert mypy(USER).returncode == 0, mypy(USER).stdout
    wrong = mypy(USER.replace("parameters: int", "parameters: str"))
    assert wrong.returncode == 1
    assert '"int", variable has type "str"' in wrong.stdout


@pytest.mark.slow
def test_wheel_has_the_data_files_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    others = [name for name in names if not name.endswith(".py") and ".dist-info/" not in name]
    assert sorted(others) == [
        "jaxcnn/cli/check/known_answers.json",
        "jaxcnn/data/imagenet_classes.txt",
        "jaxcnn/py.typed",
    ]
    assert all(name.startswith("jaxcnn") for name in names)


def test_config_files_are_known_by_name(root):
    """What a wheel has in place of configs/."""
    files = sorted((root / "configs").glob("*.py"))
    assert len(files) > 70
    for file in files:
        scope = {}
        exec(file.read_text(), scope)
        from_file, by_name = scope["get_config"](), get_config(file.stem)
        assert as_json(from_file) == as_json(by_name), file.name
    assert get_config("resnet18:digits").dataset == "digits"
    assert get_config("resnet50_v2:cifar10").dataset == "cifar10"
    assert get_config("finetune:vgg11").model == "vgg11"


def test_unknown_recipe_is_refused():
    with pytest.raises(UserError, match="Unknown recipe 'resnet50_v3'; did you mean 'resnet50_v2'"):
        get_config("resnet50_v3")


@pytest.mark.parametrize(("name", "message"), [("tensorflow_datasets", True), ("tfds", False)])
def test_only_packages_of_extras_are_explained(name, message):
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    explained = extras.missing_extra("jaxcnn prepare", error)
    assert (explained is not None) == message
    if message:
        assert str(explained).startswith("jaxcnn prepare needs tensorflow_datasets, which is not")


def test_module_missing_within_a_package_is_not_explained():
    error = ModuleNotFoundError("No module named 'tensorflow.python'", name="tensorflow.python")
    assert extras.missing_extra("jaxcnn train", error) is None


def test_training_without_its_packages_is_refused(root):
    blocked = tuple(name for name, extra in extras.EXTRAS.items() if extra == "train")
    code = BLOCKED.format(blocked=blocked) + (
        "import sys\nsys.argv = ['train.py']\n"
        "from jaxcnn.cli.train import train\ntrain(['train.py', '--config=missing.py'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("train.py: Training needs absl, which is not installed; ")


def test_extras_name_the_packages_that_bring_them(root):
    from test_imports import PACKAGES, normalized

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for module, extra in extras.EXTRAS.items():
        requirements = project["optional-dependencies"][extra]
        names = {normalized(re.match(r"[\w.-]+", r)[0]) for r in requirements}
        assert normalized(PACKAGES.get(module, module)) in names, module
