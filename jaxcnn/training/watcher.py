"""The last words of a process that JAX ends from C++, where no Python runs any more.

JAX's coordination service aborts a process that cannot reach the others: after a C++ stack trace it
is gone, and nobody says what to do. So a small process beside it waits. When the process aborts,
Python's ``faulthandler`` says so to the other one through a pipe, from the signal's handler; that
one then writes a sentence to stderr. However else the process ends, nothing is written.
"""

import faulthandler
import subprocess
import sys
from typing import IO

# Run by an interpreter of its own, which imports nothing else. It is of another session, so that
# Ctrl-C does not reach it, and ignores what a scheduler sends to all processes. It ends with the
# pipe.
_SCRIPT = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sentences, fatal, report = sys.stdin.buffer.read().partition(b"Fatal Python error: ")
if report.startswith(b"Aborted"):
    sys.stderr.buffer.write(sentences.splitlines()[-1] + b"\\n")
elif fatal:
    sys.stderr.buffer.write(fatal + report)
"""


class Watcher:
    """Writes a sentence to stderr if this process aborts."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe: IO[bytes] = self._process.stdin
        faulthandler.enable(self._pipe.fileno(), all_threads=False)

    def expect(self, sentence: str) -> None:
        """From now on say this.

        Args:
            sentence: in one line.
        """
        self._pipe.write(sentence.encode() + b"\n")
        self._pipe.flush()
