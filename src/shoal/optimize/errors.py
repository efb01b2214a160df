"""The one error of this package."""


class OptimizeError(Exception):
    """It cannot be done; the message is one line that says why and what to do."""
