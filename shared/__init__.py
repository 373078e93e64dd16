"""What every sprint uses and what knows no sprint: data, device, a recorded run (runlog) and what is made of its report."""

import sys

from shared.errors import UserError


def _in_one_line(kind, error, trace) -> None:
    """What ends a program: without a traceback an error that the user can mend, and Ctrl-C while libraries are imported."""
    if issubclass(kind, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _in_one_line
