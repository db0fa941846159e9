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
from numpy.typing import NDArray

from ..checks import not_on_tensors

if TYPE_CHECKING:
    from .tensors import Tensor

Op = TypeVar("Op", bound=Callable[..., Any])
Axis = int | tuple[int, ...] | None

OPS: dict[Any, Callable[..., Tensor]] = {}  # NumPy function -> the op on tensors; filled when ops/ is imported


def implements(*numpy_functions: Any) -> Callable[[Op], Op]:
    """Register an op as the meaning of these NumPy functions on tensors."""

    def register(op: Op) -> Op:
        for function in numpy_functions:
            OPS[function] = op
        return op

    return register


def _operator(function: Any) -> tuple[Callable[[Any, Any], Tensor], Callable[[Any, Any], Tensor]]:
    """The method of an operator, and of its reflected form: a + b and, where only b is a tensor, b.__radd__(a)."""
    return lambda self, other: OPS[function](self, other), lambda self, other: OPS[function](other, self)


def _comparison(function: Any) -> Callable[[Any, Any], Any]:
    return lambda self, other: OPS[function](self, other)


class Operators:
    """The operators and methods of a tensor; each is one line into the table ``OPS``."""

    __slots__ = ()
    __hash__ = object.__hash__  # == compares elements, so that it cannot serve as identity

    # NumPy's protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc not in OPS:
            raise not_on_tensors(ufunc, method, kwargs)
        return OPS[ufunc](*inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in OPS:
            raise not_on_tensors(function)
        return OPS[function](*args, **kwargs)

    # arithmetic, on either side: 2 - x is the reflected one

    __add__, __radd__ = _operator(np.add)
    __sub__, __rsub__ = _operator(np.subtract)
    __mul__, __rmul__ = _operator(np.multiply)
    __truediv__, __rtruediv__ = _operator(np.divide)
    __pow__, __rpow__ = _operator(np.power)
    __matmul__, __rmatmul__ = _operator(np.matmul)

    def __neg__(self) -> Tensor:
        return OPS[np.negative](self)

    def __abs__(self) -> Tensor:
        return OPS[np.absolute](self)

    # comparisons: constants, so they give plain arrays of booleans

    __eq__, __ne__ = _comparison(np.equal), _comparison(np.not_equal)
    __lt__, __le__ = _comparison(np.less), _comparison(np.less_equal)
    __gt__, __ge__ = _comparison(np.greater), _comparison(np.greater_equal)

    # elementwise functions

    def exp(self) -> Tensor:
        """e^x, element by element.

        >>> tb.tensor([0.0, 1.0]).exp().data.round(3)
        array([1.   , 2.718], dtype=float32)
        """
        return OPS[np.exp](self)

    def log(self) -> Tensor:
        """The natural logarithm, element by element.

        >>> tb.tensor([1.0, np.e]).log()
        tensor([0., 1.])
        """
        return OPS[np.log](self)

    def sqrt(self) -> Tensor:
        """The square root, element by element.

        >>> tb.tensor([4.0, 9.0]).sqrt()
        tensor([2., 3.])
        """
        return OPS[np.sqrt](self)

    def abs(self) -> Tensor:
        """|x|, element by element.

        >>> tb.tensor([-2.0, 3.0]).abs()
        tensor([2., 3.])
        """
        return OPS[np.absolute](self)

    def clip(self, min: float | None = None, max: float | None = None) -> Tensor:
        """min(max(x, min), max), element by element; None (default) leaves a side open. The gradient passes inside.

        Errors: TypeError for bounds that are not numbers, ValueError for none.

        >>> tb.tensor([-2.0, 0.5, 3.0]).clip(0, 1)
        tensor([0. , 0.5, 1. ])
        """
        return OPS[np.clip](self, min, max)

    # reductions

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The sum over axis.

        axis: an int, a tuple, or None (default) for all; keepdims keeps them with length 1 (default False).
        Errors: TypeError, ValueError for another axis or keepdims.

        >>> tb.tensor([[1, 2], [3, 4]]).sum(axis=0)
        tensor([4., 6.])
        """
        return OPS[np.sum](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The mean over axis.

        axis: an int, a tuple, or None (default) for all; keepdims keeps them with length 1 (default False).
        Errors: TypeError, ValueError for another axis or keepdims.

        >>> tb.tensor([[1, 2], [3, 4]]).mean(axis=1, keepdims=True)
        tensor([[1.5],
                [3.5]])
        """
        return OPS[np.mean](self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        """The variance with divisor n - ddof; as in NumPy the default is the biased one (PyTorch's is ddof=1).

        axis: an int, a tuple, or None (default) for all; keepdims keeps them with length 1 (default False).
        Errors: TypeError, ValueError for another axis, ddof or keepdims.

        >>> x = tb.tensor([1.0, 3.0])
        >>> x.var().item(), x.var(ddof=1).item()  # (1 + 1) / 2, and (1 + 1) / 1
        (1.0, 2.0)
        """
        return OPS[np.var](self, axis=axis, ddof=ddof, keepdims=keepdims)

    def std(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        """The square root of var, with the same arguments; where it is 0 the gradient is 0, as in PyTorch.

        axis: an int, a tuple, or None (default) for all; keepdims keeps them with length 1 (default False). ddof:
        default 0.
        Errors: TypeError, ValueError for another axis, ddof or keepdims.

        >>> tb.tensor([1.0, 3.0]).std().item()
        1.0
        """
        return OPS[np.std](self, axis=axis, ddof=ddof, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The largest over axis; equal ones share the gradient evenly.

        axis: an int, a tuple, or None (default) for all; keepdims keeps them with length 1 (default False).
        Errors: TypeError, ValueError for another axis or keepdims, and where there are no elements.

        >>> tb.tensor([[1, 2], [4, 3]]).max(axis=1)
        tensor([2., 4.])
        """
        return OPS[np.max](self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The smallest over axis; equal ones share the gradient evenly.

        axis: an int, a tuple, or None (default) for all; keepdims keeps them with length 1 (default False).
        Errors: TypeError, ValueError for another axis or keepdims, and where there are no elements.

        >>> tb.tensor([[1, 2], [4, 3]]).min(axis=1)
        tensor([1., 3.])
        """
        return OPS[np.min](self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> NDArray[np.int64] | np.int64:
        """Where the largest is along axis, the first of equal ones: an array of integers, one integer for axis=None.

        axis: an int, or None (default) for the place in the flattened tensor; keepdims keeps it with length 1 (default
        False). Errors: TypeError, ValueError for another axis or keepdims, and where there are no elements.

        >>> tb.tensor([[1, 2], [4, 3]]).argmax(axis=1)
        array([1, 0])
        """
        return OPS[np.argmax](self, axis=axis, keepdims=keepdims)  # type: ignore[return-value]

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> NDArray[np.int64] | np.int64:
        """Where the smallest is along axis, the first of equal ones: an array of integers, one integer for axis=None.

        axis: an int, or None (default) for the place in the flattened tensor; keepdims keeps it with length 1 (default
        False). Errors: TypeError, ValueError for another axis or keepdims, and where there are no elements.

        >>> tb.tensor([[1, 2], [4, 3]]).argmin(axis=1)
        array([0, 1])
        """
        return OPS[np.argmin](self, axis=axis, keepdims=keepdims)  # type: ignore[return-value]

    # shape and indexing

    def reshape(self, *shape: int | tuple[int, ...]) -> Tensor:
        """The same elements in C order under another shape, ints or one tuple; one may be -1. May share memory.

        Errors: ValueError for a shape of another number of elements.

        >>> tb.tensor([1, 2, 3, 4]).reshape(2, -1)
        tensor([[1., 2.],
                [3., 4.]])
        """
        return OPS[np.reshape](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: int | tuple[int, ...]) -> Tensor:
        """The axes in the order given, ints or one tuple, or reversed if none are. Shares memory.

        Errors: ValueError where axes does not name each axis once.

        >>> tb.tensor(np.zeros((2, 3, 4))).transpose(0, 2, 1).shape
        (2, 4, 3)
        """
        return OPS[np.transpose](self, *axes) if len(axes) <= 1 else OPS[np.transpose](self, axes)

    @property
    def T(self) -> Tensor:
        """All axes in reverse order. Shares memory.

        >>> tb.tensor([[1, 2, 3]]).T
        tensor([[1.],
                [2.],
                [3.]])
        """
        return OPS[np.transpose](self)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        """The axes axis1 and axis2 exchanged. Shares memory. Errors: TypeError, ValueError for what is not an axis.

        >>> tb.tensor(np.zeros((2, 3, 4))).swapaxes(0, 2).shape
        (4, 3, 2)
        """
        return OPS[np.swapaxes](self, axis1, axis2)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """Without the axes of length 1: all of them, or those named. May share memory.

        axis: an int, a tuple, or None (default) for all. Errors: TypeError for what is not an axis, ValueError for one
        of another length.

        >>> tb.tensor([[[1.0, 2.0]]]).squeeze(axis=0).shape
        (1, 2)
        """
        return OPS[np.squeeze](self, axis=axis)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Flatten the axes start_dim .. end_dim into one (PyTorch's arguments); may share memory.

        start_dim: default 0. end_dim: the last one to flatten (default -1). Errors: TypeError, ValueError for what is
        no axis.

        >>> tb.tensor(np.zeros((2, 3, 4))).flatten(1).shape
        (2, 12)
        """
        return OPS["flatten"](self, start_dim, end_dim)

    def __getitem__(self, index: Any) -> Tensor:
        # x[tensor] goes into a tuple: so the op is called, and says what an index may be
        return OPS["getitem"](self, index=(index,) if isinstance(index, Operators) else index)


for name, method in vars(Operators).items():
    if hasattr(method, "__code__"):  # a lambda gets the name that help() and errors use
        method.__name__, method.__qualname__ = name, f"Operators.{name}"
