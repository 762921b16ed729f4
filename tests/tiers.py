"""Which networks a test runs with: by default, in CI as well, or before a release only."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def tiers(names: Iterable[str], *, fast: Collection[str] = (), slow: Collection[str] = ()) -> Any:
    """The names as parameters of a test.

    Args:
        names: all of them.
        fast: those of the default suite.
        slow: those of ``-m slow``; the others are of ``-m exhaustive``.
    """
    return [
        name
        if name in fast
        else pytest.param(name, marks=pytest.mark.slow if name in slow else pytest.mark.exhaustive)
        for name in names
    ]
