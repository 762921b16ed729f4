"""Float64 for every test here, and a fixture that keeps what they measured."""

from collections.abc import Callable, Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def table(record_property: Callable[[str, object], None]) -> Callable[[str, str, float], None]:
    """Keeps an error of a model for the table."""

    def keep(name: str, column: str, error: float) -> None:
        record_property("parity", [name, column, error])

    return keep
