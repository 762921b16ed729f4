"""What the value of a key may be."""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]
    kind: type = str

    def __contains__(self, value: Any) -> bool:
        return any(value == known and type(value) is type(known) for known in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclasses.dataclass(frozen=True)
class Number:
    """A number within bounds; ``kind`` int: a whole one."""

    kind: type = float
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        numeric = isinstance(value, int if self.kind is int else (int, float))
        if not numeric or isinstance(value, bool) or not math.isfinite(value):
            return False
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    @property
    def bounds(self) -> str:
        """The bounds in words: "at least 0 and below 1"; "" without any."""
        bounds = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        words = [f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(words)

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        return f"{noun}, {self.bounds}" if self.bounds else noun


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tuple of numbers, each within bounds."""

    each: Number
    length: int | None = None
    kind: type = tuple

    def __contains__(self, value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or not value:
            return False
        return len(value) == (self.length or len(value)) and all(v in self.each for v in value)

    def __str__(self) -> str:
        count = "numbers" if self.length is None else f"{self.length} numbers"
        return f"{count}, each {self.each.bounds}" if self.each.bounds else count


@dataclasses.dataclass(frozen=True)
class Boolean:
    """True or False."""

    kind: type = bool

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
    """A string that is not empty."""

    what: str
    kind: type = str

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value)

    def __str__(self) -> str:
        return self.what


@dataclasses.dataclass(frozen=True)
class EpochSizes:
    """Image sizes by epoch, ``((0, 128), (30, 160))``."""

    kind: type = tuple

    def __contains__(self, value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or not value:
            return False
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in value):
            return False
        epochs, sizes = zip(*value, strict=True)
        whole, positive = Number(int), Number(int, at_least=1)
        return (
            all(epoch in whole for epoch in epochs)
            and all(size in positive for size in sizes)
            and epochs[0] == 0
            and list(epochs) == sorted(set(epochs))
        )

    def __str__(self) -> str:
        return (
            "pairs of an epoch, rising from 0, and a size in pixels, such as ((0, 128), (30, 160))"
        )


Allowed = Choice | Number | Numbers | Boolean | Text | EpochSizes
