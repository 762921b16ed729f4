"""A device that has too little memory for a step."""

import os
import re
import subprocess
import sys

import pytest
from processes import ROOT

PROGRAM = """
import pathlib, resource, sys
from jaxcnn.errors import UserError
from jaxcnn.training.build import build
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.loop import train_and_evaluate

config = open_config(
    "anynet", "digits", num_epochs=1, batch_size=64, train_split="train[:64]",
    image_size=1536, eval__image_size=32, eval__split="test[:16]",
)
with config.unlocked():
    config.model_args.update(depths=(1,), widths=(16,), group_widths=(16,), stem_width=8)
run = build(resolve(config), sys.argv[1])
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 6 * 2**30  # the step needs 13 GB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    train_and_evaluate(run, pathlib.Path(sys.argv[2]))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_step_that_does_not_fit_into_memory_offers_accumulation(data_dir, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, data_dir, tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
    )
    assert re.fullmatch(
        r"Out of memory: config\.batch_size=64 with config\.accumulate_steps=1 is 64 image\(s\) at "
        r"once on each of 1 device\(s\); set config\.accumulate_steps=2, which computes 32 at once,"
        r" and start the same command again \(or lower config\.batch_size in another --workdir\)\. "
        r"What was saved is kept\. \(Out of memory allocating \d+ bytes\.\)",
        result.stdout.splitlines()[-1],
    ), result.stderr
