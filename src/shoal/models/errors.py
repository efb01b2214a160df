"""What goes wrong while a model's files are read."""


class ModelError(Exception):
    """A model's files are not there, or say nothing that can be used. The message is for people."""
