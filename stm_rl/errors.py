"""Errors a user can do something about."""


class StmError(ValueError):
    """Bad input or settings. The message says what was got, what was expected and what to do.

    The command line prints it as one line and exits with status 2.
    """
