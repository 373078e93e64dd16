"""What every sprint uses and what knows no sprint: data, device, a recorded run (runlog) and what is made of its report."""

import sys


def _quietly(kind, error, trace) -> None:
    """Ctrl-C while a program still imports its libraries ends it without a traceback; afterwards runlog.launch sees to it."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _quietly
