"""What all tests share."""

import gc
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import filelock
import pytest

# Before TensorFlow: both bring an LLVM, and the other order aborts the process.
import torchvision  # noqa: F401
from environments import build_wheel, create
from processes import DEVICES, ROOT, start_train

# Before a test imports JAX: tests are for CPUs, and replicas need four of them in one process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=4"

# Tests compile the same programs again and again: they share JAX's cache with each other, with
# the processes that they start and with pytest's other workers, which inherit the variables.
_COMPILED = "JAX_COMPILATION_CACHE_DIR"
_is_worker = "PYTEST_XDIST_WORKER" in os.environ
if not _is_worker:
    os.environ[_COMPILED] = tempfile.mkdtemp(prefix="jaxcnn-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    # As in jaxcnn.platform: some releases of jaxlib log an error for each program that they read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_unconfigure() -> None:
    """Deletes the compiled programs."""
    if not _is_worker:
        shutil.rmtree(os.environ[_COMPILED], ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Of this run alone, and not the user's."""
    os.environ["JAXCNN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return pathlib.Path(os.environ["JAXCNN_CACHE"])


@pytest.fixture(autouse=True)
def memory_of_slow_tests_is_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clears what was compiled for one large network: it serves no other."""
    yield
    if request.node.get_closest_marker("slow"):
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The folder of train.py and configs/."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for tfds datasets that begins empty."""
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> pathlib.Path:
    """The package as it is installed from a registry; built once for all of xdist's workers."""
    folder = once_for_all_workers(tmp_path_factory, worker_id) / "wheel"
    with filelock.FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            build_wheel(folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed(
    wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> pathlib.Path:
    """The Python of a virtual environment with ``pip install jaxcnn`` and no extras."""
    return create_once(once_for_all_workers(tmp_path_factory, worker_id) / "installed", str(wheel))


@pytest.fixture(scope="session")
def with_onnx(
    wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> pathlib.Path:
    """The Python of a virtual environment with ``pip install 'jaxcnn[onnx]'``."""
    folder = once_for_all_workers(tmp_path_factory, worker_id) / "with_onnx"
    return create_once(folder, f"{wheel}[onnx]")


def create_once(folder: pathlib.Path, requirement: str) -> pathlib.Path:
    """Creates a virtual environment, unless another worker did, and returns its Python."""
    with filelock.FileLock(f"{folder}.lock"):
        return folder / "bin" / "python" if folder.exists() else create(folder, requirement)


def once_for_all_workers(factory: pytest.TempPathFactory, worker_id: str) -> pathlib.Path:
    """A temporary folder that all of xdist's workers share."""
    own = factory.getbasetemp()
    return own if worker_id == "master" else own.parent


# Of the table of errors, in its order.
COLUMNS = ("eval", "train", "default size", "three steps")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def train(data_dir: str) -> Run:
    """Runs ``python train.py`` with flags, as a user does."""

    def run(*flags: str, data_dir: str = data_dir, **kwargs) -> subprocess.CompletedProcess[str]:
        process = start_train(*flags, data_dir=data_dir, **kwargs)
        stdout, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the worst error of each model and kind that tests/parity measured.

    Here, for of the conftests in folders the process that starts xdist's workers knows nothing.
    """
    errors: dict[str, dict[str, float]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for kind, value in getattr(report, "user_properties", ()):
                if kind == "parity" and report.when == "call":
                    name, column, error = value
                    errors.setdefault(name, {})[column] = error
    if not errors:
        return
    from jaxcnn import models

    terminalreporter.section("relative errors against torchvision, float64")
    heads = "".join(f"{column:>14}" for column in COLUMNS)
    terminalreporter.write_line(f"{'model':20}{'parameters':>13}{heads}")
    for name, row in sorted(errors.items()):
        cells = "".join(f"{row[c]:14.1e}" if c in row else f"{'':14}" for c in COLUMNS)
        parameters = models.model_info(name).parameters
        terminalreporter.write_line(f"{name:20}{parameters:13,}{cells}".rstrip())
