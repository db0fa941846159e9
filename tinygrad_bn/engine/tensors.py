"""Tensors: arrays that remember how they were computed.

What a tensor points to, the recorded operation that made it, is in tape.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .. import engine  # whose walk and guards import this file: they are looked up when they are called
from ..checks import Array, as_floats, check_alike, check_bool, check_floats
from ..runtime import memory
from .operators import Operators
from .replay_notes import CHANGES, READS, note_detached, unseen

if TYPE_CHECKING:
    from .tape import Node


class Tensor(Operators):
    """An array that remembers how it was computed.

    Tensor(array) wraps a float32 or float64 array without copying it; ``tensor(data)`` copies and converts.

    data: the NumPy array. ``t.data = ...`` and the in-place operators count as a change (see
        versions.py); writing into the array itself, ``t.data[0] = 1``, is not seen by the engine.
    requires_grad: whether operations on this tensor are recorded (default False).
    grad: None, or the gradient that backward() accumulated (a NumPy array; a Tensor after create_graph=True).

    Operators: + - * / ** @, unary - and abs(), and x[index], are recorded; the other operand may be a number. Operands
    broadcast as in NumPy. == != < <= > >= give arrays of booleans. += -= *= /= and x[index] = y change the data in
    place and are not recorded. len(x) and ``for row in x`` go along the first axis.
    Errors: TypeError for other data, and where float32 and float64 meet; RuntimeError for an in-place change of a
    tensor that requires grad, outside of no_grad().

    >>> x = tb.Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    >>> y = (x * x).sum()  # 1 + 4 + 9
    >>> y.backward()
    >>> y.item(), x.grad  # dy/dx = 2 x
    (14.0, array([2., 4., 6.]))
    """

    __slots__ = ("__weakref__", "_data", "_node", "_requires_grad", "_version", "grad")

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        self._data = check_floats("data", data)
        self._requires_grad = check_bool("requires_grad", requires_grad)
        self._node: Node | None = None
        self._version = [0]  # in-place changes so far; a list, because views share one counter
        self.grad: Any = None

    @property
    def data(self) -> Array:
        """The NumPy array, not a copy. Assigning another one, of the same shape and dtype, counts as a change in place.

        Errors: TypeError for an array of another shape or dtype.

        >>> x = tb.tensor([1.0, 2.0])
        >>> x.data = x.data * 10
        >>> x
        tensor([10., 20.])
        """
        unseen(READS)
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        unseen(CHANGES)
        self._data = check_alike("data", value, self._data)
        self._version[0] += 1

    def _assign(self, values: Array) -> None:
        """Other values, in place; what is read-only gets an array of its own."""
        unseen(CHANGES)
        if not self._data.flags.writeable:
            self._data = self._data.copy()
        self._data[...] = values
        self._version[0] += 1

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded; may be set on a leaf.

        Errors: TypeError for what is not a bool; RuntimeError for switching it off on a computed tensor.

        >>> x = tb.tensor([1.0])
        >>> x.requires_grad = True
        >>> (x + 1).requires_grad
        True
        """
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if self._node is not None and not check_bool("requires_grad", flag):
            raise RuntimeError("requires_grad of a computed tensor cannot be switched off; use t.detach()")
        self._requires_grad = check_bool("requires_grad", flag)

    def requires_grad_(self, flag: bool = True) -> Tensor:
        """Set requires_grad to flag (default True); returns the tensor. Errors: TypeError for what is not a bool.

        >>> tb.tensor([1.0]).requires_grad_()
        tensor([1.], requires_grad=True)
        """
        self.requires_grad = check_bool("flag", flag)
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis.

        >>> tb.tensor([[1, 2, 3], [4, 5, 6]]).shape
        (2, 3)
        """
        return self._data.shape

    @property
    def ndim(self) -> int:
        """The number of axes.

        >>> tb.tensor([[1, 2, 3], [4, 5, 6]]).ndim
        2
        """
        return self._data.ndim

    @property
    def size(self) -> int:
        """The number of elements (PyTorch's numel()).

        >>> tb.tensor([[1, 2, 3], [4, 5, 6]]).size
        6
        """
        return self._data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's float32 or float64.

        >>> tb.tensor([1, 2]).dtype, tb.tensor(np.array([0.5])).dtype
        (dtype('float32'), dtype('float64'))
        """
        return self._data.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by the user and not computed by a recorded op.

        >>> x = tb.tensor([1.0], requires_grad=True)
        >>> x.is_leaf, (2 * x).is_leaf
        (True, False)
        """
        return self._node is None

    def numpy(self) -> Array:
        """The array (shared, not copied).

        Errors: RuntimeError for a tensor that requires grad, because the gradient would be lost: say
        t.detach().numpy().

        >>> tb.tensor([1.0, 2.0]).numpy()
        array([1., 2.], dtype=float32)
        """
        if self._requires_grad:
            raise RuntimeError("numpy() of a tensor that requires grad would lose the graph; use t.detach().numpy()")
        return self.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float. Errors: ValueError for another number of elements.

        >>> tb.tensor([1.0, 2.0]).sum().item()
        3.0
        """
        if self.size != 1:
            raise ValueError(f"item() needs one element, got shape {self.shape}")
        return float(self.data.reshape(())[()])

    def tolist(self) -> float | list[Any]:
        """The values as nested lists of Python floats; a float for a tensor without axes.

        >>> tb.tensor([[1, 2], [3, 4]]).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
        """
        return self.data.tolist()  # type: ignore[no-any-return]

    def detach(self) -> Tensor:
        """The same array without its history; an in-place change of one is seen by the other.

        >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> (3 * x).detach()
        tensor([3., 6.])
        """
        result = Tensor(self._data)
        result._version = self._version
        note_detached(result, self)
        return result

    def retain_grad(self) -> None:
        """Ask that backward() fills .grad of this computed tensor too.

        Errors: RuntimeError for a tensor that does not require grad.

        >>> x = tb.tensor([3.0], requires_grad=True)
        >>> h = x * x
        >>> h.retain_grad()
        >>> (5 * h).sum().backward()
        >>> h.grad, x.grad  # 5, and 5 times 2 x
        (array([5.], dtype=float32), array([30.], dtype=float32))
        """
        unseen("it asks for the gradient of a tensor in between")
        if not self._requires_grad:
            raise RuntimeError("retain_grad() needs a tensor that requires grad")
        if self._node is not None:
            self._node.retained = weakref.ref(self)

    def backward(
        self, gradient: Tensor | Array | None = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Accumulate d self / d leaf into .grad of every leaf that requires grad.

        gradient: the gradient with respect to self, of self's shape and dtype; None (default) is 1, for one element.
        retain_graph: keep the graph for another backward (default: it is freed; create_graph=True keeps it too).
        create_graph: make the gradients Tensors with a history, so that they can be differentiated again. A
            leaf's .grad then leads back to the leaf: such a cycle is freed by zero_grad() or the garbage collector.
        Errors: RuntimeError for a tensor that nothing was recorded for, a graph that was freed, an array that was
        changed in place since, and without a gradient for several elements; TypeError, ValueError for another gradient.

        >>> x = tb.tensor([1.0, 2.0], requires_grad=True)
        >>> (x**2).sum().backward()  # adds 2 x
        >>> (3 * x).sum().backward()  # adds 3
        >>> x.grad
        array([5., 7.], dtype=float32)
        """
        engine.backward.backward(self, gradient, retain_graph, create_graph)

    # in-place changes are for data, not for the tape

    def _change(self, value: Any, ufunc: Any, index: Any = Ellipsis) -> Tensor:
        unseen(CHANGES)
        value = engine.guards.change(self, value, index)
        if ufunc is None:
            self._data[index] = value
        else:
            ufunc(self._data, value, out=self._data)
        self._version[0] += 1
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        self._change(value, None, index)

    def __iadd__(self, value: Any) -> Tensor:
        return self._change(value, np.add)

    def __isub__(self, value: Any) -> Tensor:
        return self._change(value, np.subtract)

    def __imul__(self, value: Any) -> Tensor:
        return self._change(value, np.multiply)

    def __itruediv__(self, value: Any) -> Tensor:
        return self._change(value, np.divide)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a tensor without axes")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth value of a tensor of shape {self.shape} is ambiguous")
        return bool(self.data.reshape(())[()])

    def __float__(self) -> float:
        return self.item()

    def __format__(self, spec: str) -> str:
        """f"{loss:.3f}": the number of a tensor with one element. Without a format any tensor is its repr."""
        if not spec and self.ndim:
            return repr(self)
        if self.size != 1:
            raise TypeError(f"the format {spec!r} needs one element, got a tensor of shape {self.shape}")
        return format(self.item(), spec)

    # copy and pickle

    def _attributes(self) -> dict[str, Any]:
        """What a subclass adds, in its __dict__ and its __slots__."""
        slots = [n for c in type(self).__mro__ if c not in Tensor.__mro__ for n in vars(c).get("__slots__", ())]
        return {**getattr(self, "__dict__", {}), **{name: getattr(self, name) for name in slots if hasattr(self, name)}}

    def __copy__(self) -> Tensor:
        copy = type(self).__new__(type(self))
        for name in Tensor.__slots__[1:]:
            setattr(copy, name, getattr(self, name))
        for name, value in self._attributes().items():
            setattr(copy, name, value)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle. Tensors that share memory share it in the copies, too, and their version.

        Both know an array again that they have met: so the whole array goes along that ours is a part of, as with
        PyTorch's storages. A part of an array that lies in memory in pieces, or that is not an array's (a file's, say),
        goes by itself.
        """
        if self._node is not None:
            raise RuntimeError("only leaves can be deep-copied or pickled, this tensor was computed: use t.detach()")
        array, place = memory.whole(self._data)
        gradient = self.grad._data if isinstance(self.grad, Tensor) else self.grad
        state = {"array": array, "view": place, "version": self._version, "grad": gradient}
        return {**state, "requires_grad": self._requires_grad, "attributes": self._attributes()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Tensor.__init__(self, memory.part(state["array"], state["view"]))
        version = state["version"] if "version" in state else state["changes"]  # its name in the first edition
        self._requires_grad, self._version, self.grad = state["requires_grad"], version, state["grad"]
        for name, value in state["attributes"].items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        text = np.array2string(self._data, separator=", ", prefix="tensor(")
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        origin = f", op={self._node.op.__name__}" if self._node else ", requires_grad=True" * self._requires_grad
        return f"tensor({text}{dtype}{origin})"


def wrap(data: Array) -> Tensor:
    """Tensor(data), for an array that is known to be right."""
    t = Tensor.__new__(Tensor)
    t._data, t._requires_grad, t._node, t._version, t.grad = data, False, None, [0], None
    return t


def tensor(data: ArrayLike, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of data.

    data: numbers, nested lists of them, arrays or Tensors. dtype: float32 or float64; None (default) keeps those two
    (in the machine's byte order), and makes float32 of Python numbers, lists, integer and boolean arrays.
    requires_grad: default False.
    Errors: TypeError for what holds no real numbers, and another dtype; ValueError for rows of different lengths.

    >>> tb.tensor([[1, 2], [3, 4]])
    tensor([[1., 2.],
            [3., 4.]])
    >>> tb.tensor(np.array([0.5]), requires_grad=True)
    tensor([0.5], dtype=float64, requires_grad=True)
    """
    return Tensor(as_floats(data._data if isinstance(data, Tensor) else data, dtype), requires_grad)
