"""Whether to remember how tensors are computed, in this thread: ``no_grad`` and ``enable_grad``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any, TypeVar, overload

from ..checks import check_decorated

Function = TypeVar("Function", bound=Callable[..., Any])


class _Thread(threading.local):  # no_grad() in one thread leaves the others recording, and trace() reports its own
    enabled = True
    retain = True  # whether a walk that is under way leaves the graph as it is
    report: Callable[..., None] | None = None  # trace()'s: called with (node, dy, i, source, g) for each g in a walk

    def __init__(self) -> None:
        self.outside: list[tuple[bool, bool]] = []  # what to go back to, innermost last


thread = _Thread()


class grad_enabled(ContextDecorator):
    """``with grad_enabled(flag):`` records (or not) in the current thread; also a decorator, and reusable."""

    def __init__(self, enabled: bool, retain: bool = True) -> None:
        self.enabled, self.retain = enabled, retain

    def __enter__(self) -> None:
        thread.outside.append((thread.enabled, thread.retain))
        thread.enabled, thread.retain = self.enabled, self.retain

    def __exit__(self, *error: Any) -> None:
        thread.enabled, thread.retain = thread.outside.pop()

    def __call__(self, function: Function) -> Function:
        check_decorated(function)
        return super().__call__(function)


@overload
def no_grad() -> grad_enabled: ...
@overload
def no_grad(function: Function) -> Function: ...
def no_grad(function: Callable[..., Any] | None = None) -> grad_enabled | Callable[..., Any]:
    """``with no_grad():`` (or ``@no_grad()``, or ``@no_grad``) computes without recording, in the current thread.

    function: what ``@no_grad`` decorates; None (default) for the other two.

    Errors: TypeError for a decorated generator or coroutine, which would run outside of it, and a decorated class.

    >>> x = tb.tensor([1.0], requires_grad=True)
    >>> with tb.no_grad():
    ...     y = 2 * x
    >>> y.requires_grad
    False
    """
    return grad_enabled(False) if function is None else grad_enabled(False)(function)


@overload
def enable_grad() -> grad_enabled: ...
@overload
def enable_grad(function: Function) -> Function: ...
def enable_grad(function: Callable[..., Any] | None = None) -> grad_enabled | Callable[..., Any]:
    """``with enable_grad():`` records again inside a ``no_grad()``.

    function: what ``@enable_grad`` decorates; None (default) for ``with`` and ``@enable_grad()``.

    Errors: TypeError for a decorated generator or coroutine, which would run outside of it, and a decorated class.

    >>> x = tb.tensor([1.0], requires_grad=True)
    >>> with tb.no_grad(), tb.enable_grad():
    ...     y = 2 * x
    >>> y.requires_grad
    True
    """
    return grad_enabled(True) if function is None else grad_enabled(True)(function)


def is_grad_enabled() -> bool:
    """Whether the current thread records: True but inside a ``no_grad()``.

    >>> with tb.no_grad():
    ...     tb.is_grad_enabled()
    False
    """
    return thread.enabled
