"""Errors that users see."""

import difflib
import os
import sys
from collections.abc import Iterable
from typing import Any

# How many known names an error lists in full.
_FEW = 12


class UserError(ValueError):
    """A request that cannot be met.

    The message says in one or two sentences what is wrong, where, and how to fix it;
    ``train.py`` and ``jaxcnn`` print it on stderr and exit with status 2.
    """


class CheckpointError(UserError):
    """A file that cannot be read as a checkpoint: damaged, of another format, or not safe."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Complete a sentence about an unknown ``name`` with the known names nearest to it.

    Args:
        name: what was asked for.
        known: the names that would have been accepted.

    Returns:
        Up to three similar names; without a similar one all known names, or the nearest few
        where they are many.

    Example::

        >>> suggest("resnet81", ["resnet18", "vgg11"])
        "did you mean 'resnet18'?"
    """
    known = list(known)
    similar = difflib.get_close_matches(name, known, n=3)
    if similar:
        return f"did you mean {' or '.join(map(repr, similar))}?"
    if len(known) > _FEW:
        nearest = difflib.get_close_matches(name, known, n=5, cutoff=0.0)
        return f"the nearest of {len(known):,} known names are {', '.join(nearest)}."
    return f"known: {', '.join(known) or 'none'}."


def shown(value: Any) -> str:
    """Format a value from a file for an error message.

    A pickle of a few bytes can make tuples whose ``repr`` takes forever, or is nested too deeply.
    So only the start of a text, integers below 2**64 and None are shown; of anything else the type
    is: ``<tuple>``.
    """
    if isinstance(value, str):
        return repr(value[:100])
    if value is None or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    return f"<{type(value).__name__}>"


def missing_package(user: str, package: str, extra: str) -> UserError:
    """The error that a package is not installed, with the way to install it.

    Args:
        user: what needs it.
        package: its name.
        extra: of pyproject.toml, which brings it.
    """
    return UserError(
        f"{user} needs {package}, which is not installed; run pip install 'jaxcnn[{extra}]', or in "
        f"a clone pip install -c constraints.txt -e '.[{extra}]'."
    )


def program() -> str:
    """The name of the program that runs, with which its messages start."""
    return "train.py" if os.path.basename(sys.argv[0]) == "train.py" else "jaxcnn"


def one_sentence(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if lines[0].endswith((".", "!", "?")) else f"{lines[0]}."
