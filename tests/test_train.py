"""``python train.py`` as users run it: real processes, files and signals."""

import io
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import torchvision
from browser import open_page
from photos import Photos, jpeg, photo
from PIL import Image
from processes import ROOT, documented_commands, free_port, run_documented, start_train
from tensorboardX.proto import event_pb2

from jaxcnn import convert
from jaxcnn.models.published import PUBLISHED
from jaxcnn.training.evaluation import load_evaluation
from jaxcnn.training.metrics import read_metrics

QUICK = ("--config=configs/lenet5.py:digits", "--config.num_epochs=2")


def final_params(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())


def lines(workdir: pathlib.Path, split: str) -> list[dict]:
    return [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == split]


def wait_for_checkpoint(workdir: pathlib.Path, process) -> None:
    """Until the first complete checkpoint exists and training continues."""
    while not any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def training(train, tmp_path_factory) -> tuple[pathlib.Path, str]:
    """The workdir of a finished run, and what it wrote to stdout."""
    workdir = tmp_path_factory.mktemp("trained")
    result = train(*QUICK, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return workdir, result.stdout


@pytest.fixture(scope="module")
def trained(training) -> pathlib.Path:
    return training[0]


def test_workdir_contains_what_the_docs_say(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        *("config.json", "classes.json", "metrics.jsonl", "tensorboard", "checkpoints"),
        *("evaluation.npz", "curves.png", "confusion.png", "mistakes.png", "weights.safetensors"),
        "run.lock",
    }
    assert json.loads((trained / "classes.json").read_text()) == list("0123456789")
    config = json.loads((trained / "config.json").read_text())
    assert (config["model"], config["dataset"], config["num_epochs"]) == ("lenet5", "digits", 2)
    assert list((trained / "tensorboard").iterdir())


def test_metrics_have_their_keys_and_every_eval_example_is_scored(trained):
    train, evaluation = lines(trained, "train"), lines(trained, "eval")
    for line in train:
        assert line.keys() >= {"step", "epoch", "loss", "top1", "top5", "learning_rate"}
        assert 0 <= line["top1"] <= line["top5"] <= 1
        assert line["skipped"] == 0
    for line in train[1:]:
        assert line["images_per_second"] > 0
        assert 0 <= line["input_wait"] < 1
    assert [line["epoch"] for line in evaluation] == [1, 2]
    assert [(line["examples"], line["skipped"]) for line in evaluation] == [(359, 0)] * 2
    assert evaluation[-1]["step"] == 2 * (1438 // 64)


def test_plain_lines_show_progress(training):
    _, stdout = training
    assert re.search(
        r"^epoch 2/2  step 44/44  loss [\d.]+  top-1 [\d.]+%  [\d,]+ images/s  0:00:00 left$",
        stdout,
        re.MULTILINE,
    )
    assert "\r" not in stdout  # no bar where there is no terminal


def test_finished_run_is_left_unchanged(train, trained):
    before = (trained / "metrics.jsonl").read_text()
    result = train(*QUICK, f"--workdir={trained}")
    assert result.returncode == 0, result.stderr
    assert (trained / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_pictures_that_cannot_be_written_do_not_fail_a_run(train, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "curves.png").unlink()
    (tmp_path / "run" / "curves.png").mkdir()
    result = train(*QUICK, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1
    assert f"{tmp_path / 'run'} has no new pictures (Is a directory)." in result.stderr


def test_tensorboard_has_images(trained):
    images = {}
    for path in (trained / "tensorboard").iterdir():
        for event in events(path.read_bytes()):
            for value in event.summary.value:
                if value.HasField("image"):
                    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
                        images[value.tag, event.step] = image.size
    # two rows of eight images of 32 pixels, tripled; six filters of 5, tenfold, in three columns
    inputs, filters = (8 * 98 + 2, 2 * 98 + 2), (3 * 52 + 2, 2 * 52 + 2)
    expected = {("inputs", 0): inputs, **{("filters", step): filters for step in (0, 22, 44)}}
    assert images == expected


def events(content: bytes):
    """The events of a TensorBoard file: each between its length and checksums."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield event_pb2.Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


@pytest.fixture(scope="module")
def documented_files(trained, cache, tmp_path_factory) -> pathlib.Path:
    """A folder with what the commands of the README name."""
    folder = tmp_path_factory.mktemp("documented")
    for name in ("runs/a", "runs/b", "RUN"):
        shutil.copytree(trained, folder / name)
    (folder / "IMAGE").write_bytes(jpeg(photo(0, 240, 320)))
    (published,) = (known for known in PUBLISHED if known.model == "shufflenet_v2_x0_5")
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), folder / "FILE")
    shutil.copy(folder / "FILE", cache / published.file)
    return folder


def run_line(line: str, folder: pathlib.Path) -> str:
    """Runs a documented command that may import matplotlib, and returns what it prints."""
    values = {
        "NAME": "shufflenet_v2_x0_5",
        "SRC": "FILE",
        "DST": "weights.safetensors",
        "onnx": "stablehlo",  # needs no extra; see test_export.py
        "OWNER/NAME": "OWNER/NAME --out pushed",  # without network; see test_hub.py
        "resnet50": " ".join(("lenet5:digits", *QUICK[1:])),  # in runs/a, where it is trained
    }
    result = run_documented(line, values, folder, {}, heavy=("tensorflow", "torch"))
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("line", documented_commands("README.md"))
def test_commands_of_the_readme_run(line, documented_files):
    assert run_line(line, documented_files)


@pytest.mark.slow
def test_report_on_a_trained_run_opens_in_a_browser(documented_files, tmp_path):
    commands = documented_commands("docs/training.md")
    others = documented_commands("docs/training.md", "prepare")  # see test_prepare.py
    for line in (line for line in commands if line not in others):
        assert run_line(line, documented_files)
    page = open_page(documented_files / "report.html", tmp_path)
    assert (page.requests, page.errors) == ([], [])
    # Curves of both, and of each confusion, mistakes and filters.
    assert len(page.images) == 7 and min(page.images) > 100


def without_times(line: dict) -> dict:
    return {k: v for k, v in line.items() if k not in ("images_per_second", "input_wait")}


def same_results(a: pathlib.Path, b: pathlib.Path) -> None:
    """Equal parameters, momenta and statistics, bit for bit, and the same evaluations."""
    jax.tree.map(np.testing.assert_array_equal, final_params(a), final_params(b))
    for split in ("eval", "eval_ema"):
        assert lines(a, split) == lines(b, split)
    exported = [(folder / "weights.safetensors").read_bytes() for folder in (a, b)]
    assert exported[0] == exported[1]
    steps = [line["step"] for line in lines(b, "train")]
    assert steps == sorted(set(steps))


# What a resumed run must find where it was: the average, the sizes and repeats of this epoch, the
# plateau's evaluations.
EVERYTHING_THAT_IS_RESUMED = (
    "--config=configs/anynet.py:digits",
    "--config.model_args.depths=(1,)",
    "--config.model_args.widths=(16,)",
    "--config.model_args.group_widths=(16,)",
    "--config.model_args.stem_width=8",
    "--config.num_epochs=4",
    "--config.image_sizes=((0, 32), (2, 40))",
    "--config.augment.policy=trivial_augment_wide",
    "--config.augment.erasing=0.5",
    "--config.augment.repeats=2",
    "--config.accumulate_steps=2",
    "--config.schedule=plateau",
    "--config.plateau.patience=0",
    "--config.plateau.threshold=0.5",
    "--config.ema.decay=0.999",
    "--config.ema.steps=3",
    "--config.checkpoint.every_steps=15",
    "--config.checkpoint.best_by=ema_top1",
    "--config.checkpoint.keep=1",
)


def flip_a_bit(workdir: pathlib.Path, step: int) -> None:
    """Of the arrays of a checkpoint."""
    files = (workdir / "checkpoints" / str(step)).rglob("d/*")
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_damaged_checkpoint_is_set_aside_and_the_run_ends_as_it_did(train, trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    flip_a_bit(workdir, 44)
    result = train(*QUICK, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert "Resuming from step 22 of 44." in result.stdout
    assert re.fullmatch(
        rf"The checkpoint of step 44 in {workdir}/checkpoints is damaged: the content of "
        r"default/\S+ has changed \(SHA-256\)\. It was renamed to 44\.damaged\.\n",
        result.stderr,
    )
    same_results(trained, workdir)
    assert lines(trained, "train")[-1]["loss"] == lines(workdir, "train")[-1]["loss"]
    folders = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert folders == {"22", "44", "44.damaged"}


@pytest.mark.slow
def test_run_on_a_disk_that_fills_up_ends_with_a_sentence_and_goes_on_later(train, tmp_path):
    # Of the checkpoints alone: otherwise writing metrics may be what fails.
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", checkpoints]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a tmpfs")
    flags = (*QUICK, "--config.num_epochs=3", f"--workdir={tmp_path / 'run'}")
    try:
        check_refusal(
            train(*flags),
            f"The checkpoint of step 44 could not be saved in {checkpoints} (No space left on "
            f"device); that of step 22 is kept. Make room on the disk, and start the same command "
            f"again.",
        )
        assert (checkpoints / "22").is_dir() and not (checkpoints / "44").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", checkpoints], check=True)
        result = train(*flags)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
        assert "Resuming from step 22 of 66." in result.stdout
        assert [line["epoch"] for line in lines(tmp_path / "run", "eval")] == [1, 2, 3]
    finally:
        subprocess.run(["umount", "-l", checkpoints], check=True)


@pytest.mark.slow
def test_processes_agree_on_damaged_checkpoints_and_failed_saves(data_dir, trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    checkpoints = workdir / "checkpoints"
    flags = (*QUICK, f"--workdir={workdir}")
    for step in (22, 44):
        flip_a_bit(workdir, step)
    for stderr in refusals_of_two_processes(flags, data_dir):
        assert stderr.endswith("start over in another --workdir.\n") and "Traceback" not in stderr
    (checkpoints / "22.damaged").rename(checkpoints / "22")
    flip_a_bit(workdir, 22)  # back to what it was
    (checkpoints / "unfinished").write_bytes(b"")  # where a folder must be
    for stderr in refusals_of_two_processes(flags, data_dir):
        assert "step 44 could not be saved" in stderr and "Traceback" not in stderr
    (checkpoints / "unfinished").unlink()
    shutil.copytree(checkpoints / "22", checkpoints / "44")  # damaged
    address = f"--coordinator_address=localhost:{free_port()}"
    first, _ = run_two_processes(
        flags,
        data_dir,
        flags=lambda number: (address, "--num_processes=2", f"--process_id={number}"),
        environ=lambda number: {},
    )
    assert "Resuming from step 22 of 44." in first
    assert final_params(workdir)["step"] == 44


@pytest.mark.slow
def test_killed_run_resumes_from_its_last_checkpoint(train, data_dir, tmp_path):
    flags = EVERYTHING_THAT_IS_RESUMED
    process = start_train(*flags, f"--workdir={tmp_path / 'a'}", data_dir=data_dir)
    while not lines(tmp_path / "a", "eval_ema"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    result = train(*flags, f"--workdir={tmp_path / 'a'}")
    assert result.returncode == 0, result.stderr
    (step,) = re.findall(r"Resuming from step (\d+) of 80", result.stdout)
    assert int(step) in (20, 30, 40, 45, 60, 75)
    assert train(*flags, f"--workdir={tmp_path / 'b'}").returncode == 0
    same_results(tmp_path / "b", tmp_path / "a")
    assert [without_times(line) for line in read_metrics(tmp_path / "a" / "metrics.jsonl")] == [
        without_times(line) for line in read_metrics(tmp_path / "b" / "metrics.jsonl")
    ]
    best = [(tmp_path / name / "best.safetensors").read_bytes() for name in "ab"]
    assert best[0] == best[1]
    kept = [sorted(os.listdir(tmp_path / name / "checkpoints")) for name in "ab"]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_sigterm_saves_the_state_and_exits_with_143(train, data_dir, tmp_path):
    flags = EVERYTHING_THAT_IS_RESUMED
    process = start_train(*flags, f"--workdir={tmp_path / 'a'}", data_dir=data_dir)
    wait_for_checkpoint(tmp_path / "a", process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert f"--workdir {tmp_path / 'a'}" in stderr and "Traceback" not in stderr
    stopped_at = final_params(tmp_path / "a")["step"]

    result = train(*flags, f"--workdir={tmp_path / 'a'}")
    assert f"Resuming from step {stopped_at} of 80" in result.stdout
    assert train(*flags, f"--workdir={tmp_path / 'b'}").returncode == 0
    same_results(tmp_path / "b", tmp_path / "a")


THREE_STEPS = (
    "--config=configs/resnet18.py:digits",
    "--config.num_epochs=1",
    "--config.batch_size=400",
    "--config.log_every_steps=1",
    # So that the comparison is of the sums over replicas and not of chaos: at the default rate
    # even the order of the replicas changes the parameters by 1e-3 after three float32 steps, and
    # by 1e-4 where the first, tiny step of a warm-up leaves the scales of branches almost zero.
    "--config.model_args.zero_init_residual=True",
    "--config.learning_rate=0.005",
    "--config.warmup_epochs=0",
)


@pytest.fixture(scope="module")
def four_devices(train, tmp_path_factory) -> pathlib.Path:
    """Three steps by one process of four devices."""
    workdir = tmp_path_factory.mktemp("four")
    result = train(*THREE_STEPS, f"--workdir={workdir}", devices=4)
    assert result.returncode == 0, result.stderr
    return workdir


def check_equal_runs(four: pathlib.Path, two: pathlib.Path) -> None:
    ours, reference = final_params(two), final_params(four)
    assert ours["step"] == reference["step"] == 3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        (ours["params"], ours["batch_stats"]),
        (reference["params"], reference["batch_stats"]),
    )
    (evaluation,) = lines(two, "eval")
    assert evaluation["examples"] == 359
    examples = load_evaluation(two / "evaluation.npz").examples  # of both processes
    assert examples.number.tolist() == list(range(359))
    reference = load_evaluation(four / "evaluation.npz").examples
    assert examples.label.tolist() == reference.label.tolist()
    np.testing.assert_allclose(examples.loss, reference.loss, rtol=0, atol=1e-4)


def run_two_processes(request: tuple[str, ...], data_dir: str, flags, environ) -> list[str]:
    """What both printed; ``flags`` and ``environ`` are of each by its number."""
    processes = [
        start_train(*request, *flags(number), data_dir=data_dir, devices=2, environ=environ(number))
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, stderr
    return [stdout for stdout, _ in outputs]


def refusals_of_two_processes(
    flags: tuple[str, ...], data_dir: str, of_process=lambda number: ()
) -> list[str]:
    """What both wrote to stderr when they ended with status 2."""
    address = f"--coordinator_address=localhost:{free_port()}"
    processes = [
        start_train(
            *(*flags, *of_process(number), address),
            "--num_processes=2",
            f"--process_id={number}",
            data_dir=data_dir,
        )
        for number in range(2)
    ]
    refusals = []
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 2, stderr
        refusals.append(stderr)
    return refusals


@pytest.mark.slow
def test_two_processes_of_two_devices_equal_one_of_four(four_devices, data_dir, tmp_path):
    address = f"--coordinator_address=localhost:{free_port()}"
    run_two_processes(
        (*THREE_STEPS, f"--workdir={tmp_path}"),
        data_dir,
        flags=lambda number: (address, "--num_processes=2", f"--process_id={number}"),
        environ=lambda number: {},
    )
    check_equal_runs(four_devices, tmp_path)


_SILENT = """
import sys, time
from jaxcnn.training import distributed

number = int(sys.argv[2])
if number == 1:
    distributed._check_sum = lambda: time.sleep(600)
distributed.initialize(sys.argv[1], 2, number, start_timeout=20)
"""


@pytest.mark.slow
def test_process_that_hangs_at_the_start_ends_the_others_with_a_sentence():
    address = f"localhost:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SILENT, address, str(number)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(2)
    ]
    _, stderr = processes[0].communicate(timeout=120)
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "their devices did not finish a first sum within 20 seconds" in stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs the signals of POSIX")
@pytest.mark.parametrize(
    ("process", "sent"), [(1, "SIGKILL"), (0, "SIGKILL"), (1, "SIGSTOP")], ids=str
)
def test_process_that_dies_or_hangs_ends_the_other_with_a_sentence(
    process, sent, data_dir, tmp_path
):
    flags = (*QUICK, "--config.num_epochs=15", f"--workdir={tmp_path}", "--heartbeat_timeout=10")

    def start() -> list[subprocess.Popen]:
        address = f"--coordinator_address=localhost:{free_port()}"
        numbers = ("--num_processes=2", "--process_id={}")
        return [
            start_train(*flags, address, *(text.format(n) for text in numbers), data_dir=data_dir)
            for n in range(2)
        ]

    processes = start()
    wait_for_checkpoint(tmp_path, processes[process])
    processes[process].send_signal(getattr(signal, sent))
    survivor = processes[1 - process]
    _, stderr = survivor.communicate(timeout=120)  # without a heartbeat: 100 s, and 300 s more
    processes[process].kill()
    processes[process].communicate()
    assert survivor.returncode not in (0, 2)
    assert stderr.endswith(
        f"train.py: Process {1 - process} of 2 lost another process of this run, which died, "
        f"hangs, or cannot be reached; its own output may say why. Start the same command again on "
        f"all: they resume from the last checkpoint.\n"
    )
    if (process, sent) == (1, "SIGKILL"):
        outputs = [process.communicate(timeout=300) for process in start()]
        assert re.search(r"Resuming from step \d+ of 330\.", outputs[0][0]), outputs
        assert final_params(tmp_path)["step"] == 330


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["four devices", "two processes of two devices"])
def test_run_resumes_on_another_machine(machine, trained, train, data_dir, tmp_path):
    """Its parameters are those of one device to rounding: the batches are the same."""
    workdir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "44")
    flags = (*QUICK, f"--workdir={workdir}")
    if machine == "four devices":
        result = train(*flags, devices=4)
        assert result.returncode == 0, result.stderr
        stdout = result.stdout
    else:
        address = f"--coordinator_address=localhost:{free_port()}"
        stdout, _ = run_two_processes(
            flags,
            data_dir,
            flags=lambda number: (address, "--num_processes=2", f"--process_id={number}"),
            environ=lambda number: {},
        )
    assert "on 4 cpu device(s)" in stdout and "Resuming from step 22 of 44." in stdout
    ours, reference = final_params(workdir), final_params(trained)
    assert ours["step"] == reference["step"] == 44
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        ours["params"],
        reference["params"],
    )


@pytest.mark.slow
def test_slurm_needs_no_flags(data_dir, tmp_path):
    """Two tasks of one node, with the variables that srun sets."""
    job = {
        "SLURM_JOB_ID": str(free_port()),  # jax derives the coordinator's port from it
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
    }
    first, second = run_two_processes(
        (*QUICK, "--config.train_split=train[:64]", f"--workdir={tmp_path}"),
        data_dir,
        flags=lambda number: (),
        environ=lambda number: job | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
    )
    assert "on 4 cpu device(s)" in first
    assert "lenet5" not in second  # only the main process prints
    assert [line["examples"] for line in lines(tmp_path, "eval")] == [359, 359]


@pytest.mark.slow
def test_imagenet_path_runs_on_jpegs(train, tmp_path):
    data = tmp_path / "data"
    Photos(data_dir=data).download_and_prepare()
    result = train(
        "--config=configs/resnet18.py",
        "--config.dataset=photos",
        "--config.num_epochs=1",
        "--config.batch_size=10",
        "--config.eval.batch_size=4",
        "--config.image_size=64",
        "--config.eval.resize_size=73",
        f"--workdir={tmp_path / 'run'}",
        data_dir=str(data),
    )
    assert result.returncode == 0, result.stderr
    (evaluation,) = lines(tmp_path / "run", "eval")
    assert evaluation["examples"] == 11


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Photographs of three classes; one training and one evaluation file are cut short."""
    for split, count in (("train", 30), ("val", 7)):
        for number in range(count):
            path = tmp_path / "images" / split / "abc"[number % 3] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(photo(number, 40 + number, 60))[: 500 if number == 4 else None])
    return tmp_path / "images"


EVERYTHING = (
    "--config.augment.policy=rand_augment",
    "--config.augment.color_jitter=(0.4, 0.4, 0.4, 0.1)",
    "--config.augment.grayscale=0.1",
    "--config.augment.lighting=0.1",
    "--config.augment.erasing=0.5",
    "--config.augment.mixup=0.2",
    "--config.augment.cutmix=1.0",
    "--config.interpolation=bicubic",
    "--config.subtract_mean_image=True",
    "--config.eval.crops=10",
)


@pytest.mark.slow
def test_folder_of_images_with_every_augmentation(train, folder, tmp_path):
    workdir = tmp_path / "run"
    result = train(
        f"--config=configs/lenet5.py:folder:{folder}",
        "--config.num_epochs=2",
        "--config.batch_size=10",
        *EVERYTHING,
        f"--workdir={workdir}",
    )
    assert result.returncode == 0, result.stderr
    assert "on folder:" in result.stdout and "30 training and 7 evaluation" in result.stdout
    evaluation = lines(workdir, "eval")
    assert [(line["examples"], line["skipped"]) for line in evaluation] == [(6, 1)] * 2
    assert sum(line["skipped"] for line in lines(workdir, "train")) == 2  # once per epoch
    for split in ("train", "val"):
        name = str(folder / split / "b" / "4.jpg")
        assert result.stderr.count(f"Skipped {name}: ") == 1
    mean_image = np.load(workdir / "mean_image.npy")
    assert mean_image.shape == (32, 32, 3) and 0.3 < mean_image.mean() < 0.7


@pytest.mark.slow
def test_too_many_bad_images_stop_the_run(train, folder, tmp_path):
    result = train(
        "--config=configs/resnet18.py",
        f"--config.dataset=folder:{folder}",
        "--config.model=lenet5",
        "--config.image_size=32",
        "--config.eval.resize_size=36",
        "--config.batch_size=10",
        "--config.max_skipped=0",
        f"--workdir={tmp_path / 'run'}",
    )
    assert result.returncode == 2
    first, last = result.stderr.splitlines()
    assert first.startswith("Skipped ") and "4.jpg: " in first
    assert last.startswith("train.py: 1 of the 30 training images could not be decoded; ")
    assert "config.max_skipped" in last


@pytest.mark.slow
def test_too_many_bad_images_of_one_process_stop_all(folder, data_dir, tmp_path):
    flags = (
        f"--config=configs/lenet5.py:folder:{folder}",
        "--config.batch_size=10",
        "--config.max_skipped=0",
        f"--workdir={tmp_path / 'run'}",
    )
    for stderr in refusals_of_two_processes(flags, data_dir):
        assert "1 of the 30 training images could not be decoded" in stderr


@pytest.mark.slow
def test_bfloat16_sync_batch_norm_smoothing_and_nesterov_run(train, tmp_path):
    result = train(
        "--config=configs/resnet18.py:digits",
        "--config.num_epochs=1",
        "--config.train_split=train[:64]",
        "--config.dtype=bfloat16",
        "--config.sync_batch_norm=True",
        "--config.label_smoothing=0.1",
        "--config.nesterov=True",
        "--config.image_size=16",
        f"--workdir={tmp_path}",
        devices=2,
    )
    assert result.returncode == 0, result.stderr
    saved = final_params(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(saved["params"])} == {np.dtype("float32")}


DIGITS = "--config=configs/lenet5.py:digits"
WRONG = {
    "no config": ((), "--config is required"),
    "a missing config file": (["--config=nowhere.py"], "config file not found: nowhere.py"),
    "a config file without get_config": (
        ["--config=jaxcnn/errors.py"],
        "jaxcnn/errors.py has no function get_config()",
    ),
    "an unknown model": ([DIGITS, "--config.model=lenet4"], "did you mean 'lenet5'"),
    "an unknown dataset": (["--config=configs/lenet5.py:digitz"], "did you mean 'digits'"),
    "an unknown key": ([DIGITS, "--config.batchsize=3"], "no config key 'batchsize'"),
    "an unknown nested key": ([DIGITS, "--config.eval.size=3"], "no config key 'size'"),
    "a value of the wrong type": ([DIGITS, "--config.batch_size=many"], "batch_size=many"),
    "an unknown flag": ([DIGITS, "--workdri=x"], "Unknown command line flag 'workdri'"),
    "an unexpected argument": ([DIGITS, "digits"], "unexpected argument 'digits'"),
    "no steps to profile": ([DIGITS, "--profile_steps=20:10"], "use for example 10:20"),
    "an indivisible batch": ([DIGITS, "--config.batch_size=63"], "multiple of 2, for example 62"),
    "a batch larger than the data": ([DIGITS, "--config.batch_size=2000"], "1438 training"),
    "imagenet unprepared": (["--config=configs/resnet18.py"], "':digits' after the config"),
    "an unknown schedule": ([DIGITS, "--config.schedule=cos"], "one of constant, step, multistep"),
    "a mean of three channels": ([DIGITS, "--config.mean=(0.1, 0.2, 0.3)"], "1 channel"),
    "too few classes": ([DIGITS, "--config.num_classes=9"], "less than the 10 classes of digits"),
    "images too small": ([DIGITS, "--config.image_size=8"], "it works from 16x16"),
    "missing batch norms": ([DIGITS, "--config.sync_batch_norm=True"], "no batch norms"),
    "one of three flags": ([DIGITS, "--process_id=0"], "go together"),
    "an address without a port": (
        [DIGITS, "--coordinator_address=here", "--num_processes=1", "--process_id=0"],
        "must be host:port",
    ),
    "a wrong coordinator": (
        [
            *(DIGITS, "--coordinator_address=localhost:1", "--num_processes=2", "--process_id=1"),
            "--start_timeout=1",
        ],
        "did not meet process 0 at localhost:1 within 1 seconds (Connection refused)",
    ),
    "a missing process": (
        [
            *(DIGITS, f"--coordinator_address=localhost:{free_port()}", "--num_processes=2"),
            *("--process_id=0", "--start_timeout=1"),
        ],
        "Of 2 processes 1 did not come within 1 seconds",
    ),
    "a std of zero": ([DIGITS, "--config.std=(0.0,)"], "each above 0"),
    "a URL of another kind": (
        [DIGITS, "--workdir=hdfs://host/run"],
        "neither a local path nor a URL that starts with gs:// or s3://",
    ),
    "a missing file and an override": (
        ["--config=nowhere.py", "--config.batch_size=8"],
        "config file not found: nowhere.py",
    ),
    "missing weights": ([DIGITS, "--config.init_from=no.pth"], "no.pth cannot be"),
    "unpublished weights": (
        [DIGITS, "--config.init_from=IMAGENET1K_V1"],
        "published no weights for lenet5",
    ),
    "no right to write": ([DIGITS, "--workdir=/dev/null/run"], "cannot be used"),
}  # fmt: skip


BROKEN_CONFIGS = {
    "return undefined": "line 2: NameError: name 'undefined' is not defined.",
    "open('/no/such/file')": "line 2: FileNotFoundError: [Errno 2] No such file",
    "return int('x')": "line 2: ValueError: invalid literal for int() with base 10: 'x'.",
    "return (": "line 2: SyntaxError: '(' was never closed.",
    "return 3": "get_config() in the file of --config returned a int",
}


@pytest.mark.parametrize("body", BROKEN_CONFIGS)
def test_error_in_a_config_file_is_reported_with_its_line(body, train, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_config():\n    {body}\n")
    result = train(f"--config={path}", f"--workdir={tmp_path / 'run'}")
    check_refusal(result, BROKEN_CONFIGS[body])
    assert str(path) in result.stderr or body == "return 3"


def test_different_configs_of_two_processes_are_refused_on_both(data_dir, tmp_path):
    flags = (DIGITS, f"--workdir={tmp_path / 'run'}")
    for stderr in refusals_of_two_processes(
        flags, data_dir, of_process=lambda number: (f"--config.seed={number}",)
    ):
        assert "started with different configs" in stderr and "Traceback" not in stderr
        assert stderr.endswith("Other than process 0: 1.\n")
    assert not (tmp_path / "run").exists()


def imports_numpy(pid: int) -> bool:
    """Whether a process has come to its heavy imports."""
    return "_multiarray_umath" in pathlib.Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("delay", [0.0, 0.5, 1.5])
def test_ctrl_c_during_start_ends_the_process_at_once(delay, data_dir, tmp_path):
    process = start_train(DIGITS, f"--workdir={tmp_path / 'run'}", data_dir=data_dir)
    while not imports_numpy(process.pid):
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.endswith("Interrupted.\n") and "Traceback" not in stderr
    assert "epoch 1" not in stdout


QUICKLY_TRIED = (
    *("no config", "an unknown model", "an unknown dataset", "an unknown key", "images too small"),
    *("an indivisible batch", "missing weights", "no right to write"),
)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c not in QUICKLY_TRIED)) for c in WRONG],
)
def test_wrong_request_is_one_sentence_and_status_2(case, train, tmp_path):
    flags, words = WRONG[case]
    result = train(f"--workdir={tmp_path / 'run'}", *flags, devices=2)
    check_refusal(result, words)
    assert "epoch 1" not in result.stdout
    assert not (tmp_path / "run").exists()


def check_refusal(result, words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert result.stderr.startswith("train.py: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.model=resnet18"], "config.model was 'lenet5' and is now 'resnet18'"),
        (["--config.learning_rate=0.5"], "config.learning_rate was"),
    ],
)
def test_workdir_of_another_run_is_refused(flags, words, train, trained):
    before = (trained / "config.json").read_text()
    check_refusal(train(*QUICK, *flags, f"--workdir={trained}"), words)
    assert (trained / "config.json").read_text() == before


def test_workdir_with_a_damaged_config_json_is_refused(train, tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    (tmp_path / "checkpoints" / "22").mkdir(parents=True)
    check_refusal(train(*QUICK, f"--workdir={tmp_path}"), "config.json is not a config")


@pytest.mark.slow
def test_diverging_loss_stops_the_run(train, tmp_path):
    result = train(*QUICK, "--config.learning_rate=1e6", f"--workdir={tmp_path}")
    check_refusal(result, "Lower config.learning_rate")


@pytest.mark.slow
def test_diverged_evaluation_stops_the_run(train, tmp_path):
    flags = ("--config.train_split=train[:64]", "--config.learning_rate=1e30")
    check_refusal(train(*QUICK, *flags, f"--workdir={tmp_path}"), "Lower config.learning_rate")


@pytest.mark.slow
def test_command_line_can_choose_another_model(train, tmp_path):
    flags = ("--config=configs/resnet18.py:digits", "--config.train_split=train[:64]")
    flags += ("--config.model=lenet5", "--config.num_epochs=1", "--nocompilation_cache")
    flags += ("--profile_steps=1:1",)
    environ = {"JAXCNN_CACHE": str(tmp_path / "cache")}
    result = train(*flags, f"--workdir={tmp_path / 'run'}", environ=environ)
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.glob("cache/compiled/*/*-cache"))
    assert len(list(tmp_path.glob("run/profile/plugins/profile/*/*.xplane.pb"))) == 1
    assert "\nlenet5 on digits: " in f"\n{result.stdout}"
    assert "61,706 parameters" in result.stdout.splitlines()


@pytest.mark.slow
def test_run_starts_from_the_weights_of_another(train, trained, tmp_path):
    weights = final_params(trained)
    convert.save(tmp_path / "weights.safetensors", {"params": weights["params"]})
    flags = (*QUICK, "--config.num_epochs=1", "--config.learning_rate=0")
    result = train(
        *flags,
        f"--config.init_from={tmp_path / 'weights.safetensors'}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert result.returncode == 0, result.stderr
    jax.tree.map(
        np.testing.assert_array_equal, final_params(tmp_path / "run")["params"], weights["params"]
    )


def test_error_on_the_main_process_ends_all(data_dir, tmp_path):
    flags = ("--config=configs/lenet5.py:imagenet2012", f"--workdir={tmp_path / 'run'}")
    for stderr in refusals_of_two_processes(flags, data_dir):
        assert "must be downloaded by hand" in stderr and "Traceback" not in stderr


@pytest.mark.slow
def test_resnet18_learns_the_digits(train, tmp_path):
    result = train("--config=configs/resnet18.py:digits", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    evaluation = lines(tmp_path, "eval")[-1]
    assert evaluation["examples"] == 359
    assert evaluation["top1"] >= 0.97


@pytest.mark.slow
def test_lenet5_learns_the_digits(train, tmp_path):
    result = train("--config=configs/lenet5.py:digits", f"--workdir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert lines(tmp_path, "eval")[-1]["top1"] >= 0.95
