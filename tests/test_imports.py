"""What importing the package costs, and needs."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest

# Packages by the modules they bring, where the names differ in more than "_" and "-".
PACKAGES = {
    "jax_plugins": "jax",  # with its extra cuda12
    "PIL": "pillow",
    "absl": "absl-py",
    "google": "protobuf",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run(code: str, blocked: tuple[str, ...] = ()) -> str:
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_models_steps_and_conversion_work_without_tensorflow_and_torch():
    run(
        """
import jax, jax.numpy as jnp
from jaxcnn import convert, models
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import init_state, make_train_step

model, optimizer = models.lenet5(), sgd(0.1)
state = init_state(model, optimizer, (1, 32, 32, 1))
assert convert.to_torch(state.variables)["fc3.weight"].shape == (10, 84)
batch = {"image": jnp.ones((2, 32, 32, 1)), "label": jnp.array([1, 2])}
state, metrics = make_train_step(model, optimizer)(state, batch, axis_name=None)
assert jnp.isfinite(metrics["loss"])
""",
        blocked=("tensorflow", "tensorflow_datasets", "torch", "torchvision"),
    )


def test_models_pull_in_neither_tensorflow_nor_torch():
    loaded = run("import jaxcnn.models; print(*sys.modules)").split()
    assert not {"tensorflow", "tensorflow_datasets", "torch", "torchvision"} & set(loaded)


def test_prepared_datasets_are_read_without_tensorflow(data_dir):
    from jaxcnn.data.source import open_source

    open_source("digits", "train", data_dir)
    run(
        f"""
from jaxcnn.data.source import open_source

encoded, label = open_source("digits", "train", {data_dir!r}).read(0)
assert encoded and 0 <= label < 10
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    )


def test_help_needs_no_heavy_import(root):
    # The reason why it answers at once.
    code = f"""
import runpy
sys.argv = [{str(root / "train.py")!r}, "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as exit:
    assert exit.code == 0, exit.code
"""
    out = run(code, blocked=("jax", "flax", "tensorflow", "torch"))
    assert "--config" in out and "--workdir" in out


def imported(root, *patterns):
    """The modules that are imported anywhere in files, by their top-level names."""
    names = {}
    for path in (path for pattern in patterns for path in root.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            names |= {module.partition(".")[0]: path.name for module in modules}
    local = (*root.glob("tests/**/*.py"), *root.glob("benchmarks/*.py"))
    ours = {"jaxcnn", "configs", *(path.stem for path in local)}
    return {n: p for n, p in names.items() if n not in sys.stdlib_module_names and n not in ours}


def declared(root, *extras):
    """The packages that pyproject.toml asks for."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return {normalized(re.match(r"[\w.-]+", r)[0]) for r in requirements}


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("patterns", "extras"),
    [
        (("jaxcnn/models/**/*.py", "jaxcnn/convert/[!e]*.py"), ("hub",)),
        (("jaxcnn/io/*.py",), ("hub", "gcs")),
        (
            # all but jaxcnn/testing
            ("jaxcnn/*.py", "jaxcnn/[!t]*/**/*.py", "jaxcnn/training/**/*.py", "train.py"),
            ("hub", "gcs", "onnx", "parquet", "train", "visualize"),
        ),
        (("jaxcnn/testing/*.py",), ("test",)),
        (
            ("tests/**/*.py", "benchmarks/*.py"),
            ("hub", "gcs", "parquet", "train", "visualize", "test", "dev"),
        ),
        (("configs/*.py",), ("train",)),
    ],
)
def test_every_imported_package_is_declared(patterns, extras, root):
    found = imported(root, *patterns)
    assert found and "jaxcnn" not in found
    known = declared(root, *extras)
    undeclared = {n: p for n, p in found.items() if normalized(PACKAGES.get(n, n)) not in known}
    assert not undeclared


def test_jax_0_10_2_is_excluded(root):
    # It computes wrong sums: https://github.com/jax-ml/jax/issues/39103
    dependencies = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {"jax != 0.10.2", "jaxlib != 0.10.2"} <= set(dependencies)
    pins = re.findall(r"^(?:jax|jaxlib)==(\S+)", (root / "constraints.txt").read_text(), re.M)
    assert len(pins) == 4 and "0.10.2" not in pins
