"""The one error that speaks to a person."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was asked for cannot be done.

    The message is one sentence that says what is wrong, where, and how to mend it;
    ``train.py`` prints it on stderr and exits with status 2.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """Completes a sentence about an unknown ``name``: the nearest known ones, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    return f"known: {', '.join(known) or 'none'}."


def one_sentence(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if lines[0].endswith((".", "!", "?")) else f"{lines[0]}."
