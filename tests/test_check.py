"""``jaxcnn check``: the report, the computations with known results, and what it says."""

import os
import re
import signal
import subprocess
import sys

import known_answers
import numpy as np
import pytest
from processes import ROOT

from jaxcnn.cli import check

ENVIRON = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env=ENVIRON | environ, check=False
    )


def test_all_results_are_right_and_the_report_names_versions_devices_and_folders(tmp_path):
    cache, data = str(tmp_path / "cache"), str(tmp_path)
    result = run(*(sys.executable, "-m", "jaxcnn", "check"), JAXCNN_CACHE=cache, TFDS_DATA_DIR=data)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert lines[-1] == "All results are right."
    for dtype in ("float32", "float64"):
        assert sum(f"cpu:0 {dtype}  relative error" in line for line in lines) == 12
    report = {line[:12].strip(): line[12:].strip() for line in lines[: lines.index("")]}
    assert report["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert re.search(r"\bjax \d.*, jaxlib \d.*, flax \d.*, numpy \d", report["packages"])
    assert "memory" in report["cpu:0"] and "GiB of memory" in report["host"]
    assert report["cache folder"].startswith(f"{cache} (does not exist yet; ")
    assert report["datasets"].startswith(f"{data} (") and "GiB free" in report["datasets"]
    assert "XLA_FLAGS" in report


@pytest.mark.parametrize("wrong", ["1.001", "float('nan')"])
def test_wrong_result_gives_status_1_and_names_the_check_and_the_release(wrong):
    code = f"""
import sys
from jaxcnn import cli
from jaxcnn.cli.check import known_answers

known_answers.known_results()["batch norm"]["mean"][0] *= {wrong}
batch_norm = [c for c in known_answers.checks() if c.name == "batch norm"]
known_answers.checks = lambda: batch_norm
sys.exit(cli.main(["check"]))
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 1
    assert result.stdout.count("FAILED") == 2  # float32 and float64
    assert re.search(
        r"^jaxcnn: jax \S+ and jaxlib \S+ do not compute correctly on this machine; failed: "
        r"batch norm in float32 on cpu:0; batch norm in float64 on cpu:0\. "
        r".*pip install -c constraints.txt",
        result.stderr.strip(),
    )


@pytest.mark.parametrize(
    ("version", "platform", "issue"),
    [("0.10.2", "cpu", "39103"), ("0.11.0", "gpu", "40633"), ("0.11.1", "gpu", "40633")],
)
def test_known_bad_releases_are_named(version, platform, issue, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    (sentence,) = check.known_faults({platform})
    assert version in sentence and issue in sentence
    assert check.known_faults({"tpu"}) == []


def test_kept_results_are_those_of_pytorch_in_float64():
    kept = known_answers.ours.known_results()
    computed = known_answers.results_of_torch()
    assert kept.keys() == computed.keys()
    for name, results in computed.items():
        assert kept[name].keys() == results.keys()
        for key, value in results.items():
            scale = np.max(np.abs(value))
            np.testing.assert_allclose(kept[name][key], value, rtol=0, atol=1e-12 * scale)


def test_last_row_of_the_reproducer_is_a_power_of_two():
    squares = known_answers.ours.known_results()["products and sums, 32,769 rows"]
    assert squares["last square"] == 1_073_741_824


def test_every_element_contributes_to_a_digest():
    array = known_answers.ours.numbers(100, 7, seed=1)
    for index in (0, 333, 699):
        changed = array.copy()
        changed.flat[index] += 1e-3
        assert np.any(known_answers.ours.digest(changed) != known_answers.ours.digest(array))


def test_computation_that_xla_cannot_run_has_failed_too():
    code = """
import sys
import jax
from jaxcnn import cli
from jaxcnn.cli.check import known_answers

def out_of_memory(_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")

known_answers.checks = lambda: [known_answers.Check("batch norm", out_of_memory, {})]
sys.exit(cli.main(["check"]))
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 1
    assert result.stdout.count("RESOURCE_EXHAUSTED: Out of memory.  FAILED\n") == 2
    assert "Traceback" not in result.stderr


def test_missing_platform_is_one_sentence_and_status_2():
    result = run(sys.executable, "-m", "jaxcnn", "check", JAX_PLATFORMS="abacus")
    assert result.returncode == 2
    assert result.stderr.startswith("jaxcnn: JAX cannot start with JAX_PLATFORMS='abacus'")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_ends_it_with_status_130():
    with subprocess.Popen(
        [sys.executable, "-m", "jaxcnn", "check"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRON,
    ) as process:
        for line in process.stdout:
            if line.endswith("ok\n"):
                break
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "Interrupted.\n")


@pytest.mark.slow
def test_jax_0_10_2_fails(tmp_path):
    python = str(tmp_path / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    packages = ("jax==0.10.2", "jaxlib==0.10.2", "chex", "flax", "numpy", "optax")
    installed = run(python, "-m", "pip", "install", "-q", *packages)
    if installed.returncode:
        pytest.skip(f"JAX 0.10.2 cannot be installed: {installed.stderr[-500:]}")
    result = run(python, "-m", "jaxcnn", "check")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "products and sums, 32,769 rows in float32 on cpu:0" in result.stderr
    assert "https://github.com/jax-ml/jax/issues/39103" in result.stderr
