"""Damage a checkpoint in every way, and count what is found and what would have been loaded.

    python benchmarks/damage.py [MODEL]

Two checkpoints of a network are saved. In the newer one a bit is flipped in each 4 kB of each file,
each file is truncated at several lengths, emptied, removed and replaced by that of the other
checkpoint; files are added, and the two folders swapped. After each, the checkpoint is read as
train.py reads it, and by Orbax alone. One bit in each 4 kB of the final weights is flipped, too.
"""

import collections
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxcnn import convert, models
from jaxcnn.errors import CheckpointError
from jaxcnn.io.manifest import DamagedError
from jaxcnn.io.safetensors import verify_safetensors
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.devices import replicate
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import TrainState, init_state

BLOCK = 4096

Damage = tuple[str, str, Callable[[], contextlib.AbstractContextManager[None]]]


@contextlib.contextmanager
def flipped(path: Path, position: int, bit: int) -> Iterator[None]:
    """One bit of a file, within the block."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ 1 << bit]))

    flip()
    try:
        yield
    finally:
        flip()


@contextlib.contextmanager
def replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """The whole of a file, within the block; None: there is none."""
    old = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)


@contextlib.contextmanager
def swapped(first: Path, second: Path) -> Iterator[None]:
    """The names of two files or folders, within the block."""

    def swap() -> None:
        third = first.parent / "swapped"
        first.rename(third)
        second.rename(first)
        third.rename(second)

    swap()
    try:
        yield
    finally:
        swap()


def flips(path: Path, seed: str) -> Iterator[tuple[int, int]]:
    """A random position and bit in each block of a file."""
    size = path.stat().st_size
    generator = random.Random(seed)
    for start in range(0, size, BLOCK):
        yield generator.randrange(start, min(start + BLOCK, size)), generator.randrange(8)


def damages(folder: Path, other: Path) -> Iterator[Damage]:
    """All kinds of damage to a checkpoint: the kind, a description, and the damage as a context.

    Args:
        folder: of the checkpoint.
        other: of another one.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        for position, bit in flips(path, name):
            what = f"{name}: bit {bit} of byte {position}"
            yield "flip", what, lambda *a, p=(path, position, bit): flipped(*p)
        content = path.read_bytes()
        for length in sorted({0, 1, size // 2, size // BLOCK * BLOCK, size - 1} - {size}):
            what = f"{name}: {length} bytes of {size}"
            yield "truncate", what, lambda p=(path, content[:length]): replaced(*p)
        yield "extend", name, lambda p=(path, content + b"\0"): replaced(*p)
        yield "remove", name, lambda p=(path, None): replaced(*p)
        # Orbax's names of data files are random: the other's is the one that is as large.
        near = sorted(
            (abs(twin.stat().st_size - size), twin)
            for twin in (other / name).parent.glob("*")
            if twin.is_file() and (twin.name == path.name or not (other / name).exists())
        )
        if near and near[0][1].read_bytes() != content:
            twin = near[0][1]
            yield "swap", f"{name} and {twin}", lambda p=(path, twin): swapped(*p)
            if twin.name != path.name:
                added = path.parent / twin.name, twin.read_bytes()
                yield "add", str(twin), lambda p=added: replaced(*p)
    yield "swap", "the folders", lambda p=(folder, other): swapped(*p)


def make_checkpoints(directory: Path, model: str) -> TrainState:
    """Save those of steps 1 and 2, of random values, and return the state of step 2."""
    size = (32, 32, 1) if model == "lenet5" else (64, 64, 3)
    network, optimizer = models.create_model(model, num_classes=10), sgd(0.1, momentum=0.9)
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            state = init_state(network, optimizer, (1, *size), seed=step)
            generator = np.random.default_rng(step)
            state = jax.tree.map(
                lambda leaf, draw=generator.normal: draw(size=leaf.shape).astype(leaf.dtype), state
            )
            state = TrainState(**(vars(state) | {"step": np.int32(step)}))
            checkpoints.save(replicate(state))
    return state


def outcome(restore: Callable[[], object], saved: object) -> str:
    """What became of a damaged checkpoint."""
    try:
        restored = restore()
    except DamagedError:
        return "found"
    except Exception:
        return "error"
    pairs = zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True)
    same = all(np.array_equal(a, b) for a, b in pairs)
    return "loaded, as it was saved" if same else "LOADED, WITH OTHER VALUES"


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "lenet5"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "checkpoints"
        state = make_checkpoints(directory, model)
        size = sum(path.stat().st_size for path in (directory / "2").rglob("*"))
        checkpoints, manager = Checkpoints(directory), ocp.CheckpointManager(directory)
        saved = manager.restore(2, args=ocp.args.StandardRestore())
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for kind, _, damage in damages(directory / "2", directory / "1"):
            with damage():
                ours = outcome(lambda: checkpoints.restore(state, 2), state)
                alone = outcome(lambda: manager.restore(2, args=ocp.args.StandardRestore()), saved)
            counts["train.py"][kind, ours] += 1
            counts["Orbax alone"][kind, alone] += 1
        assert outcome(lambda: checkpoints.restore(state, 2), state) == "loaded, as it was saved"
        shutil.rmtree(directory)
        weights = Path(temporary) / "weights.safetensors"
        convert.save_torch(weights, state.variables)
        for position, bit in flips(weights, "weights"):
            with flipped(weights, position, bit):
                try:
                    found = "loaded" if verify_safetensors(weights) else "no checksum"
                except CheckpointError:
                    found = "found"
            counts["weights.safetensors"]["flip", found] += 1
    print(f"{model}, a checkpoint of {size / 1e6:.2f} MB; {time.perf_counter() - start:.0f} s")
    for reader, found in counts.items():
        print(f"{reader}: {found.total()} cases")
        for (kind, result), count in sorted(found.items()):
            print(f"  {kind:10} {result:28} {count:6}")


if __name__ == "__main__":
    main()
