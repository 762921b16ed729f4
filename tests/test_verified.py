"""Checkpoints that are damaged, cut off, or cannot be saved: found, named, and never loaded."""

import collections
import contextlib
import dataclasses
import errno
import gc
import hashlib
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from processes import ROOT

from jaxcnn import cli, convert
from jaxcnn.errors import CheckpointError, UserError
from jaxcnn.io.manifest import (
    MANIFEST,
    DamagedError,
    read_manifest,
    summarize,
    verify_arrays,
    write_manifest,
)
from jaxcnn.io.safetensors import verify_safetensors
from jaxcnn.training.checkpoint_folder import METADATA, UNFINISHED, saved_steps, verify
from jaxcnn.training.checkpoints import Checkpoints, newest_variables
from jaxcnn.training.devices import replicate
from jaxcnn.training.metrics import MetricsWriter, read_metrics
from jaxcnn.training.step import TrainState
from jaxcnn.training.workdir import claim_workdir, has_checkpoint


def state(step: int) -> TrainState:
    """Of a small network; every value is its step's own."""
    random = np.random.default_rng(step)
    params = {
        "conv1": {"kernel": random.normal(size=(3, 3, 4, 8)).astype(np.float32)},
        "fc": {"kernel": random.normal(size=(64, 100)).astype(np.float32)},
    }
    return TrainState(
        step=np.int32(step),
        params=params,
        batch_stats={"bn1": {"mean": random.normal(size=8).astype(np.float32)}},
        opt_state=({"trace": jax.tree.map(np.negative, params)}, ()),
        ema={},
    )


def save(directory: pathlib.Path, *steps: int, keep: int = 3) -> None:
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(replicate(state(step)))


def resumed(directory: pathlib.Path, report=lambda sentence: None) -> TrainState | None:
    with Checkpoints(directory, report=report) as checkpoints:
        return checkpoints.restore_newest(state)


def assert_equal(restored: TrainState, step: int) -> None:
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {UNFINISHED}


def arrays_file(folder: pathlib.Path) -> pathlib.Path:
    """Orbax's file with the arrays."""
    files = folder.glob("default/ocdbt.process_0/d/*")
    return max(files, key=lambda path: path.stat().st_size)


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> pathlib.Path:
    """A folder with the checkpoints of steps 11 and 22, of which tests get copies."""
    directory = tmp_path_factory.mktemp("two") / "checkpoints"
    save(directory, 11, 22)
    return directory


@pytest.fixture
def saved(two, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(two, tmp_path / "checkpoints"))


def test_flipped_bit_in_the_arrays_is_not_loaded(saved):
    flip(arrays_file(saved / "22"))
    with pytest.raises(UserError):
        Checkpoints(saved).restore(state(22), 22)


def test_no_damage_to_a_checkpoint_passes(saved):
    """The short form of benchmarks/damage.py."""
    damages = runpy.run_path(str(ROOT / "benchmarks" / "damage.py"))["damages"]
    counts = collections.Counter()
    for kind, what, damage in damages(saved / "22", saved / "11"):
        with damage():
            try:
                assert verify(saved, 22) and False, what
            except DamagedError:
                counts[kind] += 1
    assert verify(saved, 22) is not None
    assert counts.keys() == {"flip", "truncate", "extend", "remove", "swap", "add"}
    assert counts["flip"] > 20 and min(counts.values()) > 2


def empty(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def copy_the_other(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "11", folder)


def take_all_but_the_arrays(folder: pathlib.Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / METADATA).unlink()


def replace_by_a_pipe(path: pathlib.Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_dead_link(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


DAMAGE = {
    "flipped": (lambda f: flip(arrays_file(f)), r"content of default/.*/d/\w+ has changed"),
    "cut": (lambda f: os.truncate(arrays_file(f), 9), r"default/.* has 9 bytes instead of [\d,]+"),
    "lost": (lambda f: arrays_file(f).unlink(), r"default/.*/d/\w+ is missing"),
    "a pipe": (lambda f: replace_by_a_pipe(f / METADATA), f"{METADATA} is not a file"),
    "a dead link": (lambda f: replace_by_a_dead_link(arrays_file(f)), r"/d/\w+ is missing"),
    "another file": (lambda f: (f / "default" / "d" / "x").touch(), "default/d/x does not belong"),
    "another folder": (lambda f: (f / "x").symlink_to(f.parent / "11"), "x does not belong to it"),
    "manifest flipped": (lambda f: flip(f / MANIFEST), f"{MANIFEST} is damaged"),
    "manifest lost": (lambda f: (f / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "manifest of the other": (
        lambda f: shutil.copy(f.parent / "11" / MANIFEST, f),
        f"its {MANIFEST} is that of step 11",
    ),
    "the other": (copy_the_other, f"its {MANIFEST} is that of step 11"),
    "empty": (empty, f"has neither {MANIFEST} nor {METADATA}"),
    "no manifest at all": (take_all_but_the_arrays, f"has neither {MANIFEST} nor {METADATA}"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_used(case, saved):
    damage, reason = DAMAGE[case]
    damage(saved / "22")
    content = sorted(os.listdir(saved / "22"))
    sentences = []
    assert_equal(resumed(saved, sentences.append), 11)
    (sentence,) = sentences
    match = rf"The checkpoint of step 22 in {saved} is damaged: .*{reason}.*\. It was renamed to "
    assert re.fullmatch(match + r"22\.damaged\.", sentence), sentence
    assert {"11", "22.damaged"} <= names(saved) and "22" not in names(saved)
    assert sorted(os.listdir(saved / "22.damaged")) == content  # nothing was deleted
    assert_equal(resumed(saved), 11)  # the second time there is nothing to say


def test_arrays_are_compared_with_what_they_were_in_memory(saved):
    """A bit that flips on its way to the disk is in the file, and so in the file's checksum."""
    arrays = dict(read_manifest(saved / "22").arrays)
    kernel = state(22).params["fc"]["kernel"].copy()
    kernel[3, 5] = np.nextafter(kernel[3, 5], 1)
    arrays["params/fc/kernel"] = summarize(kernel)
    write_manifest(saved / "22", 22, arrays)
    assert verify(saved, 22) is not None
    sentences = []
    assert_equal(resumed(saved, sentences.append), 11)
    assert "the array params/fc/kernel has changed" in sentences[0]
    assert names(saved) == {"11", "22.damaged"}


def test_arrays_that_were_written_so_that_orbax_cannot_decode_them_are_damage(saved):
    """The files are as they were written, to the last bit; the run goes back all the same."""
    arrays = read_manifest(saved / "22").arrays
    file = arrays_file(saved / "22")
    file.write_bytes(bytes(len(file.read_bytes())))
    write_manifest(saved / "22", 22, arrays)
    sentences = []
    assert_equal(resumed(saved, sentences.append), 11)
    assert "Orbax cannot read it" in sentences[0] and len(sentences) == 1


def test_files_of_file_managers_are_no_damage(saved):
    for name in (".DS_Store", "default/Thumbs.db", "default/.nfs00000000"):
        (saved / "22" / name).write_bytes(b"x")
    assert_equal(resumed(saved), 22)


def test_save_that_orbax_skips_is_not_counted_as_saved(saved, monkeypatch):
    """What an earlier save left cannot be removed, and is taken for this one's."""
    shutil.copytree(saved / "22", saved / UNFINISHED / "33", dirs_exist_ok=True)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(UserError, match="step 33 could not be saved.*that of step 22 is kept"):
        save(saved, 33)
    assert saved_steps(saved) == [11, 22]


def test_weights_that_changed_are_not_loaded(tmp_path):
    path = tmp_path / "weights.safetensors"
    convert.save_torch(path, {"params": state(1).params})
    convert.load_checkpoint(path)
    flip(path)
    with pytest.raises(CheckpointError, match="its content is not what was written"):
        convert.load_checkpoint(path)


def test_arrays_are_told_apart_by_name_shape_and_dtype(saved):
    manifest = read_manifest(saved / "22")
    kernel = manifest.arrays["params/fc/kernel"]
    assert (kernel.shape, kernel.dtype) == ((64, 100), "float32")
    arrays = {"a": np.zeros((2, 3), np.float32)}
    expected = dataclasses.replace(manifest, arrays={"a": summarize(arrays["a"])})
    verify_arrays(arrays, expected)
    for wrong in (
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": -arrays["a"]},  # minus zero is equal, but not the same
        {"b": arrays["a"]},
        arrays | {"b": arrays["a"]},
    ):
        with pytest.raises(DamagedError, match="the array [ab] "):
            verify_arrays(wrong, expected)


def test_run_without_an_intact_checkpoint_does_not_start_over(saved):
    for step in (11, 22):
        flip(arrays_file(saved / str(step)))
    with pytest.raises(UserError, match=r"No intact .*: 11\.damaged, 22\.damaged are damaged"):
        resumed(saved)
    workdir = saved.parent
    assert not has_checkpoint(workdir)
    with pytest.raises(UserError, match="No intact checkpoint is left"):  # the next start
        claim_workdir(workdir, {"seed": 1}, ["a"])
    assert sorted(os.listdir(workdir)) == ["checkpoints"]


def test_checkpoint_that_is_damaged_again_gets_another_name(saved):
    for _ in range(2):
        flip(arrays_file(saved / "22"))
        assert_equal(resumed(saved), 11)
        save(saved, 22)
    assert names(saved) == {"11", "22", "22.damaged", "22.damaged-2"}
    assert_equal(resumed(saved), 22)


def test_reader_uses_the_one_before_and_renames_nothing(saved):
    flip(arrays_file(saved / "22"))
    sentences = []
    variables = newest_variables(saved, sentences.append)
    np.testing.assert_array_equal(
        variables["params"]["fc"]["kernel"], state(11).params["fc"]["kernel"]
    )
    assert len(sentences) == 1 and "step 22" in sentences[0] and "has changed" in sentences[0]
    assert names(saved) == {"11", "22"}
    flip(arrays_file(saved / "11"))
    with pytest.raises(UserError, match="No intact checkpoint is left .*: 22, 11 are damaged"):
        newest_variables(saved, sentences.append)


def test_checkpoint_of_another_model_is_refused_and_stays(saved):
    def wider(step: int) -> TrainState:
        params = {"conv1": {"kernel": np.zeros((3, 3, 4, 9), np.float32)}}
        return dataclasses.replace(state(step), params=params)

    with Checkpoints(saved) as checkpoints, pytest.raises(UserError, match="different model"):
        checkpoints.restore_newest(wider)
    assert names(saved) == {"11", "22"}


def test_orbax_reads_what_is_saved_and_ignores_what_was_set_aside(saved):
    flip(arrays_file(saved / "22"))
    assert_equal(resumed(saved), 11)
    (saved / UNFINISHED / "33").mkdir(parents=True)
    with ocp.CheckpointManager(saved) as manager:
        assert list(manager.all_steps()) == [11]
        restored = manager.restore(11)
    kernel = state(11).params["fc"]["kernel"]
    np.testing.assert_array_equal(restored["params"]["fc"]["kernel"], kernel)


@pytest.fixture
def old(tmp_path) -> pathlib.Path:
    """As earlier versions saved, without a manifest."""
    directory = tmp_path / "checkpoints"
    tree = {name: value for name, value in vars(state(11)).items() if name != "ema"}
    with ocp.CheckpointManager(directory) as manager:
        manager.save(11, args=ocp.args.StandardSave(tree))
    return directory


def test_checkpoint_of_an_earlier_version_is_read_with_a_warning(old):
    sentences = []
    assert_equal(resumed(old, sentences.append), 11)
    (sentence,) = sentences
    assert "step 11" in sentence and "cannot be verified" in sentence
    save(old, 22)
    assert_equal(resumed(old), 22)


def test_damaged_checkpoint_of_an_earlier_version_is_an_error(old):
    arrays_file(old / "11").unlink()
    with pytest.raises(UserError, match="different model or optimizer, or is damaged"):
        resumed(old)
    (old / "11" / METADATA).write_text("{")
    with pytest.raises(UserError, match="No intact checkpoint is left"):
        resumed(old)


# Saves that fail.


@pytest.fixture
def disk(tmp_path) -> Iterator[pathlib.Path]:
    """A small disk, with a checkpoint of step 11 on it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a tmpfs")
    try:
        save(folder / "checkpoints", 11)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: pathlib.Path, pages: int = 5) -> pathlib.Path:
    """Leave hardly any room."""
    status = os.statvfs(disk)
    (disk / "other").write_bytes(bytes((status.f_bavail - pages) * status.f_frsize))
    return disk / "other"


@pytest.mark.parametrize("noticed", ["wait", "check", "save", "close"])
def test_save_on_a_full_disk_is_an_error_and_not_a_checkpoint(noticed, disk, capfd):
    """Orbax's latest_step() names it, and saving that step again is skipped."""
    other = fill(disk)
    checkpoints = Checkpoints(disk / "checkpoints")
    checkpoints.save(replicate(state(22)))
    notice = {
        "wait": checkpoints.wait,
        "check": lambda: checkpoints._saving[1].exception() and checkpoints.check(),
        "save": lambda: checkpoints.save(replicate(state(33))),
        "close": checkpoints.close,
    }[noticed]
    words = r"step 22 could not be saved .*\(No space left on device\); that of step 11 is kept\."
    with pytest.raises(UserError, match=words + " Make room on the disk"):
        notice()
    assert checkpoints.latest_step == 11 and names(disk / "checkpoints") == {"11"}
    gc.collect()  # which makes asyncio speak of errors that nobody asked for
    assert_equal(resumed(disk / "checkpoints"), 11)
    if noticed == "close":
        checkpoints = Checkpoints(disk / "checkpoints")
    other.unlink()
    checkpoints.save(replicate(state(22)))
    checkpoints.close()
    assert_equal(resumed(disk / "checkpoints"), 22)
    assert capfd.readouterr() == ("", "")  # no traceback from the background


def test_save_on_a_read_only_disk_is_an_error(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    words = r"step 22 could not be saved .*\(Read-only file system\).* Make the folder writable"
    with pytest.raises(UserError, match=words):
        save(disk / "checkpoints", 22)
    assert_equal(resumed(disk / "checkpoints"), 11)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    flip(arrays_file(disk / "checkpoints" / "11"))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"is damaged, and cannot be renamed .*\(Read-only"):
        resumed(disk / "checkpoints")


def test_lost_mount_is_an_error(disk):
    with Checkpoints(disk / "checkpoints") as checkpoints:
        subprocess.run(["umount", "-l", disk], check=True)
        checkpoints.save(replicate(state(22)))
        with pytest.raises(UserError, match=r"step 22 could not be saved .*\(No such file"):
            checkpoints.wait()
    assert os.listdir(disk) == []
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)  # for the fixture


def test_workdir_that_cannot_be_written_is_an_error(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"cannot be used \(Read-only file system\)"):
        claim_workdir(disk / "run", {"seed": 1}, ["a"])
    with pytest.raises(UserError, match=r"other cannot be made \(Read-only file system\)"):
        Checkpoints(disk / "other")


def test_full_disk_is_an_error_of_the_metrics_too(disk):
    with contextlib.closing(MetricsWriter(disk)) as writer:
        writer.write(1, 1, "train", loss=1.0)
        other = fill(disk, pages=0)
        with pytest.raises(UserError, match=rf"{disk} cannot be written \(No space left on device"):
            for step in range(2, 100):
                writer.write(step, step, "train", loss=1.0)
    other.unlink()
    assert read_metrics(disk / "metrics.jsonl")
    with contextlib.closing(MetricsWriter(disk, start_step=1)) as writer:
        writer.write(2, 2, "train", loss=1.0)
    assert [line["step"] for line in read_metrics(disk / "metrics.jsonl")] == [1, 2]


def test_failed_save_does_not_hide_another_error(saved):
    (saved / UNFINISHED).write_bytes(b"")  # where a folder must be
    sentences = []
    with pytest.raises(UserError, match="the loss became NaN"):
        with Checkpoints(saved, report=sentences.append) as checkpoints:
            checkpoints.save(replicate(state(33)))
            raise UserError("the loss became NaN")
    assert len(sentences) == 1 and "step 33 could not be saved" in sentences[0]
    assert os.strerror(errno.EEXIST) in sentences[0]


# A kill at any moment.


def test_kill_at_any_moment_leaves_whole_checkpoints(saved, tmp_path):
    """The folder is copied at each operation on files by a save that also deletes the oldest."""
    copies: list[pathlib.Path] = []
    watched = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"}
    watching = True

    def copy(event: str, args: tuple) -> None:
        nonlocal watching
        if watching and event in watched and str(saved) in str(args[0]):
            watching = False
            copies.append(tmp_path / f"copy{len(copies)}")
            # A file may be gone before it is copied: TensorStore's threads go on.
            subprocess.run(["cp", "-r", saved, copies[-1]], capture_output=True, check=False)
            watching = True

    sys.addaudithook(copy)
    try:
        save(saved, 33, keep=2)
    finally:
        watching = False
    assert saved_steps(saved) == [22, 33]
    found = [saved_steps(folder) for folder in copies]
    assert [11, 22] in found and [22, 33] in found and [11, 22, 33] in found
    assert len(found) > 30
    for folder, steps in zip(copies, found, strict=True):
        assert steps in ([11, 22], [11, 22, 33], [22, 33])
        for step in steps:
            assert verify(folder, step) is not None
    cut_off = copies[found.index([11, 22, 33]) - 1]
    sentences = []
    assert_equal(resumed(cut_off, sentences.append), 22)
    assert sentences == [f"The save of step 33 in {cut_off} was cut off; it is not used."]
    save(cut_off, 33)
    assert_equal(resumed(cut_off, sentences.append), 33)
    assert len(sentences) == 1


def test_last_checkpoints_are_kept_and_deleting_leaves_no_half_of_one(tmp_path):
    directory = tmp_path / "checkpoints"
    save(directory, 1, 2, 3, 4, keep=2)
    assert sorted(os.listdir(directory)) == ["3", "4"]
    (directory / UNFINISHED / "deleted-2" / "default").mkdir(parents=True)  # killed meanwhile
    sentences = []
    assert_equal(resumed(directory, sentences.append), 4)
    assert sentences == []


def by_list(*steps: int):
    """Ranks steps in this order."""
    return lambda saved: [step for step in steps if step in saved]


def test_best_checkpoint_is_kept_beside_the_last_ones(tmp_path):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(replicate(state(step)))
            checkpoints.best = 1
        checkpoints.wait()
        assert names(directory) == {"1", "3", "4"}
        checkpoints.best = 3
        checkpoints.save(replicate(state(5)))
        checkpoints.wait()
        assert names(directory) == {"3", "4", "5"}  # the best was saved after it was overtaken
        checkpoints.best = 4
        checkpoints.save(replicate(state(6)))
    with Checkpoints(directory, keep=1) as checkpoints:  # another process
        checkpoints.find_best(by_list(3, 4, 6))
        assert checkpoints.best == 4
        variables = checkpoints.read_best(by_list(4, 6), ema=False)
    jax.tree.map(np.testing.assert_array_equal, variables, state(4).variables)
    assert names(directory) == {"4", "6"}


@pytest.mark.parametrize("found", ["when the run resumes", "when it ends"])
def test_damaged_best_checkpoint_is_set_aside_and_the_next_best_is_kept(found, saved):
    save(saved, 33)
    flip(arrays_file(saved / "11"))
    sentences = []
    with Checkpoints(saved, keep=1, report=sentences.append) as checkpoints:
        if found == "when the run resumes":
            checkpoints.find_best(by_list(11, 22, 33))
        variables = checkpoints.read_best(by_list(11, 22, 33), ema=False)
    assert checkpoints.best == 22
    jax.tree.map(np.testing.assert_array_equal, variables, state(22).variables)
    assert names(saved) == {"11.damaged", "22", "33"}
    assert len(sentences) == 1 and "step 11" in sentences[0] and "11.damaged" in sentences[0]


# jaxcnn check --workdir


def check(workdir: pathlib.Path, capsys) -> tuple[int, list[list[str]], str]:
    """The exit status, the lines of the report by their columns, and what is on stderr."""
    status = cli.main(["check", "--workdir", str(workdir)])
    out, err = capsys.readouterr()
    rows = [
        line.replace(" files", "").replace(" bytes", "").split(None, 4) for line in out.splitlines()
    ]
    return status, rows, err


def test_check_names_each_checkpoint_and_what_is_damaged(saved, capsys):
    workdir = saved.parent
    files = [path for path in (saved / "22").rglob("*") if path.is_file()]
    size = f"{sum(path.stat().st_size for path in files):,}"
    convert.save_torch(workdir / "weights.safetensors", state(22).variables)
    status, rows, err = check(workdir, capsys)
    assert (status, err) == (0, "")
    assert rows[1] == ["step", "22", str(len(files)), size, "ok"]
    assert [row[-1] for row in rows] == ["ok"] * 3

    flip(arrays_file(saved / "11"))
    for name in ("weights.safetensors", "best.safetensors"):
        convert.save_torch(workdir / name, state(22).variables)
        flip(workdir / name)
    status, rows, err = check(workdir, capsys)
    assert status == 1
    assert "DAMAGED: the content of default/" in rows[0][-1] and rows[1][-1] == "ok"
    damaged = "step 11, weights.safetensors, best.safetensors"
    assert err == f"jaxcnn: damaged in {workdir}: {damaged}.\n"

    (saved / "11").rename(saved / "11.damaged")
    for name in ("weights.safetensors", "best.safetensors"):
        (workdir / name).unlink()
    status, rows, err = check(workdir, capsys)
    assert (status, err, len(rows)) == (0, "", 2)
    shutil.rmtree(saved / "22")
    status, rows, err = check(workdir, capsys)
    assert status == 1 and "all checkpoints" in err
    shutil.rmtree(saved / "11.damaged")
    assert cli.main(["check", "--workdir", str(workdir)]) == 2
    assert cli.main(["check", "--workdir", str(workdir / "x")]) == 2


def test_check_says_what_it_cannot_verify(old, capsys):
    status, rows, _ = check(old.parent, capsys)
    assert status == 0 and "not verified" in rows[0][-1]


def test_check_of_a_run_needs_neither_jax_nor_tensorflow(saved):
    code = """
import sys
from jaxcnn import cli

status = cli.main(["check", "--workdir", sys.argv[1]])
assert not {"jax", "flax", "orbax", "tensorflow"} & set(sys.modules)
sys.exit(status)
"""
    command = [sys.executable, "-c", code, saved.parent]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")


def test_weights_have_a_checksum_that_other_programs_ignore(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "weights.safetensors"
    convert.save_torch(path, state(22).variables)
    assert verify_safetensors(path)
    np.testing.assert_array_equal(
        safetensors.load_file(path)["conv1.weight"],
        convert.load_checkpoint(path)["conv1.weight"],
    )
    flip(path)
    with pytest.raises(CheckpointError, match="is damaged: its content is not what was written"):
        verify_safetensors(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        verify_safetensors(path)
    safetensors.save_file({"a": np.zeros(2)}, path)
    assert not verify_safetensors(path)


def test_manifest_of_a_newer_version_is_not_damage(saved):
    manifest = saved / "22" / MANIFEST
    entries = json.loads(manifest.read_bytes()) | {"format": 2}
    del entries["sha256"]
    entries["sha256"] = hashlib.sha256(as_json(entries)).hexdigest()
    manifest.write_bytes(as_json(entries))
    with pytest.raises(UserError, match="from a newer version of jaxcnn"):
        resumed(saved)
    assert names(saved) == {"11", "22"}


def as_json(entries: dict) -> bytes:
    return (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode()


def test_manifest_is_json_for_other_programs(saved):
    entries = json.loads((saved / "22" / MANIFEST).read_bytes())
    assert entries["step"] == 22 and METADATA in entries["files"]
