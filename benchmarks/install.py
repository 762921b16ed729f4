"""The size of an installation, and how long imports take in it.

    python benchmarks/install.py [--extra=train] [--rounds=5]

Builds the wheel, installs it with the versions of constraints.txt into a new virtual environment,
and prints the size of its packages and the median seconds of imports in new processes.
"""

import argparse
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv

ROOT = pathlib.Path(__file__).parent.parent
IMPORTS = ("jax", "flax.linen", "jaxcnn.models", "jaxcnn.convert")


def install(folder: pathlib.Path, extra: str) -> pathlib.Path:
    """Install the wheel into a new environment, and return its Python."""
    source = folder / "source"  # a build leaves files in its tree
    shutil.copytree(ROOT / "jaxcnn", source / "jaxcnn")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    requirement = f"{source}[{extra}]" if extra else str(source)
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", "-q", *constraints, requirement], check=True)
    return python


def mebibytes(folder: pathlib.Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def seconds(python: pathlib.Path, code: str) -> float:
    began = time.perf_counter()
    subprocess.run([python, "-I", "-c", code], check=True)  # -I: not the source tree
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--extra", default="", help="such as train; default: none")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = install(pathlib.Path(folder), arguments.extra)
        (packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
        sizes = {path.name: mebibytes(path) for path in packages.iterdir() if path.is_dir()}
        print(f"Python {sys.version.split()[0]}: {sum(sizes.values()):,.0f} MiB of packages")
        for name in sorted(sizes, key=sizes.__getitem__, reverse=True)[:8]:
            print(f"  {sizes[name]:8,.0f} MiB  {name}")
        nothing = statistics.median(seconds(python, "") for _ in range(arguments.rounds))
        for name in IMPORTS:
            code = f"import {name}"
            taken = statistics.median(seconds(python, code) for _ in range(arguments.rounds))
            print(f"  {taken - nothing:8.2f} s    {code}")


if __name__ == "__main__":
    main()
