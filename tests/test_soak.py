"""The short form of benchmarks/soak.py: nothing grows while a network trains."""

import dataclasses
import runpy
import sys

import pytest
from processes import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "benchmarks" / "soak.py"))


@pytest.mark.slow
def test_nothing_grows_within_half_a_minute(script, tmp_path):
    found = script["growth"](script["soak"](4, 8.0, tmp_path))
    # In so short a time allocators still settle.
    assert found.pop("memory") < 0.05
    assert found == {}


def test_growth_is_noticed(script):
    usual = script["Sample"](threads=40, files=10, temporary=0)
    period = script["Period"]([usual, dataclasses.replace(usual, threads=47, files=24)], [1000])
    steady = [period] * 4
    assert script["growth"](steady) == {"memory": 0.0}
    for name in ("threads", "files", "temporary"):
        more = [dataclasses.replace(s, **{name: getattr(s, name) + 30}) for s in period.samples]
        last = dataclasses.replace(period, samples=more)
        assert list(script["growth"]([*steady, last])) == ["memory", name]
    larger = dataclasses.replace(period, memory=[1020, 1010, 5000])
    assert script["growth"]([*steady, larger]) == {"memory": pytest.approx(0.02)}
