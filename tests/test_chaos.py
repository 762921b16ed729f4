"""The short form of benchmarks/chaos.py: runs that are killed end as if they had not been."""

import runpy
import shutil
import sys

import pytest
from processes import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify")


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    script = runpy.run_path(str(ROOT / "benchmarks" / "chaos.py"))
    kills = script["chaos"](4, 1, tmp_path)  # raises if a run ends otherwise
    assert len(kills) == 4
    reference = tmp_path / "reference"
    other = shutil.copytree(reference, tmp_path / "other")
    assert script["differences"](other, reference) == []
    content = bytearray((other / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "weights.safetensors").write_bytes(content)
    lines = (other / "metrics.jsonl").read_text().splitlines(keepends=True)
    (other / "metrics.jsonl").write_text("".join(lines[:-1]))
    shutil.rmtree(max((other / "checkpoints").iterdir(), key=lambda path: int(path.name)))
    found = script["differences"](other, reference)
    assert [word.split()[0] for word in found] == [
        "weights",
        "checkpoints",
        "state",
        "metrics.jsonl",
    ]


def test_changes_to_files_are_reported_by_their_kind(tmp_path):
    changes = runpy.run_path(str(ROOT / "benchmarks" / "chaos.py"))["Changes"](tmp_path)
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)  # at once: the second is not yet watched
    (tmp_path / "a").write_text("")
    (tmp_path / "a").rename(tmp_path / "b1")
    seen = [change for _ in range(5) for change in changes.wait(0.1)]
    assert seen[:2] == ["create checkpoints", "create checkpoints/N"]
    (tmp_path / "checkpoints" / "12" / ("0" * 32)).write_text("")
    (tmp_path / "b1").unlink()
    seen += [change for _ in range(5) for change in changes.wait(0.1)]
    changes.close()
    assert seen[2:] == ["create a", "rename to bN", "create checkpoints/N/HASH", "delete bN"]
