"""Where the processes of a run meet before JAX connects them.

JAX aborts a process that cannot reach the others in time, and names neither the one that is missing
nor the reason. So the processes meet here first: each tells the coordinator who it is and what it
runs; the coordinator waits for all, compares, and tells each of them that the run can start, or a
sentence that says what is wrong. It listens on the port that JAX's own service takes afterwards.
"""

import dataclasses
import importlib.metadata
import json
import platform
import socket
import time
from collections.abc import Mapping, Sequence

from jaxcnn import __version__
from jaxcnn.errors import UserError

_HELLO = "jaxcnn"  # so that nothing else on a wrong port is taken for a coordinator
_PACKAGES = ("jax", "jaxlib")
_RETRY = 0.2  # seconds


@dataclasses.dataclass(frozen=True)
class Process:
    """A process of the run.

    Attributes:
        number: from 0; the coordinator's.
        count: how many there are.
        host: its name.
        versions: of what it runs, by name.
    """

    number: int
    count: int
    host: str
    versions: Mapping[str, str]

    @classmethod
    def this(cls, number: int, count: int) -> "Process":
        """This process."""
        versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
        versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
        versions["jaxcnn"] = __version__
        return cls(number, count, socket.gethostname(), versions)


def meet(address: str, process: Process, timeout: float) -> None:
    """Wait for all processes; every process must call this.

    Args:
        address: ``host:port`` of process 0.
        process: this one.
        timeout: seconds to wait.

    Raises:
        UserError: on all processes that have met, if some do not come in time or differ from
            process 0; on a process that does not reach process 0 in time.
    """
    deadline = time.monotonic() + timeout
    if process.number == 0:
        _coordinate(int(address.rpartition(":")[2]), process, timeout, deadline)
    else:
        _join(address, process, timeout, deadline)


def _coordinate(port: int, process: Process, timeout: float, deadline: float) -> None:
    found = {0: process}
    connections: dict[int, socket.socket] = {}
    problem = None
    try:
        with _listen(port) as server:
            while problem is None and len(found) < process.count:
                left = deadline - time.monotonic()
                try:
                    if left <= 0:
                        raise TimeoutError
                    server.settimeout(left)
                    connection, _ = server.accept()
                except TimeoutError:
                    problem = _missing(process.count, found, timeout)
                    break
                other = _introduced(connection)
                if other is None:  # a port scan, or what another start has left
                    connection.close()
                    continue
                if _is_closed(connections.get(other.number)):  # it was started again
                    connections.pop(other.number).close()
                    del found[other.number]
                problem = _difference(process, other, found)
                found[other.number] = other
                # One that is refused must hear it, too, and not take the place of another.
                connections[other.number if problem is None else -1] = connection
        for connection in connections.values():
            _send(connection, {"hello": _HELLO, "problem": problem})
    finally:
        for connection in connections.values():
            connection.close()
    if problem is not None:
        raise UserError(problem)


def _join(address: str, process: Process, timeout: float, deadline: float) -> None:
    host, _, port = address.rpartition(":")
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(
                (host.strip("[]"), int(port)), timeout=left
            ) as connection:
                _send(connection, {"hello": _HELLO, **dataclasses.asdict(process)})
                connection.settimeout(timeout + _RETRY)  # until the coordinator gives up
                answer = _receive(connection)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        else:
            if answer is not None and answer.get("hello") == _HELLO:
                if answer["problem"] is not None:
                    raise UserError(answer["problem"])
                return
            reason = "what answers there is not process 0 of a run"
        time.sleep(min(_RETRY, max(0.0, deadline - time.monotonic())))
    raise UserError(
        f"Process {process.number} of {process.count} on {process.host} did not meet process 0 at "
        f"{address} within {timeout:g} seconds ({reason}). Start process 0 there, give all the "
        f"same --coordinator_address, and check that no firewall is in between."
    )


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise UserError(
            f"Process 0 cannot listen on port {port} of --coordinator_address "
            f"({error.strerror}); choose a free port."
        ) from error


def _introduced(connection: socket.socket) -> Process | None:
    """The process at the other end; None: it is not one of a run."""
    try:
        connection.settimeout(10)
        message = _receive(connection)
        if message is None or message.pop("hello") != _HELLO:
            return None
        other = Process(**message)
        known = isinstance(other.host, str) and isinstance(other.versions, dict)
        numbers = type(other.number) is int and type(other.count) is int
        return other if known and numbers and 0 < other.number < other.count else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def first_of(names: Sequence[str]) -> str:
    """The first eight names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")


def _missing(count: int, found: Mapping[int, Process], timeout: float) -> str:
    missing = [str(number) for number in range(count) if number not in found]
    present = ", ".join(f"{number} on {found[number].host}" for number in sorted(found)[:8])
    return (
        f"Of {count} processes {first_of(missing)} did not come within {timeout:g} seconds (there "
        f"were: {present}). Start all, with the same --coordinator_address and --num_processes, "
        f"and each with its own --process_id."
    )


def _difference(first: Process, other: Process, found: Mapping[int, Process]) -> str | None:
    """What is wrong with a process, in a sentence; None: nothing."""
    name = f"Process {other.number} on {other.host}"
    if other.count != first.count:
        return (
            f"{name} was started with --num_processes={other.count}, and process 0 with "
            f"{first.count}; give all processes the same number."
        )
    if other.number in found:
        return (
            f"Two processes have the number {other.number}, on {found[other.number].host} and on "
            f"{other.host}; give each process its own --process_id."
        )
    for package, version in first.versions.items():
        if other.versions.get(package) != version:
            return (
                f"{name} runs {package} {other.versions.get(package)}, and process 0 on "
                f"{first.host} {version}; install the same versions on all machines."
            )
    return None


def _is_closed(connection: socket.socket | None) -> bool:
    if connection is None:
        return False
    try:
        connection.settimeout(0)
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        connection.settimeout(10)
        return False
    except OSError:
        return True


def _send(connection: socket.socket, message: Mapping[str, object]) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:  # it is gone: JAX will say so
        return


def _receive(connection: socket.socket) -> dict[str, object] | None:
    """One line of JSON; None: the other end closed."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(4096)
        if not part or len(line) > 1 << 20:
            return None
        line += part
    message = json.loads(line)
    return message if isinstance(message, dict) else None
