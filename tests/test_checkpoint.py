"""PyTorch's files: all formats load bit for bit, and no code in them is run."""

import collections
import io
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from smallest import smallest_of_families
from tiers import tiers
from torchvision_modules import module_without_values

from jaxcnn import convert, models
from jaxcnn.convert import CheckpointError
from jaxcnn.errors import UserError
from jaxcnn.io.checkpoint import load_tensor, read_file
from jaxcnn.io.pickled_numpy import PickledArray

TORCHVISION = sorted(set(models.list_models()) & set(torchvision.models.list_models()))


def write_zip(value, path) -> None:
    torch.save(value, path)


def write_legacy(value, path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def write_safetensors(value, path) -> None:
    safetensors.torch.save_file({k: v.contiguous() for k, v in value.items()}, path)


def write_tar(value, path) -> None:
    """As PyTorch 0.1.9 did; newer versions only read this format."""
    storages, tensors = io.BytesIO(), io.BytesIO()
    pickle.dump(len(value), storages, 2)
    pickle.dump(len(value), tensors, 2)
    kinds = {
        torch.float16: "Half",
        torch.float32: "Float",
        torch.int64: "Long",
        torch.float64: "Double",
    }
    classes = {}
    for number, item in enumerate(value.values()):
        kind = kinds[item.dtype]
        storage = classes.setdefault(kind, getattr(torch, f"{kind}Storage"))
        pickle.dump((number, "cpu", storage), storages, 2)
        storages.write(struct.pack("<q", item.numel()) + item.contiguous().numpy().tobytes())
        pickle.dump((10**6 + number, number, getattr(torch, f"{kind}Tensor")), tensors, 2)
        strides = item.contiguous().stride()
        rank = item.ndim
        tensors.write(struct.pack(f"<ii{2 * rank + 1}q", rank, 0, *item.shape, *strides, 0))
    pickle.dump([], storages, 2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return item.number if isinstance(item, Stand) else None

    class Stand:
        def __init__(self, number):
            self.number = number

    pickled = io.BytesIO()
    Pickler(pickled, 2).dump(
        collections.OrderedDict((name, Stand(10**6 + n)) for n, name in enumerate(value))
    )
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("storages", storages), ("tensors", tensors), ("pickle", pickled)):
            info = tarfile.TarInfo(name)
            info.size = len(content.getvalue())
            archive.addfile(info, io.BytesIO(content.getvalue()))


WRITERS = {
    "zip": write_zip,
    "legacy": write_legacy,
    "tar": write_tar,
    "safetensors": write_safetensors,
}


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
    archive(tmp_path / "file", pickled)
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
    archive(tmp_path / "file", pickled.replace(old, new))
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


# --- refused files


class Reduce:
    def __init__(self, *value):
        self.value = value

    def __reduce__(self):
        return self.value


def touch(path) -> tuple:
    return (os.system, (f"touch {path}",))


def hostile(canary: str) -> dict[str, bytes]:
    """Pickles that would run code, or that lie about sizes, by name."""
    command = f"touch {canary}"
    ids = {
        "unknown": b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x00zQs.",
        "not a tuple": b"\x80\x02}X\x01\x00\x00\x00aK\x05Qs.",
    }
    text = b"X\x00\x10\x00\x00" + b"a" * 4096
    pairs = b"(" + b"X\x01\x00\x00\x00aK\x01\x86" * 1000 + b"l"
    short = len(command).to_bytes(1, "little")
    return {
        "os.system": pickle.dumps(Reduce(os.system, (command,)), 2),
        "builtins.eval": pickle.dumps(Reduce(eval, (f"__import__('os').system({command!r})",)), 2),
        "nested": pickle.dumps({"a": [Reduce(os.system, (command,))]}, 2),
        "in arguments": pickle.dumps(
            Reduce(collections.OrderedDict, ([("a", Reduce(os.system, (command,)))],)), 2
        ),
        "GLOBAL": b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + short + command.encode()
        + b"\x85R.",
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command.encode() + b"'\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\nX" + len(command).to_bytes(4, "little")
        + command.encode() + b"\x85\x81.",
        "BUILD on a class": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb"
        b"csubprocess\nPopen\n.",
        "an attribute of a known name": b"\x80\x04\x8c\x0bcollections\x8c\x1cOrderedDict.__init__"
        b".__globals__\x93.",
        "a torch name that is not needed": b"ctorch\nload\n(S'x'\ntR.",
        "a torch submodule": b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        "EXT1": b"\x80\x02\x82\x01.",
        "a memo of four billion": b"\x80\x02}r\xff\xff\xff\xff0j\xfe\xff\xff\xff.",
        "a string of four gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
        "a string of 2**63 bytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc.",
        "a string of negative length": b"\x80\x02T\xff\xff\xff\xffabc.",
        "a long of 2**31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        "a number of a million digits": b"I" + b"9" * 10**6 + b"\n.",
        "keys of tuples of tuples": b"\x80\x02}(K\x01K\x01\x86" + b"2\x86" * 90 + b"K\x01u.",
        "a string encoded a thousand times": b"\x80\x02c_codecs\nencode\nq\x01" + text
        + b"q\x02" + b"h\x01h\x02X\x06\x00\x00\x00latin1\x86R" * 1000 + b".",
        "a list made a dict a thousand times": b"\x80\x02ccollections\nOrderedDict\nq\x01" + pairs
        + b"q\x02" + b"h\x01h\x02\x85R" * 1000 + b".",
        "an empty stack": b"\x80\x02.",
        "no mark": b"\x80\x02}u.",
        "a persistent id that is unknown": ids["unknown"],
        "a persistent id that is not a tuple": ids["not a tuple"],
    }  # fmt: skip


CASES = sorted(hostile(""))


def archive(path, pickled: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in ({"version": b"3\n"} | members).items():
            file.writestr(f"archive/{name}", content)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_hostile_pickles_raise_and_run_nothing(case, form, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "file"
    pickled = hostile(str(canary))[case]
    if form == "zip":
        archive(path, pickled)
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(v, 2) for v in head) + pickled + b"\x80\x02].")
    with pytest.raises(CheckpointError) as error:
        convert.load_checkpoint(path)
    assert not canary.exists()
    assert str(path) in str(error.value)
    for name in ("system", "eval", "Popen", "torch.load", "_load_from_bytes"):
        if name in case or (name == "system" and f"{name}" in repr(pickled)):
            assert "was not read" in str(error.value) or "opcode" in str(error.value)


@pytest.mark.parametrize("what", ["string encoded", "list made a dict"])
def test_objects_larger_than_the_file_raise(what, tmp_path):
    archive(tmp_path / "file", hostile("")[f"a {what} a thousand times"])
    with pytest.raises(CheckpointError, match="its objects are larger than the file"):
        convert.load_checkpoint(tmp_path / "file")


def test_error_names_the_refused_function(tmp_path):
    archive(tmp_path / "file", pickle.dumps(Reduce(eval, ("1",)), 2))
    with pytest.raises(CheckpointError, match="asks for '__builtin__.eval'"):
        convert.load_checkpoint(tmp_path / "file")


def state_with(storage_count, offset, size, stride, data: bytes = bytes(16)) -> tuple:
    """The pickle of a state dict with one float tensor of such sizes, and its storage."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if item is marker:
                return ("storage", torch.FloatStorage, "0", "cpu", storage_count)
            return None

    marker = object()
    rebuild = torch._utils._rebuild_tensor_v2
    buffer = io.BytesIO()
    value = Reduce(rebuild, (marker, offset, size, stride, False, collections.OrderedDict()))
    Pickler(buffer, 2).dump({"a": value})
    return buffer.getvalue(), data


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
    pickled, data = state_with(*sizes)
    archive(tmp_path / "file", pickled, **{"data/0": data})
    with pytest.raises(CheckpointError, match="is damaged"):
        convert.load_checkpoint(tmp_path / "file")


def test_tensor_within_its_storage_loads(tmp_path):
    pickled, data = state_with(4, 1, (3,), (1,), np.arange(4, dtype=np.float32).tobytes())
    archive(tmp_path / "file", pickled, **{"data/0": data})
    assert convert.load_checkpoint(tmp_path / "file")["a"].tolist() == [1, 2, 3]


def test_zip_bomb_raises(tmp_path):
    pickled, _ = state_with(2**26, 0, (2**26,), (1,))
    with zipfile.ZipFile(tmp_path / "file", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickled, compress_type=zipfile.ZIP_STORED)
        file.writestr("archive/data/0", bytes(2**28))
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


def mutate(data: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(data))
        kind = rng.randrange(5)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, *b".(}]tuRbcQqhX"])
        elif kind == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            data[at : at + 8] = struct.pack("<q", rng.choice([-1, 0, 2**31, 2**62, 2**63 - 1]))
        if not data:
            break
    return bytes(data)


def fuzz(count: int, seed: int, path) -> None:
    """Read damaged files: they raise CheckpointError, or give arrays that can be read."""
    state = collections.OrderedDict(
        a=torch.arange(12.0).reshape(3, 4), b=torch.ones(2, 2).t(), n=torch.tensor(1)
    )
    originals = []
    for writer in WRITERS.values():
        writer(state, path)
        originals.append(path.read_bytes())
    for protocol in (2, 5):
        values = state | {"best": np.float64(0.5), "m": np.arange(4.0), "s": np.array(["a"])}
        torch.save(values, path, pickle_protocol=protocol)
        originals.append(path.read_bytes())
    rng = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(count):
        path.write_bytes(mutate(originals[case % len(originals)], rng))
        try:
            for array in convert.load_checkpoint(path).values():
                if array.size < 2**20:  # a broadcast view may be larger than its data
                    array.sum()
        except CheckpointError:
            pass
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 64 * 2**20  # no file here is larger than 20 KiB


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # sums of damaged floats overflow
@pytest.mark.filterwarnings("ignore:.*several dicts of tensors:UserWarning")
@pytest.mark.parametrize("seed", range(2))
def test_damaged_files_raise_checkpoint_error_only(seed, tmp_path):
    fuzz(500, seed, tmp_path / "file")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*several dicts of tensors:UserWarning")
@pytest.mark.parametrize("seed", range(2, 6))
def test_twenty_thousand_damaged_files_raise_checkpoint_error_only(seed, tmp_path):
    fuzz(5000, seed, tmp_path / "file")


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_pickle_raise_checkpoint_error_only(tmp_path_factory, pickled):
    path = tmp_path_factory.getbasetemp() / "any"
    archive(path, pickled)
    with pytest.raises(CheckpointError):
        convert.load_checkpoint(path)


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
