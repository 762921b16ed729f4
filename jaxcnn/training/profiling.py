"""A trace of some training steps by JAX's profiler."""

import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import UserError
from jaxcnn.io.paths import in_bucket


@dataclasses.dataclass
class Profile:
    """Traces training steps ``first`` to ``last``, both included.

    Each process writes what its devices and threads did, for TensorBoard's profile plugin, XProf
    or Perfetto.

    Attributes:
        first: the first step, from 1.
        last: the last step.
        folder: where the trace goes.
    """

    first: int
    last: int
    folder: Path
    _tracing: bool = False
    _written: Path | None = None  # where JAX writes it: a disk

    def before(self, step: int) -> None:
        """Start with the first step; of a run that resumes later, with its first."""
        if self.first <= step <= self.last and not self._tracing:
            self._written = self.folder
            if in_bucket(self.folder):
                self._written = Path(tempfile.mkdtemp(prefix="jaxcnn-profile-"))
            jax.profiler.start_trace(self._written)
            self._tracing = True

    def after(self, step: int, result: Any) -> bool:
        """Finish when the result of the last step is there; returns whether it did."""
        if step < self.last or not self._tracing:
            return False
        jax.block_until_ready(result)
        self.close()
        return True

    def close(self) -> None:
        """Finish, in a run that ends before the last step."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            if self._written != self.folder:
                self._upload()

    def _upload(self) -> None:
        files = [path for path in self._written.rglob("*") if path.is_file()]
        names = [path.relative_to(self._written).as_posix() for path in files]
        try:
            self.folder.upload(self._written, names)
        except OSError as error:
            raise UserError(
                f"The trace cannot be written to {self.folder} ({error.strerror})."
            ) from error
        finally:
            shutil.rmtree(self._written, ignore_errors=True)


def parse_steps(value: str) -> tuple[int, int]:
    """The steps of ``--profile_steps``: ``"10:20"`` is 10 to 20.

    Raises:
        UserError: if it is not that.
    """
    match = re.fullmatch(r"(\d+):(\d+)", value)
    first, last = map(int, match.groups()) if match else (0, 0)
    if not 1 <= first <= last:
        raise UserError(
            f"--profile_steps={value} is not FIRST:LAST, two steps from 1; use for example 10:20."
        )
    return first, last
