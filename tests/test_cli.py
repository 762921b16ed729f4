"""The command ``jaxcnn``."""

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from jaxcnn import cli, convert, models


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("flags", [(), ("--model=resnet18", "--num_classes=4")])
def test_convert_there_and_back(checkpoint, flags, tmp_path, capsys):
    flax, back = str(tmp_path / "flax.safetensors"), str(tmp_path / "torch.safetensors")
    assert cli.main(["convert", checkpoint, flax, *flags]) == 0
    expected = convert.from_torch(
        convert.load_checkpoint(checkpoint), models.resnet18(num_classes=4)
    )
    jax.tree.map(np.testing.assert_array_equal, convert.load(flax), expected)
    assert cli.main(["convert", flax, back]) == 0
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
    assert cli.main(["convert", b, c]) == 0
    for name, array in convert.load_checkpoint(c).items():
        assert array.dtype == np.float64
        assert array.tobytes() == expected[name].tobytes()


def test_inspect_shows_a_table_and_the_total(checkpoint, capsys):
    assert cli.main(["inspect", checkpoint]) == 0
    out = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["fc.weight", "[4,", "512]", "float32"] for line in out)
    # 11,178,564 parameters, and 9,620 statistics and counters
    assert out[-1] == "122 tensors, 11,188,184 elements, 44.8 MB"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere.pth"], "nowhere.pth cannot be opened"),
        (["convert", "CHECKPOINT", "out.pth"], "must end in .safetensors"),
        (["convert", "CHECKPOINT", "/nowhere/out.safetensors"], "cannot be written"),
        (["convert", "CHECKPOINT", "TMP/o.safetensors", "--model=resnet81"], "did you mean"),
        (["convert", "CHECKPOINT", "TMP/o.safetensors", "--model=resnet18"], "fc.bias has shape"),
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
