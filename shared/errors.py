"""The family of errors that end a program with one line instead of a traceback (shared/__init__.py) and exit code 1."""


class UserError(Exception):
    """An error the user can mend; it says how."""
