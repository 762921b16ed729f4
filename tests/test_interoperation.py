"""The examples of docs/interoperation.md run: networks in other people's programs."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from processes import ROOT

from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.devices import replicate
from jaxcnn.training.step import TrainState

DOCUMENT = (ROOT / "docs" / "interoperation.md").read_text()
# The blocks of Python by section; the first, before any heading, is what the others share.
SECTIONS = {
    section.partition("\n")[0]: "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    for section in DOCUMENT.split("\n## ")
}
(SHARED, *OTHERS) = SECTIONS
SLOW = ("remat", "vmap", "A mesh: data parallel", "A mesh: sharded parameters")


@pytest.fixture(scope="module")
def program():
    """What the examples share."""
    namespace = {}
    exec(SECTIONS[SHARED], namespace)
    return namespace


@pytest.mark.parametrize(
    "section", [pytest.param(s, marks=[pytest.mark.slow] * (s in SLOW)) for s in OTHERS]
)
def test_example_runs(section, program, tmp_path, monkeypatch):
    assert jax.device_count() == 4
    assert "assert " in SECTIONS[section]
    monkeypatch.chdir(tmp_path)
    if section == "Orbax":
        save_checkpoint(program)
    exec(SECTIONS[section], dict(program))


def save_checkpoint(program):
    folder = pathlib.Path("runs/a/checkpoints")
    folder.mkdir(parents=True)
    variables = program["variables"]
    state = TrainState(step=jnp.asarray(22), opt_state={}, **variables)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(replicate(state))
