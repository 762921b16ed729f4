"""What importing the package costs, and needs."""

import subprocess
import sys

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
