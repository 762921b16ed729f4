"""Virtual environments in which the installed package is tried."""

import os
import pathlib
import shutil
import site
import subprocess
import sys
import venv

from processes import ROOT


def build_wheel(folder: pathlib.Path) -> pathlib.Path:
    """Builds the package's wheel, from a copy: a build leaves files in the source tree."""
    source = folder / "source"
    source.mkdir()
    shutil.copytree(ROOT / "jaxcnn", source / "jaxcnn")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "dist", source]
    subprocess.run(pip, check=True)
    (wheel,) = (folder / "dist").glob("jaxcnn-*.whl")
    return wheel


def create(folder: pathlib.Path, *requirements: str) -> pathlib.Path:
    """Creates a virtual environment with packages of tested versions, and returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *requirements]
    subprocess.run(pip, check=True)
    return python


def without(
    folder: pathlib.Path, *packages: str, prefix: pathlib.Path | None = None
) -> pathlib.Path:
    """Creates a virtual environment with another's packages but for some, and returns its Python.

    Args:
        folder: of the new environment.
        *packages: modules that it must not have.
        prefix: of the other environment; None: that of the tests.
    """
    venv.create(folder)
    (target,) = folder.glob("lib/python*/site-packages")
    if prefix is None:
        (source,) = (path for path in map(pathlib.Path, site.getsitepackages()) if path.is_dir())
    else:
        (source,) = prefix.glob("lib/python*/site-packages")
    names = tuple(packages)
    for path in source.iterdir():
        if path.suffix != ".pth" and not path.name.startswith((*names, "__editable__")):
            (target / path.name).symlink_to(path)
    return folder / "bin" / "python"


def run(
    python: pathlib.Path, *arguments: str | pathlib.Path, folder: pathlib.Path, **environ: str
) -> str:
    """Runs a Python without the source tree, which has to succeed, and returns its output."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=own | {"XLA_FLAGS": "", **environ},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
