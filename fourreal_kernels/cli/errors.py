"""Errors of the user, shown as one line, told apart from errors of the program, which keep their traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something only the user can put right. Shown as one line on stderr, exit status 2."""

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).split()))


@contextmanager
def user_errors(*kinds: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn errors of these kinds into :class:`UserError`. To be put around single steps that judge user input.

    Args:
        kinds: the exceptions to turn.
        prefix: put before the message, with a colon.
    """
    try:
        yield
    except kinds as error:
        raise UserError(f"{prefix}: {error}" if prefix else error) from error
