"""PyTorch's files: all formats load bit for bit, and no code in them is run."""

import collections
import pickle
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from attacks import zip_of
from smallest import smallest_of_families
from tiers import tiers
from torch_writers import WRITERS, write_legacy, write_zip
from torchvision_modules import module_without_values

from jaxcnn import convert, models
from jaxcnn.convert import CheckpointError
from jaxcnn.errors import UserError
from jaxcnn.io.checkpoint import load_tensor, read_file
from jaxcnn.io.pickled_numpy import PickledArray

TORCHVISION = sorted(set(models.list_models()) & set(torchvision.models.list_models()))


def raw(item: torch.Tensor) -> bytes:
    return item.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, item in theirs.items():
        assert ours[name].shape == tuple(item.shape), name
        assert ours[name].dtype.name == str(item.dtype).removeprefix("torch."), name
        assert np.ascontiguousarray(ours[name]).tobytes() == raw(item), name


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises
import hashlib, json
import numpy as np
from jaxcnn import convert
print(json.dumps({
    name: [list(array.shape), hashlib.sha256(np.ascontiguousarray(array)).hexdigest()]
    for name, array in convert.load_checkpoint(sys.argv[1]).items()
}))
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_files_load_without_torch(writer, tmp_path):
    import hashlib
    import json

    state = torchvision.models.resnet18(num_classes=3).state_dict()
    WRITERS[writer](state, tmp_path / "file")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, tmp_path / "file"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        name: [list(item.shape), hashlib.sha256(raw(item)).hexdigest()]
        for name, item in state.items()
    }


# torch's own, of reading the tar format
@pytest.mark.filterwarnings("ignore:Python 3.14 will.*filter extracted tar:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    tiers(TORCHVISION, fast=("resnet18", "squeezenet1_1"), slow=smallest_of_families()),
)
def test_every_architecture_round_trips_in_every_format(name, tmp_path):
    module = module_without_values(name)
    like = module.state_dict()
    elements = sum(item.numel() for item in like.values())
    dtype = torch.float16 if elements > 2e8 else torch.float32  # float32 would be 2.6 GB
    state = {
        key: torch.rand(item.shape, dtype=dtype) if item.is_floating_point() else torch.tensor(3)
        for key, item in like.items()
    }
    for writer in WRITERS:
        path = tmp_path / writer
        WRITERS[writer](state, path)
        theirs = (
            safetensors.torch.load_file(path)
            if writer == "safetensors"
            else torch.load(path, weights_only=writer != "tar")
        )
        ours = convert.load_checkpoint(path)
        assert_equal(ours, theirs)
        del theirs
        path.unlink()
    back = convert.to_torch(convert.from_torch(ours, models.create_model(name)))
    for key, array in ours.items():
        if not key.endswith("num_batches_tracked"):
            assert back[key].tobytes() == array.tobytes()
    back = collections.OrderedDict((key, torch.from_numpy(array)) for key, array in back.items())
    back._metadata = like._metadata  # MNASNet needs its version, which plain dicts do not have
    module.load_state_dict(back, strict=True, assign=True)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("new", [False, True])
def test_every_pickle_protocol_loads(protocol, new, tmp_path):
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    torch.save(
        state,
        tmp_path / "file",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new,
    )
    assert_equal(convert.load_checkpoint(tmp_path / "file"), state)


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
NEW_DTYPES = [torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES + NEW_DTYPES, ids=str)
@pytest.mark.parametrize("writer", ["zip", "legacy", "safetensors"])
def test_every_dtype_loads(dtype, writer, tmp_path):
    if writer == "legacy" and dtype in NEW_DTYPES:
        pytest.skip("newer than the format")
    state = {"a": torch.randint(0, 2, (3, 5)).to(dtype), "b": torch.ones(()).to(dtype)}
    WRITERS[writer](state, tmp_path / "file")
    assert_equal(convert.load_checkpoint(tmp_path / "file"), state)


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_views_strides_and_shared_storages_are_preserved(writer, tmp_path):
    base = torch.arange(48.0)
    state = {
        "whole": base,
        "offset": base[7:19],
        "transposed": base.reshape(6, 8).t(),
        "every third": base[1::3],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    WRITERS[writer](state, tmp_path / "file")
    ours = convert.load_checkpoint(tmp_path / "file")
    assert_equal(ours, {k: v.detach() for k, v in state.items()})
    assert np.shares_memory(ours["whole"], ours["offset"])
    ours["whole"][7] = -1  # a private copy: the file does not change
    assert ours["offset"][0] == -1
    assert convert.load_checkpoint(tmp_path / "file")["offset"][0] == 7


def test_big_endian_files_load(tmp_path):
    write_zip({"a": torch.arange(5.0)}, tmp_path / "little")
    with (
        zipfile.ZipFile(tmp_path / "little") as little,
        zipfile.ZipFile(tmp_path / "big", "w") as big,
    ):
        for name in little.namelist():
            content = little.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            elif "/data/" in name:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            big.writestr(name, content)
    assert convert.load_checkpoint(tmp_path / "big")["a"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_common_wrappers_and_prefixes_load(wrapper, prefix, tmp_path):
    module = torchvision.models.squeezenet1_1(num_classes=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    state = {prefix + name: item for name, item in module.state_dict().items()}
    content = {wrapper: state, "optimizer": optimizer.state_dict(), "epoch": 3, "best": 0.5}
    for write in (write_zip, write_legacy):
        write(content, tmp_path / "file")
        loaded = convert.load_checkpoint(tmp_path / "file")
        variables = convert.from_torch(loaded, models.squeezenet1_1(num_classes=3))
        back = convert.to_torch(variables)
        for name, item in module.state_dict().items():
            np.testing.assert_array_equal(back[name], item.numpy())


def test_key_selects_one_of_several_dicts(tmp_path):
    write_zip({"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}}, tmp_path / "f")
    assert convert.load_checkpoint(tmp_path / "f")["a"] == 0
    assert convert.load_checkpoint(tmp_path / "f", key="model_ema")["a"] == 1
    with pytest.raises(CheckpointError, match="no tensors under 'ema' .*'model', 'model_ema'"):
        convert.load_checkpoint(tmp_path / "f", key="ema")


def tensors(count: int, value: float = 0.0) -> dict[str, torch.Tensor]:
    return {f"layer{number}.weight": torch.full((2,), value) for number in range(count)}


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_imagenet_example_checkpoint_loads(writer, tmp_path):
    """The layout of pytorch/examples/imagenet, in which a tensor is beside the state_dict."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 90,
        "arch": "linear",
        "state_dict": model.state_dict(),
        "best_acc1": torch.tensor(70.1),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60]).state_dict(),
    }
    WRITERS[writer](content, tmp_path / "file")
    assert_equal(convert.load_checkpoint(tmp_path / "file"), model.state_dict())


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ({"model": {"state_dict": tensors(9, 1), "step": torch.tensor(3)}}, "in a wrapper"),
        ({"model_ema": tensors(9), "state_dict": tensors(8, 1)}, "rather than an average"),
        ({**tensors(9, 1), "model_ema": tensors(9)}, "the top rather than an average"),
        ({"weights": tensors(1), "params": tensors(9, 1)}, "the one with most tensors"),
        ({"loss": tensors(1)["layer0.weight"], "encoder": tensors(9, 1)}, "the only large one"),
    ],
)
def test_weights_are_chosen_without_a_warning(content, chosen, tmp_path):
    write_zip(content, tmp_path / "file")
    state = convert.load_checkpoint(tmp_path / "file")
    assert len(state) >= 8 and all((array == 1).all() for array in state.values()), chosen


def test_ambiguous_weights_warn_with_the_name_of_the_chosen_dict(tmp_path):
    content = {"ema": tensors(9), "student": tensors(9, 1), "nets": {"teacher": tensors(9, 2)}}
    write_zip(content, tmp_path / "file")
    words = r"from 'student' \(9 tensors\)\. key= chooses another: 'ema', 'nets\.teacher'"
    with pytest.warns(UserWarning, match=words):
        state = convert.load_checkpoint(tmp_path / "file")
    assert state["layer0.weight"].tolist() == [1, 1]
    state = convert.load_checkpoint(tmp_path / "file", key="nets.teacher")
    assert state["layer0.weight"].tolist() == [2, 2]


def test_file_without_tensors_raises(tmp_path):
    write_zip({"epoch": 3}, tmp_path / "file")
    with pytest.raises(CheckpointError, match="no tensors .*'epoch'.*save a state_dict"):
        convert.load_checkpoint(tmp_path / "file")


NUMPY_VALUES = {
    "scalar": np.float64(76.1),
    "flag": np.bool_(True),
    "count": np.int64(-3),
    "name": np.str_("épi"),
    "matrix": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "zero-dimensional": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "classes": np.array(["cat", "épi"]),
    "generator": np.random.RandomState(3).get_state(),
}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("new", [False, True])
def test_numpy_values_beside_the_weights_are_plain_data(protocol, new, tmp_path):
    state = tensors(2)
    torch.save(
        {"state_dict": state, **NUMPY_VALUES},
        tmp_path / "file",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new,
    )
    assert_equal(convert.load_checkpoint(tmp_path / "file"), state)
    content = read_file(str(tmp_path / "file"))
    for name, expected in NUMPY_VALUES.items():
        found = content[name]
        pairs = zip(found, expected, strict=True) if name == "generator" else [(found, expected)]
        for ours, theirs in pairs:
            ours = ours.value if isinstance(ours, PickledArray) else ours
            assert np.shape(ours) == np.shape(theirs), name
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_numpy_1_names_are_accepted(tmp_path):
    pickled = pickle.dumps(NUMPY_VALUES, 2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray" in pickled
    (tmp_path / "file").write_bytes(zip_of(pickled))
    assert read_file(str(tmp_path / "file"))["scalar"] == 76.1


def test_state_dict_of_numpy_arrays_loads(tmp_path):
    state = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float32)}
    write_zip({"model": state, "epoch": 3}, tmp_path / "file")
    loaded = convert.load_checkpoint(tmp_path / "file")
    assert loaded.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


@pytest.mark.parametrize(
    "value",
    [np.array([{}, None]), np.array([(1, 2.0)], "i4,f8"), np.datetime64("2020-01-01")],
    ids=["objects", "records", "dates"],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_other_numpy_dtypes_raise(value, protocol, tmp_path):
    torch.save({"a": torch.ones(1), "b": value}, tmp_path / "file", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match="only numbers and strings"):
        convert.load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x02K\x03\x86", b"K\x02K\x04\x86"),  # a shape with more elements than bytes
        (b"K\x02K\x03\x86", b"K\x00J\xff\xff\xff\x7f\x86"),
        (b"K\x02K\x03\x86", b"K\x06N\x86"),
        (b"f8", b"f4"),
        (b"f8", b"f3"),
        (b"f8", b"U0"),
        (b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00x"),
        (b"\xc3\xb0", b"\xc4\x80"),  # a character that is not a byte
    ],
)
def test_invalid_numpy_arrays_raise(old, new, tmp_path):
    pickled = pickle.dumps({"a": np.arange(6.0).reshape(2, 3)}, 2)
    assert old in pickled
    (tmp_path / "file").write_bytes(zip_of(pickled.replace(old, new)))
    with pytest.raises(CheckpointError):
        convert.load_checkpoint(tmp_path / "file")


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_lazy_conjugation_and_negation_are_applied(writer, tmp_path):
    lazy = {
        "conj": torch.randn(3, 2, dtype=torch.complex64).conj(),
        "conj view": torch.randn(3, 2, dtype=torch.complex128).conj().t()[1:],
        "neg": torch.randn(3, 2, dtype=torch.complex64).conj().imag,
    }
    assert all(item.is_conj() or item.is_neg() for item in lazy.values())
    WRITERS[writer](lazy, tmp_path / "file")
    loaded = convert.load_checkpoint(tmp_path / "file")
    for name, item in lazy.items():
        np.testing.assert_array_equal(loaded[name], item.resolve_conj().resolve_neg().numpy())


def test_settings_beside_the_weights_are_ignored(tmp_path):
    import argparse

    content = {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=0.1, device="cuda")}
    write_zip(content, tmp_path / "file")
    assert convert.load_checkpoint(tmp_path / "file").keys() == {"a"}


def test_large_file_is_mapped_not_copied(tmp_path):
    size = 256 * 2**20
    write_zip({"a": torch.zeros(size // 4), "b": torch.ones(4)}, tmp_path / "file")
    code = f"""
import resource
from jaxcnn import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
state = convert.load_checkpoint({str(tmp_path / "file")!r})
total = state["a"].sum() + state["b"].sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    kib = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert kib * 1024 < 1.2 * size


# --- writing


def test_save_torch_output_loads_strictly_in_torch(tmp_path):
    module = torchvision.models.resnet18()
    variables = convert.from_torch(module.state_dict(), models.resnet18())
    convert.save_torch(tmp_path / "file", variables)
    state = safetensors.torch.load_file(tmp_path / "file")
    other = torchvision.models.resnet18()
    other.load_state_dict(state, strict=True)
    for name, item in module.state_dict().items():
        assert (other.state_dict()[name] == item).all()


def test_save_and_load_are_exact_and_keep_bfloat16(tmp_path):
    variables = {
        "params": {"a": {"kernel": np.ones((2, 3), ml_dtypes.bfloat16)}, "s": np.float32(2)},
        "batch_stats": {"a": {"mean": np.zeros(0, np.float32)}},
    }
    convert.save(tmp_path / "file", variables)
    loaded = convert.load(tmp_path / "file")
    assert loaded["params"]["a"]["kernel"].dtype == ml_dtypes.bfloat16
    assert loaded["params"]["s"] == 2
    assert loaded["batch_stats"]["a"]["mean"].shape == (0,)
    assert sorted(safetensors.torch.load_file(tmp_path / "file")) == [
        "batch_stats/a/mean",
        "params/a/kernel",
        "params/s",
    ]


def test_failed_save_leaves_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="cannot hold"):
        convert.save(tmp_path / "file", {"params": {"a": np.zeros(2, "datetime64[s]")}})
    with pytest.raises(UserError, match="'a' outside of any collection"):
        convert.save(tmp_path / "file", {"a": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("count", [0, 2])
def test_load_of_a_torch_file_raises(writer, count, tmp_path):
    WRITERS[writer](tensors(count), tmp_path / "file")
    with pytest.raises(CheckpointError, match="does not contain Flax variables"):
        convert.load(tmp_path / "file")


@pytest.mark.parametrize("dtype", [np.int8, np.complex64])
def test_load_of_a_kernel_that_is_not_floating_raises(dtype, tmp_path):
    variables = {"params": {"a": {"kernel": np.ones((2, 3), dtype)}, "steps": np.int32(3)}}
    convert.save(tmp_path / "file", variables)
    with pytest.raises(CheckpointError, match=f"params/a/kernel is {np.dtype(dtype)}"):
        convert.load(tmp_path / "file")


def test_load_warns_of_values_that_are_not_finite(tmp_path):
    convert.save(tmp_path / "file", {"params": {"a": np.ones(2), "b": np.array([1, np.nan])}})
    with pytest.warns(UserWarning, match="params/b has values that are NaN or infinite"):
        convert.load(tmp_path / "file")


@pytest.mark.parametrize("value", [{"a": torch.ones(1)}, np.ones(2)], ids=["dict", "ndarray"])
def test_load_tensor_of_something_else_raises(value, tmp_path):
    write_zip(value, tmp_path / "file")
    with pytest.raises(CheckpointError, match=f"expected a tensor, found {type(value).__name__}"):
        load_tensor(tmp_path / "file")
