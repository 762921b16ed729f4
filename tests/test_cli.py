"""The ``jaxcnn`` command: help, convert, inspect, models; others have files of their own."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from processes import ROOT

from jaxcnn import cli, convert, models

ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
COMMANDS = (
    *("convert", "inspect", "models", "summary", "check"),
    *("prepare", "predict", "embed", "validate", "visualize", "report"),
)
KINDS = ("filters", "features", "deconvnet", "saliency", "gradcam", "occlusion", "maximize")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def flax_file(checkpoint, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("cli") / "resnet18.safetensors")
    assert cli.main(["convert", checkpoint, path]) == 0
    return path


@pytest.mark.parametrize("flags", [(), ("--model=resnet18", "--num_classes=4")])
def test_convert_there_and_back(checkpoint, flags, tmp_path, capsys):
    flax, back = str(tmp_path / "flax.safetensors"), str(tmp_path / "torch.safetensors")
    assert cli.main(["convert", checkpoint, flax, *flags]) == 0
    expected = convert.from_torch(
        convert.load_checkpoint(checkpoint), models.resnet18(num_classes=4)
    )
    jax.tree.map(np.testing.assert_array_equal, convert.load(flax), expected)
    assert cli.main(["convert", flax, back, *flags]) == 0
    state = safetensors.torch.load_file(back)
    for name, value in torch.load(checkpoint).items():
        assert (state[name] == value).all()
    assert "Wrote a PyTorch state dict" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [(), ("--model=lenet5",)])
def test_convert_keeps_float64(flags, tmp_path):
    with jax.enable_x64(True):
        model = models.lenet5(param_dtype="float64")
        variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1)))
        expected = convert.to_torch(variables)
        convert.save_torch(tmp_path / "a.safetensors", variables)
    a, b, c = (str(tmp_path / f"{name}.safetensors") for name in "abc")
    assert cli.main(["convert", a, b, *flags]) == 0
    assert cli.main(["convert", b, c, *flags]) == 0
    for name, array in convert.load_checkpoint(c).items():
        assert array.dtype == np.float64
        assert array.tobytes() == expected[name].tobytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model=resnet34", "--num_classes=4"], "missing layer1.2.bn1.bias"),
        (["--model=resnet18"], "fc.bias has shape (4,)"),
        (["--model=resnet81"], "did you mean"),
    ],
)
def test_convert_checks_flax_variables_against_the_model(flags, words, flax_file, tmp_path, capsys):
    assert cli.main(["convert", flax_file, str(tmp_path / "out.safetensors"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["checkpoint", "flax_file"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_classes=4"], "--num_classes=4 needs --model"),
        (["--model=resnet18", "--num_classes=0"], "--num_classes=0 must be at least 1."),
        (["--model=resnet18", "--num_classes=-3"], "--num_classes=-3 must be at least 1."),
    ],
)
def test_convert_refuses_a_number_of_classes_it_cannot_use(
    flags, words, source, request, tmp_path, capsys
):
    source = request.getfixturevalue(source)
    capsys.readouterr()
    assert cli.main(["convert", source, str(tmp_path / "out.safetensors"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxcnn: {words}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_inspect_shows_a_table_and_the_total(checkpoint, capsys):
    assert cli.main(["inspect", checkpoint]) == 0
    out = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["fc.weight", "[4,", "512]", "float32"] for line in out)
    # 11,178,564 parameters, and 9,620 statistics and counters
    assert out[-1] == "122 tensors, 11,188,184 elements, 44.8 MB"


def test_models_lists_a_family_by_size(capsys):
    assert cli.main(["models", "--family", "squeezenet"]) == 0
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split() == "model parameters multiply-adds pixels top-1 top-5 paper".split()
    assert [row.split()[:3] for row in rows] == [
        ["squeezenet1_1", "1.24", "M"],
        ["squeezenet1_0", "1.25", "M"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere.pth"], "nowhere.pth"),
        (["convert", "CHECKPOINT", "out.pth"], "must end in .safetensors"),
        (["convert", "CHECKPOINT", "/nowhere/out.safetensors"], "cannot be written"),
        (["convert", "CHECKPOINT", "TMP/o.safetensors", "--model=resnet81"], "did you mean"),
        (["convert", "CHECKPOINT", "TMP/o.safetensors", "--model=resnet18"], "fc.bias has shape"),
        (["models", "--family", "resnext"], "resnext"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(arguments, words, checkpoint, tmp_path, capsys):
    arguments = [
        a.replace("CHECKPOINT", checkpoint).replace("TMP", str(tmp_path)) for a in arguments
    ]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxcnn: ") and words in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["convert", "only-one.pth"]])
def test_wrong_usage_is_status_2_and_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert capsys.readouterr().err.startswith("usage: jaxcnn")


def test_help_has_an_example_and_imports_nothing_heavy():
    # The reason why it answers at once.
    code = f"""
import sys
from jaxcnn.cli import main

for command in {[[], *([c] for c in COMMANDS), *(["visualize", k] for k in KINDS)]!r}:
    try:
        main([*command, "--help"])
    except SystemExit as exit:
        assert exit.code == 0, exit.code
heavy = {{"jax", "flax", "numpy", "tensorflow", "torch", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRON, check=True
    ).stdout
    for kind in KINDS:
        assert re.search(rf"^  jaxcnn visualize {kind}\b", out, re.MULTILINE)
    for command in COMMANDS:
        assert re.search(rf"^usage: jaxcnn {command} ", out, re.MULTILINE)
        # in its own help, and in that of jaxcnn
        assert len(re.findall(rf"^  jaxcnn {command}\b", out, re.MULTILINE)) >= 2


def test_command_runs_as_a_module_and_a_closed_pipe_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "jaxcnn", "models"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRON,
    ) as process:
        process.stdout.close()  # before it has imported what it prints
        stderr = process.stderr.read()
    assert (process.returncode, stderr) == (141, "")  # 128 + SIGPIPE
