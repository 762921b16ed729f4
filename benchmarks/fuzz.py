"""Fuzz the reader of checkpoints: damaged and hostile files do no harm.

    python benchmarks/fuzz.py [--seconds 3600] [--keep tests/corpus]
    python benchmarks/fuzz.py --mutations 1000 [--seed 0]

The first form is guided by coverage: atheris (libFuzzer) keeps what reaches new lines, and starts
from tests/corpus, the attacks of tests/attacks.py and a small file of each format. ``--keep`` adds
the smallest files that together reach as much to a folder. The second form, which the tests run
too, needs no atheris: it reads all of these files, then as many of them with random changes.

A file must load, or raise CheckpointError. Whatever it is: no code in it runs, no other file is
opened, nothing is imported (an audit hook sees it), and the memory that it takes is bounded by its
length. What breaks this is printed, and left as crash-HASH in the folder of --crashes. Needs the
extra "dev" (and for --mutations only "test").
"""

import argparse
import codecs
import hashlib
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "tests" / "corpus"
LONGEST = 8192  # bytes of a file that is tried
# What reading may do, as Python's audit events name it; a path may be opened that is the file's.
ALLOWED = {"mmap.__new__", "builtins.id"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# An opcode of one byte makes at most a dict, its place on the stack and its entry in the memo.
PER_BYTE, AND = 400, 1 << 20


class Violation(Exception):
    """A file has done what no file may do."""


class Reader:
    """Reads files, and notices what they must not do.

    Args:
        load: reads the weights in a file, as ``load_checkpoint`` does.
        path: where each file is put.
    """

    def __init__(self, load: Callable[[str], dict[str, np.ndarray]], path: Path):
        self._load, self._path = load, str(path)
        self._events: list[str] | None = None
        for codec in ("cp437", "raw_unicode_escape"):  # imported when they are first used
            codecs.lookup(codec)
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._events is None or event in ALLOWED:
            return
        if event == "open" and arguments[0] == self._path and not arguments[2] & WRITING:
            return
        self._events.append(f"{event}{str(arguments)[:200]}")

    def read(self, data: bytes) -> bool:
        """Read a file.

        Returns:
            Whether it was loaded, and not refused.

        Raises:
            Violation: see the head of this script.
        """
        from jaxcnn.errors import CheckpointError

        Path(self._path).write_bytes(data)
        tracemalloc.start()
        self._events = events = []
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for array in self._load(self._path).values():
                    if array.size < 1 << 20:  # a broadcast view may be larger than its data
                        array.sum()
            loaded = True
        except CheckpointError as error:
            loaded = False
            if len(str(error)) > 2000:
                raise Violation(f"an error of {len(str(error)):,} characters") from error
        except Exception as error:
            raise Violation(f"{type(error).__name__}: {str(error)[:200]}") from error
        finally:
            self._events = None
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if events:
            raise Violation(f"it did {events[0]}")
        if peak > PER_BYTE * len(data) + AND:
            raise Violation(f"{peak:,} bytes of memory for a file of {len(data):,}")
        return loaded


def sound_files() -> list[bytes]:
    """A small file of each format."""
    from torch_writers import small_files

    return list(small_files().values())


def starting_files(sound: list[bytes]) -> list[bytes]:
    """tests/corpus, the attacks, and the sound files."""
    from attacks import attacks

    corpus = [path.read_bytes() for path in sorted(CORPUS.glob("[!.]*"))]
    return [*corpus, *attacks("canary").values(), *sound]


def in_archive(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A zip file with a changed pickle in it; other files are changed themselves.

    A change of its length would only damage the archive.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # of what is damaged already
        return change(data)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that occurs twice
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def changed(data: bytes, rng: random.Random) -> bytes:
    """A file with a few random changes."""

    def change(part: bytes) -> bytes:
        content = bytearray(part)
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            if not content:
                break
            at = rng.randrange(len(content))
            kind = rng.randrange(5)
            if kind == 0:
                content[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                content[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, *b".(}]tuRbcQqhX"])
            elif kind == 2:
                del content[at : at + rng.randrange(1, 9)]
            elif kind == 3:
                content[at:at] = rng.randbytes(rng.randrange(1, 9))
            else:
                number = rng.choice([-1, 0, 2**31, 2**62, 2**63 - 1])
                content[at : at + 8] = struct.pack("<q", number)
        return bytes(content)

    return in_archive(data, change) if rng.random() < 0.5 else change(data)


def read_changed(reader: Reader, count: int, seed: int, crashes: Path) -> int:
    """Read the starting files, then some of them with random changes.

    Returns:
        How many violations there were.
    """
    sound, rng = sound_files(), random.Random(seed)
    files = starting_files(sound)
    kinds = sound, [data for data in files if len(data) <= LONGEST]
    cases = [*files, *(changed(rng.choice(rng.choice(kinds)), rng) for _ in range(count))]
    loaded = found = 0
    for data in cases:
        try:
            loaded += reader.read(data)
        except Violation as violation:
            found += 1
            print(f"{saved_crash(data, crashes)}: {violation}")
    print(f"{len(cases):,} files: {loaded:,} loaded, {len(cases) - loaded - found:,} refused")
    return found


def saved_crash(data: bytes, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def run_libfuzzer(arguments: list[str]) -> None:
    """Hand this process over to libFuzzer, which ends it.

    Args:
        arguments: the name of a program that does this, and libFuzzer's arguments.
    """
    import atheris

    with atheris.instrument_imports(include=["jaxcnn.io", "zipfile"]):
        from jaxcnn.io.checkpoint import load_checkpoint

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        if random.Random(seed).random() < 0.5:
            return atheris.Mutate(data, max_size)
        return in_archive(data, lambda part: atheris.Mutate(part, max_size))[:max_size]

    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        reader = Reader(load_checkpoint, Path(folder) / "file")
        atheris.Setup(arguments, reader.read, custom_mutator=mutate)
        atheris.Fuzz()


def memory_folder() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def libfuzzer(*arguments: str | Path) -> int:
    """Run libFuzzer in a process of its own; its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        # It starts itself again to merge, by its name alone.
        name = Path(folder) / "fuzz"
        name.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} --libfuzzer "$0" "$@"\n')
        name.chmod(0o700)
        return subprocess.run([name, *arguments]).returncode


def fuzz(seconds: int, keep: Path | None, crashes: Path) -> int:
    """Fuzz by coverage for some time; the exit status."""
    crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        found, smallest = Path(temporary, "found"), Path(temporary, "smallest")
        for folder in (found, smallest):
            folder.mkdir()
        files = starting_files(sound_files())
        write_files(found, files)
        print(f"Starting from {len(list(found.iterdir()))} files", flush=True)
        started = time.perf_counter()
        status = libfuzzer(
            *(found, f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=20"),
            *("-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={crashes}/"),
        )
        print(f"{(time.perf_counter() - started) / 60:.1f} minutes, status {status}", flush=True)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            # Only what reaches more than the files that the tests build themselves.
            write_files(smallest, files)
            before = set(smallest.iterdir())
            libfuzzer("-merge=1", f"-max_len={LONGEST}", smallest, found)
            new = set(smallest.iterdir()) - before
            write_files(keep, (path.read_bytes() for path in new))
            print(f"{len(new)} files added to {keep}")
    return status


def write_files(folder: Path, contents: Iterable[bytes]) -> None:
    for content in contents:
        (folder / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)


def main() -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    if sys.argv[1:2] == ["--libfuzzer"]:
        run_libfuzzer(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--keep", type=Path, help="a folder that gets what reaches new lines")
    parser.add_argument("--mutations", type=int, help="random changes, without atheris")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes")
    parser.add_argument("--crashes", type=Path, default=Path(tempfile.gettempdir(), "crashes"))
    arguments = parser.parse_args()
    if arguments.mutations is None:
        return fuzz(arguments.seconds, arguments.keep, arguments.crashes)
    from jaxcnn.io.checkpoint import load_checkpoint

    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        reader = Reader(load_checkpoint, Path(folder) / "file")
        found = read_changed(reader, arguments.mutations, arguments.seed, arguments.crashes)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
