"""Processes that meet before JAX connects them: who is missing, and who differs."""

import concurrent.futures
import dataclasses
import socket
import threading
from collections.abc import Iterator

import pytest

from jaxcnn.errors import UserError
from jaxcnn.training.rendezvous import Process, meet

VERSIONS = {"Python": "3.11", "jax": "0.10.1"}


def process(number: int, count: int = 3, **changes) -> Process:
    made = Process(number, count, f"host{number}", VERSIONS)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def address() -> str:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return f"localhost:{server.getsockname()[1]}"


def outcomes(address: str, *processes: Process, timeout: float = 2.0) -> list[str | None]:
    """What each process is told: None, or the error."""

    def outcome(one: Process) -> str | None:
        try:
            meet(address, one, timeout)
        except UserError as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(outcome, processes))


def test_processes_meet_in_any_order_and_leave_the_port_free(address):
    assert outcomes(address, *map(process, (2, 1, 0)), timeout=30) == [None] * 3
    port = int(address.partition(":")[2])
    socket.create_server(("", port)).close()
    assert outcomes(address, *map(process, (0, 2, 1)), timeout=30) == [None] * 3


def test_missing_process_is_named_on_all_others(address):
    first, second = outcomes(address, process(0), process(2))
    assert first == second
    assert first.startswith("Of 3 processes 1 did not come within 2 seconds (there were: 0 on host")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"versions": VERSIONS | {"jax": "0.12"}},
            "Process 1 on host1 runs jax 0.12, and process 0 on host0 0.10.1",
        ),
        ({"count": 3}, "--num_processes=3, and process 0 with 2"),
    ],
)
def test_process_that_differs_is_named_on_both(changes, words, address):
    first, second = outcomes(
        address, process(0, 2), process(1, **{"count": 2} | changes), timeout=30
    )
    assert first == second and words in first


def test_number_that_two_processes_have_is_an_error_on_all(address):
    told = outcomes(address, process(0), process(1), process(1, host="other"), timeout=30)
    assert len(set(told)) == 1 and "Two processes have the number 1" in told[0]


def test_process_that_was_started_again_takes_its_place(address):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(outcomes, address, process(0), timeout=30)
        port = int(address.partition(":")[2])
        while True:
            try:
                dead = socket.create_connection(("localhost", port))
                break
            except ConnectionRefusedError:
                continue
        dead.sendall(
            b'{"hello": "jaxcnn", "number": 1, "count": 3, "host": "a", "versions": '
            b'{"Python": "3.11", "jax": "0.10.1"}}\n'
        )
        dead.close()
        assert outcomes(address, process(1), process(2), timeout=30) == [None, None]
        assert first.result() == [None]


def test_process_0_that_is_not_there_is_an_error(address):
    (told,) = outcomes(address, process(1), timeout=0.5)
    assert f"Process 1 of 3 on host1 did not meet process 0 at {address} within 0.5 seconds" in told
    assert "(Connection refused)" in told


@pytest.fixture
def another_service(address) -> Iterator[str]:
    """An address where something answers that is no run."""
    server = socket.create_server(("localhost", int(address.partition(":")[2])))

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    yield address
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_address_of_another_service_is_an_error(another_service):
    (told,) = outcomes(another_service, process(1), timeout=0.5)
    assert "did not meet process 0" in told
