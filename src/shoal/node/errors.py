"""Why a node cannot start, in words for the person who starts it."""


class StartError(Exception):
    """The node cannot start. Its text is complete: what happened, where, what to do."""


class DoesNotFitError(StartError):
    """The weights of a model are larger than the GPUs of its engines.

    Attributes:
        model: the model's name.
        gpus: indices of the first engine's GPUs.
    """

    def __init__(self, message: str, model: str, gpus: tuple[int, ...]) -> None:
        self.model = model
        self.gpus = gpus
        super().__init__(message)


class GroupError(StartError):
    """A model asks for an engine across nodes, which this version does not start.

    Attributes:
        model: the model's name.
    """

    def __init__(self, message: str, model: str) -> None:
        self.model = model
        super().__init__(message)
