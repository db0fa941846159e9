"""What one does with a trained net's statistics, and gradient clipping.

Which statistics belong to inference? In training batch norm normalizes with those of the mini-batch; the answer of an
eval pass must not depend on what else is in the batch, so it needs constants. Three choices: the moving averages kept
in training (they lag behind, and remember batches of a net that has moved on); the population's, measured once the net
is trained (recompute_statistics); and, where the inputs are no longer distributed as in training, a mixture with
those of the new inputs (adapt_statistics). Constants are an affine map, and can be merged into the layer before
(fold_batch_norm).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..checks import check_number
from ..engine import Tensor, no_grad
from .convolution import Conv2d
from .layers import Identity, Linear
from .module import Module, Sequential
from .norm_variants import _DecorrelatedBatchNorm
from .normalization import _BatchNorm, _Running


def _norms(model: Any) -> list[_Running]:
    """The layers of model that track running statistics."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a Module, got {type(model).__name__}")
    return [m for m in model.modules() if isinstance(m, _Running) and m.track_running_stats]


def _modes(model: Module) -> list[tuple[Module, bool]]:
    return [(m, m.training) for m in model.modules()]


def recompute_statistics(model: Module, loader: Iterable[Any]) -> Module:
    """Replace running statistics by the population's, as they are under the present weights.

        mean = E[mean_B],   var = E[m / (m - 1) var_B]      (E over the loader's batches, weighted by their samples)

    Every layer normalizes with batch statistics while the batches pass, as in training; other layers, dropout above
    all, are in eval mode. One batch that holds the whole training set gives its exact statistics.
    loader: batches of inputs, arrays or Tensors, or tuples whose first entry is the input. Modes and momenta are as
    before afterwards. On an error the running statistics are as before too. Returns model.
    Source: Ioffe & Szegedy 2015, algorithm 2. Errors: ValueError for a loader without batches.
    """
    norms = _norms(model)
    modes, momenta, before = _modes(model), [norm.momentum for norm in norms], model.state_dict()
    seen = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        with no_grad():
            for batch in loader:
                x = batch[0] if isinstance(batch, (tuple, list)) else batch
                x = x if isinstance(x, Tensor) else Tensor(x)
                seen += len(x)
                for norm in norms:
                    norm.momentum = len(x) / max(seen, 1)  # of all samples so far, this batch's share
                model(x)
        if seen == 0:
            raise ValueError("loader must yield at least one sample, got none")
    except BaseException:
        model.load_state_dict(before)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training
    return model


def adapt_statistics(model: Module, batch: Any, weight: float) -> Module:
    """Move running statistics towards those of a batch of shifted inputs, layer after layer.

        mean = (1 - weight) mean + weight mean_batch,   var alike

    Each layer sees the batch as the layers before it pass it on, already adapted. weight in [0, 1]: with statistics
    that are worth N samples of the source, n samples of the target have weight n / (N + n). The model is changed in
    place (copy.deepcopy(model) keeps the old one); its modes stay. Returns model.
    Source: Schneider et al. 2020, equation 3.
    """
    check_number("weight", weight, 0, 1)
    norms, modes = _norms(model), _modes(model)

    def adapt(norm: Any, args: tuple) -> None:
        momentum, counted, norm.momentum, norm.training = norm.momentum, norm.num_batches_tracked.copy(), weight, True
        try:
            norm.forward(*args)
        finally:
            norm.momentum, norm.training = momentum, False
            norm.num_batches_tracked[...] = counted  # not a batch of training

    handles = [norm.register_forward_pre_hook(adapt) for norm in norms]
    before = model.state_dict()
    try:
        model.eval()
        with no_grad():
            model(batch if isinstance(batch, Tensor) else Tensor(batch))
    except BaseException:
        model.load_state_dict(before)
        raise
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return model


def fold_batch_norm(model: Module) -> Module:
    """A copy of model for inference, with every batch norm merged into the Linear or Conv2d before it.

        gamma (W x + b - mean) / sqrt(var + eps) + beta = (s W) x + s (b - mean) + beta,   s = gamma / sqrt(var + eps)

    Only within a Sequential is it certain what comes before what: there each pair of neighbours Linear, BatchNorm1d
    or Conv2d, BatchNorm2d is folded, and the norm becomes an Identity, so that names stay. GhostBatchNorm and
    BatchRenorm are batch norms in eval mode; DecorrelatedBatchNorm has the matrix W in place of 1 / sqrt(var + eps).
    Norms without running statistics, and those behind anything else, stay. The copy is in eval mode.
    """
    _norms(model)
    folded = copy.deepcopy(model).eval()
    for sequential in [m for m in folded.modules() if isinstance(m, Sequential)]:
        children = list(sequential.named_children())
        for (_, layer), (name, norm) in itertools.pairwise(children):
            kind = {Linear: 2, Conv2d: 4}.get(type(layer))
            if kind and isinstance(norm, _BatchNorm) and norm.track_running_stats and kind in norm.axes:
                _fold(layer, norm)
                setattr(sequential, name, Identity().eval())
    return folded


def _fold(layer: Any, norm: Any) -> None:
    weight, C = layer.weight.data.astype(np.float64), norm.num_features
    if len(weight) != C:
        raise ValueError(f"a layer of {len(weight)} outputs is followed by a norm of {C} features")
    gamma = np.ones(C) if norm.weight is None else norm.weight.data.astype(np.float64)
    beta = np.zeros(C) if norm.bias is None else norm.bias.data.astype(np.float64)
    bias = np.zeros(C) if layer.bias is None else layer.bias.data.astype(np.float64)
    if isinstance(norm, _DecorrelatedBatchNorm):
        size = norm.group_size
        matrix = np.zeros((C, C))
        for g, block in enumerate(norm.running_matrix):
            matrix[g * size : (g + 1) * size, g * size : (g + 1) * size] = block
        if isinstance(layer, Conv2d) and layer.groups > 1:
            raise ValueError("a Conv2d with groups cannot take up a whitening matrix, which mixes its groups")
        scale = gamma[:, None] * matrix
    else:
        scale = np.diag(gamma / np.sqrt(norm.running_var.astype(np.float64) + norm.eps))
    dtype, trainable = layer.weight.dtype, layer.weight.requires_grad
    layer.weight.data = (scale @ weight.reshape(C, -1)).reshape(weight.shape).astype(dtype)
    layer.bias = type(layer.weight)((scale @ (bias - norm.running_mean) + beta).astype(dtype), trainable)


def clip_grad_norm_(
    parameters: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients by min(1, max_norm / (total + 1e-6)), in place; returns total, their norm before.

    total = (sum over all elements |g|^p)^(1/p), p = norm_type; infinity is the largest |g|. Parameters without a
    gradient are left out; total is computed in float64, and 0 without any. A total that is not finite raises
    RuntimeError if error_if_nonfinite; else the gradients become what PyTorch makes of them: 0 or NaN.
    Source: Pascanu, Mikolov & Bengio 2013; torch.nn.utils.clip_grad_norm_.
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in parameters:
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters must hold Tensors, got {type(p).__name__}")
    check_number("max_norm", max_norm, 0)
    if norm_type != math.inf:
        check_number("norm_type", norm_type)
        if norm_type <= 0:
            raise ValueError(f"norm_type must be > 0, got {norm_type}")
    gradients = [p.grad.data if isinstance(p.grad, Tensor) else p.grad for p in parameters if p.grad is not None]
    norms = [np.linalg.norm(g.astype(np.float64).reshape(-1), norm_type) for g in gradients if g.size]
    total = float(np.linalg.norm(norms, norm_type)) if norms else 0.0
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(f"the total norm of the gradients is {total}: they hold NaN or infinity")
    with np.errstate(invalid="ignore"):  # infinity times 0
        for g in gradients:
            g *= g.dtype.type(min(1.0, max_norm / (total + 1e-6)) if not math.isnan(total) else math.nan)
    return total
