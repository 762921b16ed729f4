"""Damaged and hostile files: they are refused in one sentence, and nothing in them runs."""

import pathlib
import pickle
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from attacks import (
    WORDS,
    Reduce,
    attacks,
    expected_words,
    state_with,
    zip_bomb,
    zip_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import ROOT
from torch_writers import WRITERS

from jaxcnn import convert
from jaxcnn.convert import CheckpointError

NAMES = sorted(attacks(""))


@pytest.fixture(scope="module")
def canary(tmp_path_factory) -> pathlib.Path:
    """The file that an attack creates if it runs."""
    return tmp_path_factory.mktemp("attacks") / "canary"


@pytest.fixture(scope="module")
def files(canary) -> dict[str, bytes]:
    return attacks(str(canary))


@pytest.mark.parametrize("name", NAMES)
def test_attacks_raise_and_run_nothing(name, files, canary, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(files[name])
    with pytest.raises(CheckpointError, match=expected_words(name)) as error:
        convert.load_checkpoint(path)
    assert not canary.exists()
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000 + len(str(path))


def test_each_attack_that_has_words_exists():
    names = {name.removesuffix(", zip") for name in NAMES}
    assert {name for of_words in WORDS.values() for name in of_words} <= names


def test_error_names_the_refused_function(tmp_path):
    (tmp_path / "file").write_bytes(zip_of(pickle.dumps(Reduce(eval, ("1",)), 2)))
    with pytest.raises(CheckpointError, match="asks for '__builtin__.eval'"):
        convert.load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize(
    "sizes",
    [
        (4, 0, (5,), (1,)),
        (4, 1, (4,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (2,), (2**61,)),
        (4, -1, (2,), (1,)),
        (4, 3, (4,), (-1,)),
        (4, 0, (-2,), (1,)),
        (4, 0, (2**40, 2**40), (0, 0)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (1,) * 40, (1,) * 40),
        (5, 0, (4,), (1,)),
        (2**62, 0, (4,), (1,)),
        (4, 0.5, (4,), (1,)),
        (4, 0, "ab", "cd"),
        (4, 0, (True,), (1,)),
    ],
    ids=str,
)
def test_tensors_outside_their_storage_raise(sizes, tmp_path):
    (tmp_path / "file").write_bytes(zip_of(state_with(*sizes), **{"data/0": bytes(16)}))
    with pytest.raises(CheckpointError, match="is damaged"):
        convert.load_checkpoint(tmp_path / "file")


def test_tensor_within_its_storage_loads(tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    (tmp_path / "file").write_bytes(zip_of(state_with(4, 1, (3,), (1,)), **{"data/0": data}))
    assert convert.load_checkpoint(tmp_path / "file")["a"].tolist() == [1, 2, 3]


def test_zip_bomb_raises(tmp_path):
    (tmp_path / "file").write_bytes(zip_bomb(state_with(2**26, 0, (2**26,), (1,)), 2**28))
    with pytest.raises(CheckpointError, match="compressed"):
        convert.load_checkpoint(tmp_path / "file")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of torch.jit
def test_torchscript_raises(tmp_path):
    scripted = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    scripted.save(str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        convert.load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_pickled_module_raises(writer, tmp_path):
    WRITERS[writer](torch.nn.Linear(2, 2), tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear|whole module"):
        convert.load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04", b"\x80\x02", bytes(600)])
def test_other_file_contents_raise(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointError, match=str(tmp_path / "file")):
        convert.load_checkpoint(tmp_path / "file")


def test_missing_file_raises(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.pth cannot be opened"):
        convert.load_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_raises(writer, part, tmp_path):
    path = tmp_path / "file"
    WRITERS[writer](torchvision.models.resnet18().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=str(path)):
        convert.load_checkpoint(path)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_pickle_raise_checkpoint_error_only(tmp_path_factory, pickled):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(zip_of(pickled))
    with pytest.raises(CheckpointError):
        convert.load_checkpoint(path)


# --- fuzzing, in short: see benchmarks/fuzz.py


@pytest.mark.parametrize(
    ("mutations", "seed"),
    [(300, 0), pytest.param(20_000, 1, marks=pytest.mark.slow)],
)
def test_changed_files_do_no_harm(mutations, seed, tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", f"--crashes={tmp_path}"]
    command += [f"--mutations={mutations}", f"--seed={seed}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []


def opens_another_file(path: str) -> dict:
    open("/dev/null").close()
    return {}


def runs_code(path: str) -> dict:
    exec("1")
    return {}


def takes_memory(path: str) -> dict:
    return {"a": np.zeros(2**21, np.uint8)}


def raises_another_error(path: str) -> dict:
    raise KeyError("a")


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (opens_another_file, "it did open"),
        (runs_code, "it did (compile|exec)"),
        (takes_memory, "bytes of memory for a file of 4"),
        (raises_another_error, "KeyError: 'a'"),
    ],
)
def test_fuzzer_notices_harm(load, words, tmp_path):
    script = runpy.run_path(str(ROOT / "benchmarks" / "fuzz.py"))
    reader = script["Reader"](load, tmp_path / "file")
    with pytest.raises(script["Violation"], match=words):
        reader.read(b"file")
