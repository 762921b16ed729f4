"""Float64 for every test here, and a table of what they measured."""

from collections.abc import Callable, Iterator

import jax
import pytest

from jaxcnn import models

COLUMNS = ("eval", "train", "default size", "three steps")


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the worst error of each model and kind."""
    errors: dict[str, dict[str, float]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for kind, value in getattr(report, "user_properties", ()):
                if kind == "parity" and report.when == "call":
                    name, column, error = value
                    errors.setdefault(name, {})[column] = error
    if not errors:
        return
    terminalreporter.section("relative errors against torchvision, float64")
    heads = "".join(f"{column:>14}" for column in COLUMNS)
    terminalreporter.write_line(f"{'model':20}{'parameters':>13}{heads}")
    for name, row in sorted(errors.items()):
        cells = "".join(f"{row[c]:14.1e}" if c in row else f"{'':14}" for c in COLUMNS)
        parameters = models.model_info(name).parameters
        terminalreporter.write_line(f"{name:20}{parameters:13,}{cells}".rstrip())
