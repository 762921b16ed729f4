"""The scripts in launch/, with programs of the clusters that stand in for the real ones."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from processes import DEVICES, ROOT, free_port

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs bash")

# Starts two tasks on this machine as srun does, and ends as the worse of them.
SRUN = """#!{python}
import os, signal, subprocess, sys

job = {{
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
}}
command = [{python!r}, *sys.argv[sys.argv.index("python") + 1:]]
tasks = [
    subprocess.Popen(command, env=os.environ | job | {{"SLURM_PROCID": n, "SLURM_LOCALID": n}})
    for n in "01"
]
for name in ("SIGUSR1", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda number, _: [t.send_signal(number) for t in tasks])
open(os.environ["STARTED"], "w").write(str(os.getpid()))
statuses = [task.wait() for task in tasks]
sys.exit(max(status if status >= 0 else 128 - status for status in statuses))
"""


def program(folder: pathlib.Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def start(script: str, *flags: str, folder: pathlib.Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", ROOT / "launch" / script, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"} | environ,
    )


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, 0, False),
        (2, 0, False),
        (143, 0, True),
        (138, 7, True),
        (134, 0, True),
        (143, 100, False),
    ],
)
def test_slurm_requeues_what_was_preempted_and_nothing_else(status, restarts, requeued, tmp_path):
    program(tmp_path, "srun", f'#!/bin/bash\necho "$@" > {tmp_path}/srun\nexit {status}\n')
    program(tmp_path, "scontrol", f'#!/bin/bash\necho "$@" > {tmp_path}/scontrol\n')
    flags = ("--config", "configs/resnet50.py", "--workdir", "/shared/my run")
    slurm = {"SLURM_JOB_ID": "123", "SLURM_RESTART_COUNT": str(restarts)}
    process = start("slurm.sh", *flags, folder=tmp_path, **slurm)
    process.communicate(timeout=60)
    assert process.returncode == status
    srun = (tmp_path / "srun").read_text().strip()
    assert srun == f"--kill-on-bad-exit=1 python train.py {' '.join(flags)}"
    assert (tmp_path / "scontrol").exists() == requeued
    if requeued:
        assert (tmp_path / "scontrol").read_text() == "requeue 123\n"


def test_slurm_signals_the_tasks_in_time(tmp_path):
    """Without B: before the signal, which would be for the shell."""
    text = (ROOT / "launch" / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.M))
    assert re.fullmatch(r"USR1@\d+", options["signal"]) and "requeue" in options
    assert options["ntasks-per-node"] == "1" and options["open-mode"] == "append"


@pytest.mark.slow
def test_slurm_job_is_stopped_requeued_and_resumes(data_dir, tmp_path):
    program(tmp_path, "srun", SRUN.format(python=sys.executable))
    program(tmp_path, "scontrol", f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol\n')
    workdir = tmp_path / "run"
    flags = ("--config", "configs/lenet5.py:digits", "--config.train_split=train[:256]")
    flags += ("--config.num_epochs=40", "--config.log_every_steps=4")
    flags += (f"--workdir={workdir}", f"--data_dir={data_dir}")

    def job(count: int) -> subprocess.Popen[str]:
        environ = {
            "SLURM_JOB_ID": str(free_port()),  # jax derives the coordinator's port from it
            "SLURM_RESTART_COUNT": str(count),
            "STARTED": str(tmp_path / f"started{count}"),
            "XLA_FLAGS": f"{DEVICES}=2",
        }
        return start("slurm.sh", *flags, folder=tmp_path, **environ)

    process = job(0)
    while not list((workdir / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # of a preempted job; the shell goes on
    os.kill(int((tmp_path / "started0").read_text()), signal.SIGUSR1)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 138, stderr
    assert "Stopped by SIGUSR1; resume with" in stderr
    assert "start 1 follows" in stdout
    assert re.fullmatch(r"requeue \d+\n", (tmp_path / "scontrol").read_text())
    process = job(1)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert re.search(r"Resuming from step \d+ of 160\.", stdout)
    assert stdout.endswith("Trained.\n") and (workdir / "weights.safetensors").exists()
    assert (tmp_path / "scontrol").read_text().count("requeue") == 1


def test_jobset_starts_processes_that_find_each_other():
    yaml = pytest.importorskip("yaml")
    jobset = yaml.safe_load((ROOT / "launch" / "gpu-jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec, name = jobset["spec"], jobset["metadata"]["name"]
    assert spec["network"] == {"enableDNSHostnames": True}
    assert spec["failurePolicy"]["maxRestarts"] > 1
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == 1 and job["backoffLimit"] == 0
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"]
    (failure,) = job["podFailurePolicy"]["rules"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert failure["action"] == "FailJob" and failure["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [2],
    }
    assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 60
    assert container["command"] == ["bash", "-c"]
    (command,) = container["args"]
    words = command.split()
    assert words[:3] == ["exec", "python", "train.py"]
    assert f"--num_processes={job['completions']}" in words
    assert "--process_id=$JOB_COMPLETION_INDEX" in words
    (port,) = container["ports"]
    address = f"{name}-{replicated['name']}-0-0.{name}:{port['containerPort']}"
    assert f"--coordinator_address={address}" in words
    assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1


# A queued resource that is preempted in the first training.
GCLOUD = """#!/bin/bash
cd {folder}
echo "$@" >> log
case "$*" in
*"queued-resources describe"*) cat state 2>/dev/null ;;
*"queued-resources create"*) echo ACTIVE > state ;;
*"queued-resources delete"*) rm -f state ;;
*train.py\\ --config*)
    if [[ ! -e preempted ]]; then
        touch preempted
        echo SUSPENDED > state
        echo status=143
        exit 255
    fi
    echo status={last}
    echo status=0
    ;;
esac
"""


@pytest.mark.parametrize("last", [0, 2])
def test_tpu_pod_is_made_again_after_preemption(last, tmp_path):
    program(tmp_path, "gcloud", GCLOUD.format(folder=tmp_path, last=last))
    environ = {"PROJECT": "p", "ZONE": "z", "TYPE": "v4-32", "PAUSE": "0.01", "SOURCE": "URL"}
    flags = ("--config", "configs/resnet50.py", "--workdir", "gs://bucket/my run")
    process = start("tpu-pod.sh", *flags, folder=tmp_path, **environ)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == last, stderr
    log = (tmp_path / "log").read_text()
    steps = re.findall(r"queued-resources (create|delete)|(train\.py --config)", log)
    expected = ["create", "train", "delete", "create", "train"]
    assert [one or "train" for one, _ in steps] == expected + ["delete"] * (last == 0)
    assert "--accelerator-type=v4-32 --runtime-version=tpu-ubuntu2204-base --spot" in log
    assert r"--workdir gs://bucket/my\ run" in log


def test_scripts_are_valid_shell():
    for script in (ROOT / "launch").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
        assert os.access(script, os.X_OK)
