"""Signals at every stage of a run: real ones, to real processes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from processes import ROOT, free_port, start_train

from jaxcnn.training import evaluation, outputs
from jaxcnn.training.build import build
from jaxcnn.training.checkpoint_folder import UNFINISHED, saved_steps, verify
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.loop import train_and_evaluate
from jaxcnn.training.metrics import read_metrics
from jaxcnn.training.signals import SIGNALS, Stopped, StopSignals

QUICK = ("--config=configs/lenet5.py:digits", "--config.num_epochs=2")


def small_run(data_dir: str, **settings):
    """A run of LeNet-5 over two epochs of two steps."""
    small = {"train_split": "train[:128]", "eval__split": "test[:20]", "num_epochs": 2}
    return build(resolve(open_config("lenet5", "digits", **small | settings)), data_dir)


def evaluated_steps(workdir: pathlib.Path) -> list[int]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [line["step"] for line in lines if line["split"] == "eval"]


def start_driver(program: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """Starts a Python program beside train.py."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""} | environ,
        cwd=ROOT,
    )


def raising(number: int, function):
    """The same function, before which the process gets a signal."""

    def call(*args, **kwargs):
        signal.raise_signal(number)
        return function(*args, **kwargs)

    return call


@pytest.mark.slow
def test_signal_during_an_evaluation_stops_it_with_the_state_saved(data_dir, tmp_path, monkeypatch):
    number = signal.SIGUSR1
    run = small_run(data_dir, eval__batch_size=4, checkpoint__every_epochs=2)
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(evaluation, "unreplicate", raising(number, evaluation.unreplicate))
        train_and_evaluate(run, tmp_path)
    assert stopped.value.signal_number == number
    # After the first epoch, where no checkpoint is due.
    assert saved_steps(tmp_path / "checkpoints") == [2]
    assert evaluated_steps(tmp_path) == []
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    train_and_evaluate(run, tmp_path)
    assert evaluated_steps(tmp_path) == [2, 4]


def test_signal_at_the_end_of_a_run_stops_it_and_the_next_start_finishes(
    data_dir, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(outputs, "save_torch", raising(signal.SIGTERM, outputs.save_torch))
        train_and_evaluate(small_run(data_dir), tmp_path)
    assert (tmp_path / "weights.safetensors").is_file()
    before = (tmp_path / "metrics.jsonl").read_text()
    train_and_evaluate(small_run(data_dir), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before


SAVES_SLOWLY = """
import pathlib, runpy, sys, time
from jaxcnn.training import checkpoints, signals

signals.exit_on_signals()
write_manifest = checkpoints.write_manifest
saving = pathlib.Path(sys.argv[1])

def slow(folder, step, arrays):
    if step > 22:
        saving.touch()
        time.sleep(300)
    write_manifest(folder, step, arrays)

checkpoints.write_manifest = slow
sys.argv[:2] = ["train.py"]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_second_ctrl_c_during_a_save_leaves_the_last_checkpoint(data_dir, tmp_path):
    workdir, saving = tmp_path / "run", tmp_path / "saving"
    flags = (*QUICK, "--config.num_epochs=50", f"--data_dir={data_dir}", f"--workdir={workdir}")
    process = start_driver(SAVES_SLOWLY, saving, *flags)
    while not saving.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "Interrupted.\n")
    checkpoints = workdir / "checkpoints"
    assert saved_steps(checkpoints) == [22] and verify(checkpoints, 22) is not None
    assert [path.name for path in (checkpoints / UNFINISHED).iterdir()] == ["44"]


@pytest.mark.slow
def test_sigterm_during_the_compilation_ends_the_process_at_once(data_dir, tmp_path):
    # Whose parts are compiled one by one.
    flags = (*QUICK, "--config.accumulate_steps=64", "--nocompilation_cache")
    process = start_train(*flags, f"--workdir={tmp_path / 'run'}", data_dir=data_dir)
    for line in process.stdout:
        if line.endswith(" parameters\n"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (143, "Interrupted by SIGTERM.\n")
    assert "epoch 1" not in stdout


@pytest.mark.slow
def test_signal_to_one_process_stops_all_after_the_same_step(data_dir, tmp_path):
    address = f"--coordinator_address=localhost:{free_port()}"
    flags = (*QUICK, "--config.num_epochs=500", "--num_processes=2", address)
    processes = [
        start_train(
            *flags, f"--process_id={number}", f"--workdir={tmp_path / 'run'}", data_dir=data_dir
        )
        for number in range(2)
    ]
    checkpoints = tmp_path / "run" / "checkpoints"
    while not saved_steps(checkpoints):
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGUSR1)
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 138, stderr
        assert stderr == f"Stopped by SIGUSR1; resume with --workdir {tmp_path / 'run'}.\n"
    assert verify(checkpoints, saved_steps(checkpoints)[-1]) is not None


PREEMPTED = """
import os, signal, sys
import jax
from pathlib import Path

jax.distributed.initialize(sys.argv[1], num_processes=1, process_id=0)
os.kill(os.getpid(), signal.SIGTERM)  # which JAX takes for itself

from jaxcnn.training.build import build
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.loop import train_and_evaluate
from jaxcnn.training.signals import Stopped

try:
    run = resolve(open_config("lenet5", "digits", num_epochs=500))
    train_and_evaluate(build(run, sys.argv[2]), Path(sys.argv[3]))
except Stopped as stopped:
    print("stopped by", stopped)
"""


@pytest.mark.slow
def test_notice_of_jaxs_preemption_service_stops_the_run(data_dir, tmp_path):
    process = start_driver(PREEMPTED, f"localhost:{free_port()}", data_dir, tmp_path)
    stdout, stderr = process.communicate(timeout=120)
    assert stdout.endswith("stopped by SIGTERM\n"), stderr
    (*_, step) = saved_steps(tmp_path / "checkpoints")
    assert verify(tmp_path / "checkpoints", step) is not None


@pytest.mark.parametrize("second", SIGNALS)
def test_second_signal_ends_a_process_whose_main_thread_is_busy(second):
    """Within one call of C, as in a compilation, Python runs no handler."""
    program = (
        "import hashlib\n"
        "from jaxcnn.training.signals import StopSignals\n"
        "signals = StopSignals()\n"
        "signals.install()\n"
        "print('ready', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)\n"
    )
    process = start_driver(program)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(second)
    process.communicate(timeout=60)
    assert process.returncode == 128 + second


def test_first_signal_is_noted_and_one_that_is_passed_on_is_not_a_second():
    signals = StopSignals()
    signals.install()
    try:
        assert signals.received is None
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
    finally:
        signals.restore()
