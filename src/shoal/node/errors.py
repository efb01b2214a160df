"""Why a node cannot start, in words for the person who starts it."""


class StartError(Exception):
    """The node cannot start. Its text is complete: what happened, where, what to do."""
