"""What a tensor can be asked: ``+``, ``*``, ``@``, ``.sum()``, ``x[i]`` ... and NumPy's own functions.

Every operation on tensors is the op that was registered for the NumPy function of the same meaning: ``a * b`` on
tensors is the op registered for ``np.multiply``. NumPy itself asks this table too, through its two protocols
(``__array_ufunc__`` and ``__array_function__``, NumPy enhancement proposals 13 and 18), so that ``np.exp(t)``
records one op when ``t`` is a tensor and computes an array when it is an array. One formula therefore serves both:
that is how the gradient formulas of this package can themselves be differentiated.

The methods that ndarray has too have its names, meaning and defaults; exp, log, sqrt and abs are NumPy's functions,
and flatten takes PyTorch's arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from .engine import Tensor

Op = TypeVar("Op", bound=Callable[..., Any])
Axis = int | tuple[int, ...] | None

OPS: dict[Any, Callable[..., Tensor]] = {}  # NumPy function -> the op on tensors; comparisons give arrays


def implements(*numpy_functions: Any) -> Callable[[Op], Op]:
    """Register an op as the meaning of these NumPy functions on tensors."""

    def register(op: Op) -> Op:
        for function in numpy_functions:
            OPS[function] = op
        return op

    return register


class Operators:
    """The operators and methods of a tensor; each is one line into the table ``OPS``."""

    __slots__ = ()
    __hash__ = object.__hash__  # == compares elements, so that it cannot serve as identity

    # NumPy's protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc not in OPS:
            how = ("" if method == "__call__" else f".{method}") + (
                f" with {', '.join(sorted(kwargs))}" if kwargs else ""
            )
            raise TypeError(
                f"np.{ufunc.__name__}{how} is not defined on tensors; "
                "apply it to t.data, or write an op with @differentiable"
            )
        return OPS[ufunc](*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in OPS:
            name = getattr(function, "__name__", str(function))
            raise TypeError(
                f"np.{name} is not defined on tensors; apply it to t.data, or write an op with @differentiable"
            )
        return OPS[function](*args, **kwargs)

    # arithmetic

    def __add__(self, other: Any) -> Tensor:
        return OPS[np.add](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return OPS[np.add](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return OPS[np.subtract](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return OPS[np.subtract](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return OPS[np.multiply](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return OPS[np.multiply](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return OPS[np.divide](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return OPS[np.divide](other, self)

    def __pow__(self, other: Any) -> Tensor:
        return OPS[np.power](self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return OPS[np.power](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return OPS[np.matmul](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return OPS[np.matmul](other, self)

    def __neg__(self) -> Tensor:
        return OPS[np.negative](self)

    def __abs__(self) -> Tensor:
        return OPS[np.absolute](self)

    # comparisons: constants, so they give plain arrays of booleans

    def __eq__(self, other: Any) -> Any:
        return OPS[np.equal](self, other)

    def __ne__(self, other: Any) -> Any:
        return OPS[np.not_equal](self, other)

    def __lt__(self, other: Any) -> Any:
        return OPS[np.less](self, other)

    def __le__(self, other: Any) -> Any:
        return OPS[np.less_equal](self, other)

    def __gt__(self, other: Any) -> Any:
        return OPS[np.greater](self, other)

    def __ge__(self, other: Any) -> Any:
        return OPS[np.greater_equal](self, other)

    # elementwise functions

    def exp(self) -> Tensor:
        return OPS[np.exp](self)

    def log(self) -> Tensor:
        return OPS[np.log](self)

    def sqrt(self) -> Tensor:
        return OPS[np.sqrt](self)

    def abs(self) -> Tensor:
        return OPS[np.absolute](self)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return OPS[np.clip](self, min, max)

    # reductions

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return OPS[np.sum](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return OPS[np.mean](self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        """The variance with divisor n - ddof; as in NumPy the default is the biased one (PyTorch's is ddof=1)."""
        return OPS[np.var](self, axis=axis, ddof=ddof, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return OPS[np.max](self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return OPS[np.min](self, axis=axis, keepdims=keepdims)

    # shape and indexing

    def reshape(self, *shape: Any) -> Tensor:
        return OPS[np.reshape](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        if len(axes) <= 1:
            return OPS[np.transpose](self, *axes)
        return OPS[np.transpose](self, axes)

    @property
    def T(self) -> Tensor:
        return OPS[np.transpose](self)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return OPS[np.swapaxes](self, axis1, axis2)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Flatten the axes start_dim .. end_dim into one (PyTorch's arguments); may share memory."""
        return OPS["flatten"](self, start_dim, end_dim)

    def __getitem__(self, index: Any) -> Tensor:
        return OPS["getitem"](self, index=index)
