"""Files as the releases of PyTorch write them."""

import collections
import io
import pickle
import struct
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch


def write_zip(value, path) -> None:
    torch.save(value, path)


def write_legacy(value, path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def write_safetensors(value, path) -> None:
    safetensors.torch.save_file({k: v.contiguous() for k, v in value.items()}, path)


def tar_of(storages: bytes, tensors: bytes, pickled: bytes) -> bytes:
    """A file as PyTorch before 0.1.10 wrote it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("storages", storages), ("tensors", tensors), ("pickle", pickled)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


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
    path.write_bytes(tar_of(storages.getvalue(), tensors.getvalue(), pickled.getvalue()))


WRITERS = {
    "zip": write_zip,
    "legacy": write_legacy,
    "tar": write_tar,
    "safetensors": write_safetensors,
}


def small_files() -> dict[str, bytes]:
    """A small checkpoint of each format, by name: tensors that share, and values beside them."""
    state = collections.OrderedDict(
        a=torch.arange(12.0).reshape(3, 4), b=torch.ones(2, 2).t(), n=torch.tensor(1)
    )
    beside = state | {"best": np.float64(0.5), "m": np.arange(4.0), "s": np.array(["a"])}
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for name, writer in WRITERS.items():
            writer(state, path)
            files[name] = path.read_bytes()
        for protocol in (2, 5):
            torch.save(beside, path, pickle_protocol=protocol)
            files[f"protocol {protocol}"] = path.read_bytes()
    return files
