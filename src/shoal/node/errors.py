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


class NotNowError(Exception):
    """An engine cannot be restarted; the text says why.

    Attributes:
        status: of an HTTP answer that says so.
    """

    def __init__(self, message: str, status: int = 409) -> None:
        super().__init__(message)
        self.status = status
