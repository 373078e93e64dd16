"""What every sprint uses and what knows no sprint: data, device, a recorded run (runlog) and what is made of its report."""

import sys

from shared.errors import UserError


def _in_one_line(kind, error, trace) -> None:
    """What ends a program: without a traceback an error that the user can mend, what the system refuses (a full disk, a read-only
    folder), and Ctrl-C while libraries are imported."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, OSError):
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _in_one_line
