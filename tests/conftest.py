"""What all tests share."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

# Before a test imports JAX: tests are for CPUs, and replicas need four of them in one process.
DEVICES = "--xla_force_host_platform_device_count"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=4"

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The folder of train.py and configs/."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for tfds datasets that begins empty."""
    return str(tmp_path_factory.mktemp("tfds"))


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def train(data_dir: str) -> Run:
    """Runs ``python train.py`` with flags, as a user does."""

    def run(*flags: str, data_dir: str = data_dir, **kwargs) -> subprocess.CompletedProcess[str]:
        process = start_train(*flags, data_dir=data_dir, **kwargs)
        stdout, stderr = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


def start_train(*flags: str, data_dir: str, devices: int = 1, **kwargs) -> subprocess.Popen[str]:
    """Starts ``python train.py`` on so many CPU devices."""
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", f"--data_dir={data_dir}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": f"{DEVICES}={devices}"},
        **({"cwd": ROOT} | kwargs),
    )
