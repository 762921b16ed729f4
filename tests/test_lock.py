"""Two runs in one workdir: the second is refused, and what a dead one left is taken over."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from processes import ROOT, start_train

from jaxcnn import cli
from jaxcnn.errors import UserError
from jaxcnn.training.lock import LOCK, OWNER, Owner, WorkdirLock

HOLD = """
import sys, time
from pathlib import Path
from jaxcnn.training.lock import WorkdirLock

with WorkdirLock(Path(sys.argv[1]), beat=0.1):
    print("held", flush=True)
    time.sleep(300)
"""


def hold(workdir: pathlib.Path) -> subprocess.Popen[str]:
    """Starts a process that holds a workdir."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, workdir],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "held\n"
    return process


def left_by(workdir: pathlib.Path, **attributes) -> Owner:
    """Writes what a process that has died leaves."""
    owner = dataclasses.replace(Owner.this_process(), pid=1234567, **attributes)
    workdir.mkdir(exist_ok=True)
    (workdir / OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def content(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_second_run_in_a_workdir_is_refused_and_touches_nothing(train, data_dir, tmp_path):
    flags = ("--config=configs/lenet5.py:digits", f"--workdir={tmp_path / 'run'}")
    process = start_train(*flags, "--config.num_epochs=1000", data_dir=data_dir)
    while not list((tmp_path / "run" / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    try:
        before = content(tmp_path / "run")
        result = train(*flags, "--config.num_epochs=1000")
        assert content(tmp_path / "run") == before
    finally:
        process.kill()
        process.communicate()
    assert result.returncode == 2
    assert re.fullmatch(
        rf"train\.py: The workdir {tmp_path}/run is in use by process {process.pid} on \S+, which "
        r"has trained there since [-\d]+ [:\d]+[-+][:\d]+; stop that one first, or use another "
        r"--workdir\.\n",
        result.stderr,
    )
    # What was killed holds nothing any more; a command that only reads never cared.
    assert (tmp_path / "run" / OWNER).exists()
    assert cli.main(["check", "--workdir", str(tmp_path / "run")]) == 0
    with WorkdirLock(tmp_path / "run", report=pytest.fail):
        pass


def test_lock_of_a_killed_process_on_this_machine_is_taken_over_at_once(tmp_path):
    process = hold(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {process.pid} on "):
        WorkdirLock(tmp_path).__enter__()
    process.kill()
    process.communicate()
    assert Owner.read(tmp_path / OWNER).pid == process.pid
    with WorkdirLock(tmp_path, report=pytest.fail):
        assert Owner.read(tmp_path / OWNER).pid == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_what_a_process_of_another_machine_left_is_taken_over_without_a_sign_of_life(tmp_path):
    owner = left_by(tmp_path, host="node7", boot_id="another")
    reports = []
    with WorkdirLock(tmp_path, beat=0.05, report=reports.append):
        assert Owner.read(tmp_path / OWNER).pid == os.getpid()
    (report,) = reports
    assert str(owner) in report and "waiting 0 seconds for a sign of life" in report


def test_process_of_another_machine_that_lives_is_not_disturbed(tmp_path):
    """As on a disk that does not pass locks on."""
    process = hold(tmp_path)
    try:
        os.unlink(tmp_path / LOCK)
        owner = dataclasses.replace(Owner.read(tmp_path / OWNER), host="node7", boot_id="another")
        (tmp_path / OWNER).write_text(json.dumps(dataclasses.asdict(owner)))
        with pytest.raises(UserError, match=f"in use by process {process.pid} on node7, which has"):
            WorkdirLock(tmp_path, beat=0.5, report=lambda sentence: None).__enter__()
    finally:
        process.kill()
        process.communicate()


def test_process_that_ends_while_another_waits_for_a_sign_of_life_is_followed(tmp_path):
    left_by(tmp_path, boot_id="another")
    timer = threading.Timer(0.1, (tmp_path / OWNER).unlink)
    timer.start()
    with WorkdirLock(tmp_path, beat=0.5, report=lambda sentence: None):
        assert Owner.read(tmp_path / OWNER).pid == os.getpid()


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"pid": 3}'])
def test_damaged_file_of_the_owner_is_replaced(garbage, tmp_path):
    (tmp_path / OWNER).write_text(garbage)
    with WorkdirLock(tmp_path, report=pytest.fail):
        assert Owner.read(tmp_path / OWNER) is not None
        with pytest.raises(UserError, match="in use by process"):  # in this process, too
            WorkdirLock(tmp_path).__enter__()
