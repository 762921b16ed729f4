"""Starting ``train.py`` and ``jaxcnn`` as users start them."""

import os
import pathlib
import re
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
DEVICES = "--xla_force_host_platform_device_count"


def start_train(
    *flags: str, data_dir: str, devices: int = 1, environ: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts ``python train.py`` on so many CPU devices."""
    return subprocess.Popen(
        [sys.executable, ROOT / "train.py", f"--data_dir={data_dir}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": f"{DEVICES}={devices}"} | (environ or {}),
        cwd=ROOT,
    )


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


# In place of the installed command, of which there may be none, or of another checkout.
_JAXCNN = """#!{python}
import sys
from jaxcnn.cli import main

status = main()
heavy = {heavy} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else status)
"""


def shell_lines(document: str) -> list[str]:
    """The lines of shell in a document, continued ones joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def documented_commands(document: str, command: str = "") -> list[str]:
    """The lines of shell in a document that run ``jaxcnn``, or one subcommand of it."""
    start = " ".join(["jaxcnn", *command.split(), ""])
    found = [line for line in shell_lines(document) if line.startswith(start)]
    assert found
    return found


def run_documented(
    line: str,
    values: dict[str, str],
    folder: pathlib.Path,
    environ: dict[str, str],
    heavy: tuple[str, ...] = ("tensorflow", "torch", "matplotlib"),
) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell in a folder; the command may not import some packages.

    Args:
        line: from :func:`documented_commands`.
        values: what to put in place of some of its words.
        folder: with the files that it names.
        environ: additional variables.
        heavy: the packages that the command may not import.
    """
    program = folder / "bin" / "jaxcnn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(_JAXCNN.format(python=sys.executable, heavy=set(heavy)))
    program.chmod(0o755)
    for word, value in values.items():
        line = re.sub(rf"(?<=[ :]){re.escape(word)}(?= |$)", value, line)
    environ = {"PATH": f"{program.parent}:{os.environ['PATH']}", "XLA_FLAGS": "", **environ}
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        cwd=folder,
        check=False,
    )
