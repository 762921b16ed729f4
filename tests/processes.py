"""Starting ``train.py`` as users start it."""

import os
import pathlib
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
