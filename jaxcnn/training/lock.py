"""Keeping a second run out of a workdir.

``run.lock`` is locked by the kernel for as long as the process lives, whatever ends it, and
``running.json`` says who it is. On one machine the kernel's lock decides. Across machines it does
so only where the disk passes locks on; so the run also touches ``running.json`` every few seconds,
and who finds it without a lock watches for a while whether its run is alive.
"""

import contextlib
import dataclasses
import datetime
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.training.progress import warn

LOCK = "run.lock"
OWNER = "running.json"
BEAT = 10.0  # seconds from one sign of life to the next
_BEATS_WAITED = 3
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # other containers of this machine have the same
# Of a disk without locks.
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that trains in a workdir.

    Attributes:
        host: the name of its machine.
        pid: its number there.
        since: when it started, in ISO 8601.
        boot_id: of the running system of its machine; the name of the machine where there is none.
    """

    host: str
    pid: int
    since: str
    boot_id: str

    @classmethod
    def this_process(cls) -> "Owner":
        """This one, from now on."""
        now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        host = socket.gethostname()
        try:
            boot_id = _BOOT_ID.read_text().strip()
        except OSError:
            boot_id = host
        return cls(host, os.getpid(), now, boot_id)

    @classmethod
    def read(cls, path: Path) -> "Owner | None":
        """The one that a file names; None: there is no such file, or it names none."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, which has trained there since {self.since}"


class WorkdirLock:
    """Holds a workdir for this process, as a context manager.

    What a dead process left is taken over: at once if it ran on this machine, where the kernel has
    released its lock; otherwise after three beats without a sign of life.

    Args:
        workdir: the folder; made if it does not exist.
        beat: seconds from one sign of life to the next; the same in all processes.
        report: called with a sentence before it waits for one.

    Raises:
        UserError: when entered, if another process holds the workdir.
        OSError: when entered, if the folder cannot be written.
    """

    def __init__(self, workdir: Path, *, beat: float = BEAT, report: Callable[[str], None] = warn):
        self._workdir, self._beat, self._report = workdir, beat, report
        self._lock: filelock.BaseFileLock | None = None
        self._owner: Owner | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "WorkdirLock":
        path = self._workdir / OWNER
        self._workdir.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self._workdir / LOCK, timeout=0)
        by_kernel = True
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise self._in_use(Owner.read(path)) from error
        except (OSError, NotImplementedError) as error:  # the latter from older releases of it
            if isinstance(error, OSError) and error.errno not in _UNSUPPORTED:
                raise
            by_kernel = False
        try:
            before, this = Owner.read(path), Owner.this_process()
            same_machine = before is not None and before.boot_id == this.boot_id
            if before is not None and not (by_kernel and same_machine):
                self._wait_for_sign_of_life(path, before)
            with atomic_write(path) as file:
                file.write((json.dumps(dataclasses.asdict(this)) + "\n").encode())
        except BaseException:
            lock.release()
            raise
        self._lock, self._owner = lock, this
        self._thread = threading.Thread(target=self._touch, name="workdir-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if Owner.read(self._workdir / OWNER) == self._owner:
                (self._workdir / OWNER).unlink()
        self._lock.release()

    def _touch(self) -> None:
        while not self._ended.wait(self._beat):
            with contextlib.suppress(OSError):  # of a disk that is away for a while
                os.utime(self._workdir / OWNER)

    def _wait_for_sign_of_life(self, path: Path, owner: Owner) -> None:
        def state() -> tuple[int, Owner | None]:
            with path.open("rb") as file:  # network disks look again when a file is opened
                return os.fstat(file.fileno()).st_mtime_ns, Owner.read(path)

        with contextlib.suppress(FileNotFoundError):  # it has ended
            first = state()
            seconds = _BEATS_WAITED * self._beat
            self._report(
                f"The workdir {self._workdir} was left by {owner}; waiting {seconds:.0f} seconds "
                f"for a sign of life. (If there is none to come, delete {path}.)"
            )
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(self._beat / 4)
                if state() != first:
                    raise self._in_use(Owner.read(path) or owner)

    def _in_use(self, owner: Owner | None) -> UserError:
        return UserError(
            f"The workdir {self._workdir} is in use by {owner or 'another process'}; stop that one "
            f"first, or use another --workdir."
        )
