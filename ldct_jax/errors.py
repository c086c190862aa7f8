"""The errors that a user can mend. Anything else that escapes is a bug and keeps its traceback."""

from __future__ import annotations


class LdctError(Exception):
    """What is wrong and what to do, in one line; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(LdctError):
    """A wrong argument, name or key; the command line prints it and exits with 2."""

    exit_code = 2


class DataError(LdctError):
    """Images, folders or stores that can't be used as they are."""


class CheckpointError(LdctError):
    """A checkpoint that is missing, damaged, or belongs to another model or window."""


class NumericsError(LdctError):
    """Training stopped because gradients or losses were not finite."""
