"""What one does with a trained net's statistics, and gradient clipping.

Which statistics belong to inference? In training batch norm normalizes with those of the mini-batch; the answer of an
eval pass must not depend on what else is in the batch, so it needs constants. Three choices: the moving averages kept
in training (they lag behind, and remember batches of a net that has moved on); the population's, measured once the net
is trained (recompute_statistics); and, where the inputs are no longer distributed as in training, a mixture with
those of the new inputs (adapt_statistics). Constants are an affine map, and can be merged into the layer before
(fold_batch_norm).
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..checks import FLOATS, Array, check_flag, check_iterable, check_number, plain_array
from ..engine.guards import check_gradient
from ..engine.recording import no_grad
from ..engine.tensors import Tensor
from ..ops.norms import check_writable
from ..runtime.blas import one_thread
from .convolution import Conv2d
from .layers import Identity, Linear
from .module import Module, ModuleList, Parameter, Sequential
from .norm_variants import _BatchRenorm, _DecorrelatedBatchNorm
from .normalization import _BatchNorm, _Running
from .probe import check_model


def _norms(model: Any) -> list[_Running]:
    """The layers of model that normalize with running statistics in eval mode."""
    return [m for m in check_model(model).modules() if isinstance(m, _Running) and m._uses_running()]


def _statistics(norm: _Running) -> dict[str, Array]:
    """The running statistics, without the count of batches."""
    return {name: getattr(norm, name) for name in norm._buffers if name != "num_batches_tracked"}


@contextmanager
def _measuring(model: Any, then: Callable[[_Running, Any, Any, Any], Any]) -> Iterator[list[_Running]]:
    """Within it the model is in eval mode, but its norms normalize with the statistics of what they are given.

    then(norm, x, y, forward) is called after each forward, while the norm's buffers hold the statistics of x, and
    returns the output.
    Modes, momenta and counts are as before afterwards, after an error the statistics too.
    """
    norms = _norms(model)
    for norm in norms:
        check_writable(**dict(norm.named_buffers()))
    modes = [(m, m.training) for m in model.modules()]
    flags = [(norm, norm.track_running_stats) for norm in norms]
    before = [(norm, norm.momentum, {name: value.copy() for name, value in norm.named_buffers()}) for norm in norms]
    own = [(norm, name, vars(norm)[name]) for norm in norms for name in ("forward", "limits") if name in vars(norm)]

    def watched(norm: Any) -> Callable[..., Any]:
        given = vars(norm).get("forward", partial(type(norm).forward, norm))  # it may have one of its own

        def forward(x: Any) -> Any:
            norm.track_running_stats = True
            norm.reset_running_stats()
            norm.training, norm.momentum = True, 1.0
            y = given(x)
            norm.training = False
            return then(norm, x, y, given)

        return forward

    try:
        model.eval()
        for norm in norms:
            vars(norm)["forward"] = watched(norm)
            if isinstance(norm, _BatchRenorm):
                vars(norm)["limits"] = lambda: (1.0, 0.0)  # plain batch norm
        with no_grad():
            yield norms
    except BaseException:
        for norm, _, buffers in before:
            for name, value in buffers.items():
                getattr(norm, name)[...] = value
        raise
    finally:
        for norm, momentum, buffers in before:
            vars(norm).pop("forward", None)
            vars(norm).pop("limits", None)
            vars(norm).update({name: value for other, name, value in own if other is norm})
            norm.momentum = momentum
            if "num_batches_tracked" in buffers:
                norm.num_batches_tracked[...] = buffers["num_batches_tracked"]
            else:  # made by reset_running_stats()
                norm.num_batches_tracked = None
        for norm, flag in flags:
            norm.track_running_stats = flag
        for module, training in modes:
            module.training = training


class _Average:
    """Averages of statistics, each call weighted by its number of samples; a norm may be called several times."""

    def __init__(self) -> None:
        self.totals: dict[int, tuple[int, dict[str, Array]]] = {}  # by id: a module may compare as it likes

    def add(self, norm: _Running, samples: int) -> dict[str, Array]:
        """Take in what the norm's buffers hold; the average so far."""
        count, totals = self.totals.get(id(norm), (0, {}))
        totals = {k: totals.get(k, 0.0) + samples * v.astype(np.float64) for k, v in _statistics(norm).items()}
        self.totals[id(norm)] = count + samples, totals
        return {k: v / max(count + samples, 1) for k, v in totals.items()}


def _batch(x: Any, where: str) -> Tensor:
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(f"{where} must be a Tensor or an array, got {type(x).__name__}")
    if type(x) is not np.ndarray and isinstance(x, np.ndarray):
        x = plain_array(x, where)
    if x.dtype not in FLOATS:
        raise TypeError(f"{where} must be float32 or float64, got {x.dtype}: x.astype(np.float32) converts")
    if x.ndim == 0:
        raise ValueError(f"{where} must have a batch axis, got shape ()")
    return x if isinstance(x, Tensor) else Tensor(x)


def recompute_statistics(model: Module, loader: Iterable[Tensor | Array | tuple[Any, ...]]) -> Module:
    """Replace the model's running statistics, in place, by the population's under the present weights.

        mean = E[mean_B],   var = E[m / (m - 1) var_B]      (E over the loader's batches, weighted by their samples)

    Every layer normalizes with batch statistics while the batches pass, as in training (batch renorm without its
    correction); other layers, dropout above all, are in eval mode. One batch that holds the whole training set gives
    its exact statistics. Of decorrelated batch norm it is the average of the batches' whitening matrices.
    loader: batches of inputs, arrays or Tensors, or tuples whose first entry is the input. The model is changed in
    place (copy.deepcopy(model) keeps the old one) and returned; its modes, momenta and counts of batches stay as they
    are, and on an error the running statistics do too.
    Source: Ioffe & Szegedy 2015, algorithm 2. Errors: TypeError, ValueError for a loader without samples.

    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> _ = nn.utils.recompute_statistics(net, [np.array([[1.0], [3.0]], np.float32)])
    >>> net[0].running_mean, net[0].running_var  # (1 + 1) / (2 - 1)
    (array([2.], dtype=float32), array([2.], dtype=float32))
    """
    if not isinstance(loader, Iterable) or getattr(loader, "ndim", 1) == 0:
        raise TypeError(f"loader must be an iterable of batches, got {type(loader).__name__}")
    average, seen = _Average(), 0
    found: dict[int, dict[str, Array]] = {}

    def take(norm: _Running, x: Any, y: Any, forward: Any) -> Any:
        found[id(norm)] = average.add(norm, len(x))
        return y

    with _measuring(model, take) as norms:
        for batch in loader:
            if isinstance(batch, (tuple, list)) and not batch:
                raise ValueError("loader must yield arrays, or tuples that begin with one, got an empty tuple")
            x = _batch(batch[0] if isinstance(batch, (tuple, list)) else batch, "an input in loader")
            seen += len(x)
            model(x)
        if seen == 0:
            raise ValueError("loader must yield at least one sample, got none")
        for norm in norms:
            for name, value in found.get(id(norm), {}).items():
                getattr(norm, name)[...] = value
    return model


def adapt_statistics(model: Module, batch: Tensor | Array, weight: float) -> Module:
    """Move the model's running statistics, in place, towards those of a batch of shifted inputs, layer after layer.

        mean = (1 - weight) mean + weight mean_batch,   var alike

    Each layer sees the batch as the layers before it pass it on, already adapted. weight in [0, 1]: with statistics
    that are worth N samples of the source, n samples of the target have weight n / (N + n). batch: one array or Tensor
    of inputs. The model is changed in place (copy.deepcopy(model) keeps the old one) and returned; its modes stay, and
    so do, on an error, its statistics.
    Source: Schneider et al. 2020, equation 3. Errors: TypeError, ValueError for a batch without samples.

    >>> net = nn.Sequential(nn.BatchNorm1d(1))  # mean 0, variance 1
    >>> _ = nn.utils.adapt_statistics(net, np.array([[1.0], [3.0]], np.float32), weight=0.25)
    >>> net[0].running_mean, net[0].running_var  # a quarter of the way to 2 and 2
    (array([0.5], dtype=float32), array([1.25], dtype=float32))
    """
    weight = check_number("weight", weight, 0, 1)
    x = _batch(batch, "batch")
    if len(x) == 0:
        raise ValueError(f"batch must hold at least one sample, got shape {x.shape}")
    source = {id(norm): {k: v.astype(np.float64) for k, v in _statistics(norm).items()} for norm in _norms(model)}
    average = _Average()

    def mix(norm: Any, x: Any, y: Any, forward: Any) -> Any:
        for name, value in average.add(norm, len(x)).items():
            getattr(norm, name)[...] = (1 - weight) * source[id(norm)][name] + weight * value
        return forward(x)  # in eval mode, with the mixture

    with _measuring(model, mix):
        model(x)
    return model


class Folded(Identity):
    """In the place of a norm that was merged into the Linear or Conv2d before it: x, of the shape it was folded for.

    layer, norm: the two. Errors: ValueError for another shape.

    >>> nn.utils.Folded(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    Folded(BatchNorm2d into the Conv2d before)
    """

    def __init__(self, layer: Module, norm: Module) -> None:
        super().__init__()
        self.layer, self.norm = type(layer).__name__, type(norm).__name__

    def forward(self, x: Tensor) -> Tensor:
        if self.layer == "Linear" and x.ndim != 2:  # Linear maps the last axis, batch norm scales axis 1
            raise ValueError(f"input of {self.norm} must have shape (N, C), as it was folded for, got {x.shape}")
        return x

    def extra_repr(self) -> str:
        return f"{self.norm} into the {self.layer} before"


@one_thread
def fold_batch_norm(model: Module) -> Module:
    """A copy of model for inference, with every batch norm merged into the Linear or Conv2d before it.

        gamma (W x + b - mean) / sqrt(var + eps) + beta = (s W) x + s (b - mean) + beta,   s = gamma / sqrt(var + eps)

    Only within a Sequential is it certain what comes before what: there each pair of neighbours Linear, BatchNorm1d
    or Conv2d, BatchNorm2d is folded. In the norm's place comes an Identity, printed as Folded(BatchNorm2d into the
    Conv2d before), so that the names of the other layers stay. GhostBatchNorm and BatchRenorm are batch norms in eval
    mode; DecorrelatedBatchNorm has the matrix W in place of 1 / sqrt(var + eps).
    What cannot be folded stays as it is: LayerNorm, RMSNorm, GroupNorm and InstanceNorm, batch norms without running
    statistics (track_running_stats=False) or behind anything else (an activation, another norm), layers and weights
    that are used in several places, what has hooks or a forward of its own, and a Sequential that the class which holds
    it does not only call as a whole (but, say, self.seq[0](x)). The copy is in eval mode, and equal up to rounding;
    behind a Linear it takes inputs (N, features) alone.
    Errors: TypeError; ValueError for a norm of another number of features than the layer has outputs, and for
    decorrelation behind a Conv2d with groups.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    >>> folded = nn.utils.fold_batch_norm(net)
    >>> folded[1]
    Folded(BatchNorm1d into the Linear before)
    >>> x = tb.tensor([[1.0, 2.0]])
    >>> np.allclose(folded(x).data, net(x).data, atol=1e-6)
    True
    """
    _norms(model)
    folded = copy.deepcopy(model).eval()
    modules = list(folded.modules())
    uses = Counter(id(value) for m in modules for value in _held(vars(m)))
    called_whole = _called_whole(folded)
    for sequential in [m for m in modules if type(m).forward is Sequential.forward and called_whole(m)]:
        children = list(sequential.named_children())
        for (_, layer), (name, norm) in itertools.pairwise(children):
            kind = {Linear: 2, Conv2d: 4}.get(type(layer))
            own = type(norm).__module__.startswith(__package__) and not any("forward" in vars(m) for m in (layer, norm))
            parts = [layer, norm, *layer.parameters(), *norm.parameters()]
            if (
                kind
                and own
                and isinstance(norm, _BatchNorm)
                and norm._uses_running()
                and kind in norm.axes
                and all(uses[id(part)] == 1 for part in parts)
                and not any(m._hooks or m._pre_hooks for m in (layer, norm))
            ):
                _fold(layer, norm)
                setattr(sequential, name, Folded(layer, norm).eval())
    return folded


def _held(value: Any, seen: tuple[int, ...] = ()) -> Iterator[Any]:
    """The modules and tensors among the attributes of a module, and in lists and dicts of theirs."""
    if isinstance(value, (Module, Tensor)):
        yield value
    elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _held(item, (*seen, id(value)))


def _called_whole(model: Module) -> Callable[[Module], bool]:
    """Whether a Sequential is only called as a whole, as far as the source of who holds it tells.

    A forward that also says self.seq[0](x), or goes through self.seq layer by layer, needs the layers as they are.
    """
    taken_apart: set[int] = set()
    for owner in model.modules():
        if type(owner) not in (Sequential, ModuleList):
            words = _other_uses(type(owner))
            for name, child in owner.named_children():
                if name in words or (name.isdecimal() and "self" in words):
                    taken_apart |= {id(m) for m in child.modules()}
    return lambda sequential: id(sequential) not in taken_apart


def _other_uses(kind: type[Module]) -> set[str]:
    """The attributes of self that the class uses in other ways than to assign or to call them; "self" for self[...]."""
    if kind.__module__.startswith(__package__):
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):  # a class typed in, without a file: nothing is known
        return set()
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in called:
            found.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            found.add(node.value.id)
    return found


def _fold(layer: Any, norm: Any) -> None:
    weight, C = layer.weight.data.astype(np.float64), norm.num_features
    if len(weight) != C:
        kinds = type(layer).__name__, type(norm).__name__
        raise ValueError(f"model has a {kinds[0]} of {len(weight)} outputs before a {kinds[1]} of {C} features")
    gamma = np.ones(C) if norm.weight is None else norm.weight.data.astype(np.float64)
    beta = np.zeros(C) if norm.bias is None else norm.bias.data.astype(np.float64)
    bias = np.zeros(C) if layer.bias is None else layer.bias.data.astype(np.float64)
    rows, centered = weight.reshape(C, -1), bias - norm.running_mean
    if isinstance(norm, _DecorrelatedBatchNorm):
        if isinstance(layer, Conv2d) and layer.groups > 1:
            raise ValueError(
                f"model has a Conv2d of {layer.groups} groups before a {type(norm).__name__}: it cannot take up the "
                "whitening matrix, which mixes its groups"
            )
        groups = norm.running_matrix.astype(np.float64)
        rows = (groups @ rows.reshape(len(groups), norm.group_size, -1)).reshape(C, -1)
        centered = (groups @ centered.reshape(len(groups), norm.group_size, 1)).reshape(C)
        scale = gamma
    else:
        scale = gamma / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    dtype, trainable = layer.weight.dtype, layer.weight.requires_grad
    layer.weight = Parameter((scale[:, None] * rows).reshape(weight.shape).astype(dtype), trainable)
    layer.bias = Parameter((scale * centered + beta).astype(dtype), trainable)


@one_thread
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients by min(1, max_norm / (total + 1e-6)); returns total, their norm before.

    total = (sum over all elements |g|^p)^(1/p), p = norm_type (default 2); infinity is the largest |g|.
    parameters: a Tensor, or an iterable of them. Those without a gradient are left out; total is computed in float64,
    and 0 without any. A total that is not finite raises RuntimeError if error_if_nonfinite (default False); else the
    gradients become what PyTorch makes of them: 0 or NaN.
    Errors: TypeError, ValueError for max_norm < 0, norm_type <= 0 and other types.
    Source: Pascanu, Mikolov & Bengio 2013; torch.nn.utils.clip_grad_norm_.

    >>> w = tb.tensor([0.0, 0.0], requires_grad=True)
    >>> w.grad = np.array([3.0, 4.0], np.float32)
    >>> nn.utils.clip_grad_norm_(w, max_norm=1.0)
    5.0
    >>> w.grad.round(3)
    array([0.6, 0.8], dtype=float32)
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else check_iterable("parameters", parameters, "Tensors")
    for p in parameters:
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters must hold Tensors, got {type(p).__name__}")
    if not (isinstance(max_norm, float) and max_norm == math.inf):  # infinity: only measure
        max_norm = check_number("max_norm", max_norm, 0)
    if not (isinstance(norm_type, float) and norm_type == math.inf):
        norm_type = check_number("norm_type", norm_type)
        if norm_type <= 0:
            raise ValueError(f"norm_type must be > 0, got {norm_type}")
    check_flag("error_if_nonfinite", error_if_nonfinite)
    gradients = [check_gradient(p) for p in parameters if p.grad is not None]
    norms = [np.linalg.norm(g.astype(np.float64).reshape(-1), norm_type) for g in gradients if g.size]
    total = float(np.linalg.norm(norms, norm_type)) if norms else 0.0
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(f"the total norm of the gradients is {total}: they hold NaN or infinity")
    factor = math.nan if math.isnan(total) else min(1.0, max_norm / (total + 1e-6)) if max_norm < math.inf else 1.0
    with np.errstate(invalid="ignore"):  # infinity times 0
        for p in parameters:
            if isinstance(p.grad, Tensor):
                p.grad.data = np.asarray(p.grad.data * p.dtype.type(factor))  # NumPy makes a scalar of shape ()
            elif p.grad is not None:
                p.grad = np.asarray(p.grad * p.dtype.type(factor))
    return total
