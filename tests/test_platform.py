"""Settings of XLA and of JAX's compilation cache; the user's own are kept."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from jaxcnn import platform

FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


@pytest.fixture(autouse=True)
def environment_is_restored(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")


def set_flags(monkeypatch, flags: str | None, jaxlib: str = "0.12.0.1") -> str | None:
    """``XLA_FLAGS`` after the call."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: jaxlib)
    if flags is None:
        monkeypatch.delenv("XLA_FLAGS")
    else:
        monkeypatch.setenv("XLA_FLAGS", flags)
    platform.set_xla_flags()
    return os.environ.get("XLA_FLAGS")


@pytest.mark.parametrize("jaxlib", ["0.10.0", "0.10.1", "0.11.1", "0.12.0", "0.12.0.1"])
def test_flag_is_set_where_jaxlib_knows_it(jaxlib, monkeypatch):
    assert set_flags(monkeypatch, None, jaxlib) == FLAG


@pytest.mark.parametrize("jaxlib", ["0.4.38", "0.9.2", "0.13.0", "1.0.0", "custom"])
def test_nothing_is_set_for_other_releases_of_jaxlib(jaxlib, monkeypatch):
    assert set_flags(monkeypatch, None, jaxlib) is None


def test_flag_is_appended_once_to_what_the_user_set(monkeypatch):
    own = "--xla_force_host_platform_device_count=2"
    assert set_flags(monkeypatch, own) == f"{own} {FLAG}"
    assert set_flags(monkeypatch, f"{own} {FLAG}") == f"{own} {FLAG}"


@pytest.mark.parametrize("value", ["=", "=+individual_convolution", ""])
def test_flag_that_the_user_set_is_left_alone(value, monkeypatch):
    own = f"--xla_cpu_experimental_ynn_fusion_type{value}"
    assert set_flags(monkeypatch, own) == own


def test_nothing_is_set_without_jaxlib(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(importlib.metadata, "version", missing)
    platform.set_xla_flags()
    assert "XLA_FLAGS" not in os.environ


def test_jax_starts_with_the_flags():
    """An unknown flag would end the process."""
    code = """
import sys
from jaxcnn.platform import set_xla_flags
set_xla_flags()
assert not {"jax", "jaxlib", "flax"} & set(sys.modules)
import os, jax
print(os.environ["XLA_FLAGS"], jax.devices()[0].platform, jax.numpy.ones(3).sum())
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split()[-1] == "3.0"


COMPILE = """
from jaxcnn.platform import use_compilation_cache
use_compilation_cache()
import jax
from jaxcnn import models
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
model = models.lenet5()
jax.block_until_ready(jax.jit(model.init)(jax.random.key(0), jax.numpy.zeros((1, 32, 32, 1))))
print("/jax/compilation_cache/cache_hits" in events)
"""


def hits_cache(cache, **environ: str) -> bool:
    """Whether LeNet-5's initial weights, in a process, were compiled before."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    process = subprocess.run(
        [sys.executable, "-c", COMPILE],
        capture_output=True,
        text=True,
        env={**own, "JAXCNN_CACHE": str(cache), "JAX_PLATFORMS": "cpu", **environ},
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout == "True\n"


def test_second_start_finds_what_the_first_compiled(tmp_path):
    assert not hits_cache(tmp_path)
    (folder,) = (tmp_path / "compiled").iterdir()  # of this machine
    (program,) = folder.glob("jit_init*-cache")
    assert hits_cache(tmp_path)
    # As a killed process leaves it.
    program.write_bytes(program.read_bytes()[:1000])
    os.utime(program, (0, 0))
    for file in {*folder.iterdir()} - {program}:  # with other programs, where they took long
        file.unlink()
    assert not hits_cache(tmp_path)
    assert hits_cache(tmp_path)


@pytest.mark.slow
def test_compilation_cache_can_be_off_or_elsewhere_or_unwritable(tmp_path):
    hits_cache(tmp_path / "a", JAX_ENABLE_COMPILATION_CACHE="false")
    hits_cache(tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"))
    assert not (tmp_path / "a").exists() and (tmp_path / "b").is_dir()
    assert not hits_cache("/dev/null/cache")  # and says nothing
