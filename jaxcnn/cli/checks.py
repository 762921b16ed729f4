"""Checks of arguments that several commands have.

This module imports nothing heavy.
"""

import argparse

from jaxcnn.errors import UserError


def check_at_least_1(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse numbers below 1; None stands for a default.

    Raises:
        UserError: for the first of the named arguments that is below 1.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name}={value} must be at least 1.")
