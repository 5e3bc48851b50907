"""Old names that still work for one version: each call says the new one in a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def renamed(was: str = "", **arguments: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator: the function also takes ``arguments`` (old name = new name), and says that it was called ``was``."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def call(*args: Any, **named: Any) -> Result:
            old = {was: function.__name__} if was else {}
            old |= {name: new for name, new in arguments.items() if name in named}
            for name, new in old.items():
                said = f"{was or function.__name__}: {name!r} is now {new!r}; the old name goes with the next version"
                warnings.warn(said, DeprecationWarning, stacklevel=2)
            return function(*args, **{arguments.get(name, name): value for name, value in named.items()})

        return call

    return decorate
