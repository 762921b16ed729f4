"""What is said where a process aborts in C++, and that nothing is said otherwise."""

import subprocess
import sys

import pytest
from processes import ROOT

_PROCESS = """
import os, signal, sys
from jaxcnn.training.watcher import Watcher

watcher = Watcher()
watcher.expect("Before.")
watcher.expect("What to do.")
exec(sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")
@pytest.mark.parametrize(
    ("end", "stderr"),
    [
        ("os.abort()", "What to do.\n"),
        ("os._exit(3)", ""),
        ("sys.exit(0)", ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
        # A signal to the group, as Ctrl-C sends it, does not end the watcher.
        (
            "signal.signal(signal.SIGINT, signal.SIG_IGN); os.killpg(0, signal.SIGINT); os.abort()",
            "What to do.\n",
        ),
    ],
)
def test_only_an_abort_is_answered_with_the_last_sentence(end, stderr):
    result = subprocess.run(
        [sys.executable, "-c", _PROCESS, end],
        capture_output=True,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("", stderr)
