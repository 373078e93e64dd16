"""The family of errors that programs print as one line instead of a traceback."""


class UserError(Exception):
    """An error the user can mend; programs print it as one line."""
