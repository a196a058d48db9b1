"""Every exception this package raises on purpose.

RysError
├── InvalidGGUF       a file that llama.cpp would not open
├── ModelUnavailable  a name that leads to no model, here or on the Hub
├── InvalidLayerMap   a layer spec that does not parse or fit
├── InvalidOptions    options that do not go together
├── Refused           a well-formed request whose result would be wrong
│   └── Unsuitable    a suite that cannot show a difference on this model
├── OutputFailed      a file that could not be written
├── InvalidSuite      a file of items that is not one
└── EngineFailed      llama.cpp did not start, died, or did not answer

Each message is written for the person who typed the command: it names the file, the key or
tensor, what was expected and, where possible, what to do. Any other exception is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence


class RysError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidGGUF(RysError):
    """A file is not a GGUF that llama.cpp would open, or it changed while it was read."""


class ModelUnavailable(RysError):
    """A name leads to no model: none in the caches, none on the Hub, or the Hub cannot be read."""


class InvalidLayerMap(RysError):
    """A layer spec does not parse, or does not fit the model."""


class InvalidOptions(RysError):
    """Options contradict each other, or one needs another: a usage error on the command line."""


class Refused(RysError):
    """The model and the map are well formed, but the result would not compute what the map says."""


class Unsuitable(Refused):
    """The base cannot answer the suite in a way that would show a difference."""


class OutputFailed(RysError):
    """The output could not be written; nothing is left behind and nothing was replaced."""


class InvalidSuite(RysError):
    """A file of items does not say what to ask or what is right."""


class EngineFailed(RysError):
    """The engine could not be started, died, or did not answer as llama.cpp does.

    `log` holds its last lines, safe to print.
    """

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log = tuple(log)
