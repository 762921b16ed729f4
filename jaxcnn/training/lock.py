"""Keeping a second run out of a workdir.

``run.lock`` is locked by the kernel for as long as the process lives, whatever ends it, and
``running.json`` says who it is. On one machine the kernel's lock decides. Across machines it does
so only where the disk passes locks on; so the run also touches ``running.json`` every few seconds,
and who finds it without a lock watches for a while whether its run is alive.

A bucket has no locks, but of several processes that create an object only one succeeds. There
``running.json`` is all: it is written again every few seconds, and who finds it watches it. A run
that was silent for longer than that, as where its network was away, may find that another has taken
over; it looks before each save, and then ends without saving.
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
from jaxcnn.io.paths import in_bucket, is_unreachable
from jaxcnn.training.progress import warn

LOCK = "run.lock"
OWNER = "running.json"
BEAT = 10.0  # seconds from one sign of life to the next
_BEATS_WAITED = 3
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # other containers of this machine have the same
_PROCESSES = Path("/proc/self/ns/pid")  # and this is what they have for themselves
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

    def check(self) -> None:
        """Do nothing: what the kernel has locked stays so."""

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
        return UserError(_in_use(self._workdir, owner))


class BucketLock:
    """Holds a workdir in a bucket for this process, as a context manager.

    What a dead process left is taken over: at once if it ran on this machine, and there is no
    process of its number any more; otherwise after three beats without a sign of life.

    The arguments and errors are those of :class:`WorkdirLock`.
    """

    def __init__(self, workdir: Path, *, beat: float = BEAT, report: Callable[[str], None] = warn):
        self._workdir, self._beat, self._report = workdir, beat, report
        self._path = workdir / OWNER
        this = Owner.this_process()
        with contextlib.suppress(OSError):
            this = dataclasses.replace(this, boot_id=f"{this.boot_id} {os.readlink(_PROCESSES)}")
        self._owner = this
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._touch, name="workdir-lock", daemon=True)

    def __enter__(self) -> "BucketLock":
        while True:
            try:
                self._path.create(self._content(0))
                break
            except FileExistsError:
                if self._is_own():  # the answer to a first try was lost
                    break
                self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if not is_unreachable(self._path) and self._is_own():
                self._path.unlink()

    def check(self) -> None:
        """Check that the workdir is still held.

        Raises:
            UserError: if another process has taken it over, or the bucket cannot be read.
        """
        try:
            owner = self._read()[1]
        except OSError as error:
            raise UserError(
                f"The workdir {self._workdir} cannot be read ({error.strerror}); what was saved is "
                f"kept. Check the network, and start the same command again."
            ) from error
        if owner != self._owner:
            raise UserError(
                f"The workdir {self._workdir} was taken over by {owner or 'another process'}, "
                f"while this one could not reach the bucket; this run ends without saving again."
            )

    def _content(self, beat: int) -> bytes:
        return (json.dumps(dataclasses.asdict(self._owner) | {"beat": beat}) + "\n").encode()

    def _read(self) -> tuple[bytes, Owner | None]:
        """The content of ``running.json``, and whom it names."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return b"", None
        try:
            fields = json.loads(content)
            fields.pop("beat", None)
            return content, Owner(**fields)
        except (ValueError, TypeError, AttributeError):
            return content, None

    def _is_own(self) -> bool:
        return self._read()[1] == self._owner

    def _touch(self) -> None:
        beat = 0
        while not self._ended.wait(self._beat):
            beat += 1
            with contextlib.suppress(OSError):  # of a network that is away for a while
                if not self._is_own():
                    return  # the next check says so
                self._path.write_bytes(self._content(beat))

    def _take_over(self) -> None:
        """Delete ``running.json`` if the process that wrote it is gone."""
        first, owner = self._read()
        if not first:
            return
        if owner is None or not self._is_dead(owner):
            seconds = _BEATS_WAITED * self._beat
            self._report(
                f"The workdir {self._workdir} was left by {owner or 'another process'}; waiting "
                f"{seconds:.0f} seconds for a sign of life. (If there is none to come, delete "
                f"{self._path}.)"
            )
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(self._beat / 4)
                content, owner = self._read()
                if not content:
                    return
                if content != first:
                    raise UserError(_in_use(self._workdir, owner))
        if self._read()[0] == first:
            self._path.unlink(missing_ok=True)

    def _is_dead(self, owner: Owner) -> bool:
        if owner.boot_id != self._owner.boot_id or owner.pid == self._owner.pid:
            return owner.boot_id == self._owner.boot_id  # this process's number, given again
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


def hold(workdir: Path) -> WorkdirLock | BucketLock:
    """The lock for a workdir, on a disk or in a bucket."""
    return BucketLock(workdir) if in_bucket(workdir) else WorkdirLock(workdir)


def _in_use(workdir: Path, owner: Owner | None) -> str:
    return (
        f"The workdir {workdir} is in use by {owner or 'another process'}; stop that one first, or "
        f"use another --workdir."
    )
