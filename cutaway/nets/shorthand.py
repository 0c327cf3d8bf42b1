"""Short names for the members of a family of networks."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def shorthand(constructor: Callable[..., Model], depth: int, **settings: Any) -> partial[Model]:
    """A constructor with its depth and some settings filled in, which says so in its documentation."""
    made = partial(constructor, depth, **settings)
    filled = ", ".join([str(depth), *(f"{key}={value!r}" for key, value in settings.items())])
    made.__doc__ = f"`{constructor.__name__}({filled}, …)`, see `{constructor.__name__}` for the other arguments."
    return made
