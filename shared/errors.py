"""The family of errors that end a program with one line instead of a traceback (shared/__init__.py) and exit code 1."""


class UserError(Exception):
    """An error the user can mend; it says how."""


def line(error: Exception) -> str:
    """What a library's error says, cut to one short line; its name where it says nothing."""
    return " ".join(str(error).split())[:200].rstrip(".:") or type(error).__name__
