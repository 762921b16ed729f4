"""Checkpoints that are damaged, cut off, or cannot be saved: found, named, and never loaded."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from damage import Damage, damages
from processes import ROOT, start_train

from jaxcnn import cli, convert
from jaxcnn.errors import UserError
from jaxcnn.io import manifest
from jaxcnn.io.manifest import MANIFEST, DamagedError
from jaxcnn.io.safetensors import verify_safetensors, write_safetensors
from jaxcnn.training import checkpoint_folder
from jaxcnn.training.checkpoints import Checkpoints, newest_variables
from jaxcnn.training.devices import replicate
from jaxcnn.training.metrics import read_metrics
from jaxcnn.training.step import TrainState
from jaxcnn.training.workdir import claim_workdir, has_checkpoint


def state(step: int) -> TrainState:
    """Of a small network; every value is of its step."""
    random = np.random.default_rng(step)
    params = {"conv1": {"kernel": random.normal(size=(3, 3, 4, 8)).astype(np.float32)}}
    params["fc"] = {"kernel": random.normal(size=(64, 100)).astype(np.float32)}
    momentum = jax.tree.map(np.negative, params)
    return TrainState(
        step=np.int32(step),
        params=params,
        batch_stats={"bn1": {"mean": random.normal(size=8).astype(np.float32)}},
        opt_state=({"trace": momentum}, ()),
        ema={},
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> pathlib.Path:
    """A folder with the checkpoints of two steps; tests work on copies."""
    directory = tmp_path_factory.mktemp("two") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for step in (11, 22):
            checkpoints.save(replicate(state(step)))
    return directory


@pytest.fixture
def saved(two, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(two, tmp_path / "checkpoints"))


@pytest.fixture
def reports() -> list[str]:
    return []


def resumed(directory: pathlib.Path, reports: list[str]) -> TrainState | None:
    with Checkpoints(directory, report=reports.append) as checkpoints:
        return checkpoints.restore_newest(state)


def assert_equal(restored: TrainState, step: int) -> None:
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))


def data_file(folder: pathlib.Path) -> pathlib.Path:
    """The largest: the arrays."""
    return max(folder.glob("default/ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position if position >= 0 else len(content) // 2] ^= 16
    path.write_bytes(content)


# --- what is damaged is not loaded


def test_flipped_bit_in_the_arrays_is_found(saved, reports):
    flip(data_file(saved / "22"))
    with pytest.raises(UserError, match="SHA-256"):
        Checkpoints(saved).restore(state(22), 22)


def test_no_damage_to_a_checkpoint_is_loaded(two, tmp_path):
    """The short form of benchmarks/damage.py: one file of each kind, and the manifest."""
    counts = collections.Counter()
    for damage in damages(two, 22, other=11, every=4096, few=True):
        counts[damage.kind] += 1
        folder = damage.applied(tmp_path / "checkpoints")
        with pytest.raises(DamagedError):
            checkpoint_folder.verify(folder, 22)
    assert counts.keys() == {"flip", "truncate", "remove", "swap", "extra"}
    assert counts["flip"] > 20 and counts["swap"] > 5


def test_arrays_are_compared_with_memory_and_not_with_what_was_written(saved, reports):
    """A bit that flips on its way to the disk is in the file, and in the file's checksum."""
    intact = manifest.read_manifest(saved / "11")
    shutil.rmtree(saved / "22")
    with Checkpoints(saved) as checkpoints:
        checkpoints._write(22, wrong := dict(dataclasses.asdict(state(22)), ema={}) | {"ema": {}})
    assert wrong
    arrays = dict(manifest.read_manifest(saved / "22").arrays)
    kernel = arrays["params/fc/kernel"]
    arrays["params/fc/kernel"] = dataclasses.replace(kernel, sha256=intact.files_sum)
    manifest.write_manifest(saved / "22", 22, arrays)
    assert_equal(resumed(saved, reports), 11)
