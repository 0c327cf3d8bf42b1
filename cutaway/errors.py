"""Every error Cutaway raises on purpose, and the tree they form.

CutawayError
├── ArgumentError     an argument is out of range or of the wrong kind
├── LookupFailure     a name is unknown; the message lists the nearest ones
├── CaptureError      a model cannot be turned into a graph
├── DataError         data are broken: file, index and value are named
├── RunFolderError    a run folder exists, is missing, full or not writable
└── NonFiniteError    a value that should be a number is not
"""

import difflib
from collections.abc import Iterable


class CutawayError(Exception):
    """The root of all errors raised on purpose."""


class ArgumentError(CutawayError, ValueError):
    """An argument is out of range, of the wrong kind or of the wrong shape."""


class LookupFailure(CutawayError, LookupError):
    """A name is unknown."""


class CaptureError(CutawayError, RuntimeError):
    """A model or function cannot be turned into a computation graph."""


class DataError(CutawayError, ValueError):
    """A data set is broken."""


class RunFolderError(CutawayError, OSError):
    """A run folder cannot be made, read or written."""


class NonFiniteError(CutawayError, ArithmeticError):
    """A loss, gradient or activation is NaN or infinite."""


def nearest(name: str, names: Iterable[str], what: str) -> LookupFailure:
    """Make the error for an unknown name, listing the nearest known ones.

    Args:
        name: what the user gave.
        names: all that would have been accepted.
        what: the kind of thing, in the singular ("model", "node", "data set").

    >>> print(nearest("lenet", ["lenet5", "lenet1989", "vgg11"], "model"))
    unknown model 'lenet'; nearest: 'lenet5', 'lenet1989'
    """
    known = list(names)
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or sorted(known)[:8]
    listed = ", ".join(repr(candidate) for candidate in close) or "none is registered"
    return LookupFailure(f"unknown {what} {name!r}; nearest: {listed}")
