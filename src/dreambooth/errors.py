"""The one exception tree. Every message says in a sentence what is wrong and what to do next."""


class DreamBoothError(Exception):
    """Base of every error a user can cause. The command line prints its message without a traceback."""


class ConfigError(DreamBoothError):
    """A setting is unknown, out of range, or contradicts another."""


class PhotoError(DreamBoothError):
    """The subject's photos cannot be used."""


class IdentifierError(DreamBoothError):
    """No usable identifier, or one that cannot be encoded."""


class ModelError(DreamBoothError):
    """A model cannot be found, read, or is of a family that is not supported."""


class PriorError(DreamBoothError):
    """A prior set does not match what is asked for."""


class RunError(DreamBoothError):
    """A run folder is missing, busy, or does not match."""


class TrainingError(DreamBoothError):
    """Training cannot go on, such as a loss that is not finite."""


class Interrupted(DreamBoothError):
    """The user stopped the run; it is saved, and the message says how to go on."""
