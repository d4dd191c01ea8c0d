"""Errors that end a step with one clear sentence instead of a traceback."""


class HipqctError(Exception):
    """Bad input or an impossible request; the message says what, where and how to correct it."""


class SheetError(HipqctError):
    """The sample sheet or the configuration is wrong."""


class ScanError(HipqctError):
    """A scan cannot be read, or is not a CT scan that this workflow may use."""


class AnatomyError(HipqctError):
    """The image does not show what a step needs, such as a hip on the side asked for."""


class ModelError(HipqctError):
    """A trained model is missing, or does not fit the data or the hardware asked for."""


class SolverError(HipqctError):
    """A finite-element model could not be solved."""


class MeshError(HipqctError):
    """A mask cannot be turned into a valid mesh."""
