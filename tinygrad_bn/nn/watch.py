"""A look at training: histograms of activations and gradients, saturation, drift, and the size of updates.

Four questions that one asks of a net that does not learn, or learns and one wonders why:

    what do the layers' outputs, and the gradients that reach them, look like?      histogram
    which units are flat, so that no gradient passes them?                           saturation
    how far do the distributions move that a layer has to cope with?                 drift
    how large is a step, beside the weights that it changes?                         update-to-weight ratio

``Watch`` answers them along a training run; ``saturation``, ``batch_statistics``, ``running_statistics`` and ``drift``
at a moment. For another question ``activations`` hands out what went into each layer and what came out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..checks import Array, check_int, check_iterable, check_number, check_size
from ..engine.backward import grad
from ..engine.recording import enable_grad, is_grad_enabled
from ..engine.tensors import Tensor
from . import watch_plots
from .layers import ReLU, Sigmoid, Tanh
from .module import Module
from .normalization import _Running
from .probe import as_arguments, check_model, undisturbed

ACTIVATIONS = (ReLU, Sigmoid, Tanh)
AT_ONCE = 1000  # calls of a layer between two step(): more, and step() was forgotten
Statistics = dict[str, tuple[Array, Array]]  # layer -> (mean, standard deviation) of its channels
Activations = dict[str, tuple[Any, Any]]  # layer -> (input, output)


# At a moment


@contextmanager
def activations(model: Module, types: type[Module] | tuple[type[Module], ...] | None = None) -> Iterator[Activations]:
    """{layer: (input, output)}, filled by the forwards of a model within ``with``, in the order of the calls.

        with no_grad(), nn.watch.activations(model, nn.ReLU) as seen:
            model(x)
        means = {layer: y.data.mean() for layer, (_, y) in seen.items()}

    The forward is your own: in the mode that the model is in, with its effect on running statistics, and on the tape
    unless under no_grad(). What is seen are its own tensors, not copies: ask grad() for the gradient of one.
    Layers are the modules without modules in them; one that is called again within has a second name, "relu#2". The
    input of a layer that is called with several is a tuple of them. The hooks are taken away at the end of ``with``,
    also after an error, and what was seen stays. A copy.deepcopy of the model is not watched.

    model: a Module. types: a class of layers, or a tuple of them; None (default) is all.
    Errors: TypeError for other arguments, on entering ``with``.

    >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> with nn.watch.activations(net, nn.ReLU) as seen:
    ...     y = net(tb.tensor([-1.0, 2.0]))
    >>> seen
    {'1': (tensor([-1.,  2.]), tensor([0., 2.]))}
    """
    names = _Leaves(model)
    wanted = _classes("types", Module if types is None else types)
    seen: Activations = {}
    calls = _Calls()

    def hook(module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if (name := names.of(module)) is not None:  # a copy of the model calls it too
            seen[calls.name(name)] = (inputs[0] if len(inputs) == 1 else inputs, output)

    layers = [module for module in names.modules() if isinstance(module, wanted)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def slopes(activation: Module, z: Any) -> Array:
    """f'(z), element by element, of a module that computes y = f(z) element by element. z: a Tensor or an array.

    It is the gradient of the sum of y, so that it works for every such module, also for one of yours.
    activation: the module.
    Errors: TypeError for other arguments, ValueError for a module whose output has another shape than z.

    >>> nn.watch.slopes(nn.Sigmoid(), np.zeros(2, np.float32))
    array([0.25, 0.25], dtype=float32)
    """
    check_model(activation, "activation")
    arrays = as_arguments(z, "z")
    if len(arrays) != 1 or not isinstance(arrays[0], Tensor):
        raise TypeError(f"z must be one Tensor or array of floats, got {type(z).__name__}")
    x = Tensor(arrays[0].data, requires_grad=True)
    with enable_grad():
        y = activation.forward(x)
    if y.shape != x.shape:
        raise ValueError(f"activation must work element by element, got {x.shape} -> {y.shape}")
    return grad(y, x, np.ones_like(y.data), allow_unused=True)[0] if y.requires_grad else np.zeros_like(x.data)


def flat_share(activation: Module, z: Any, flat: float = 0.01) -> float:
    """The share of elements of z at which the activation is flat: #{|f'(z)| < flat} / #z; nan for an empty z.

    flat: default 0.01, 4 % of the steepest slope of a sigmoid, which is 1/4. Of ReLU it is the share of z <= 0. A NaN
    counts as not flat. Errors: as slopes; ValueError for flat < 0.

    >>> nn.watch.flat_share(nn.ReLU(), np.array([-3.0, -1.0, 2.0, 5.0]))
    0.5
    """
    check_number("flat", flat, 0)
    slope = np.abs(slopes(activation, z))
    return float(np.mean(slope < flat)) if slope.size else float("nan")


def saturation(
    model: Module, input: Any, flat: float = 0.01, activations: tuple[type[Module], ...] = ACTIVATIONS
) -> dict[str, float]:
    """{layer: share of its outputs with |f'| < flat} of a model's activations, for this input.

    share = #{(n, unit): |f'(z[n, unit])| < flat} / #{(n, unit)},   z: the input of the activation

    The model runs once in the mode it is in, without recording; its state is as before afterwards.
    model: a Module. input: a Tensor or array, or a tuple of them. flat: default 0.01.
    activations: the classes of modules that count as activations; they must work element by element.
    Errors: TypeError, ValueError for other arguments. Source: Glorot & Bengio 2010 (what saturation does).

    >>> net = nn.Sequential(nn.Identity(), nn.Sigmoid())
    >>> nn.watch.saturation(net, np.array([[-9.0, 0.0, 2.0, 5.0]]))
    {'1': 0.5}
    """
    names = _Leaves(model)
    shares: dict[str, float] = {}
    check_number("flat", flat, 0)
    activations = _classes("activations", activations)
    calls = _Calls()

    def hook(module: Module, inputs: Any, output: Any) -> None:
        if (name := names.of(module)) is not None and isinstance(module, activations):
            shares[calls.name(name)] = flat_share(module, inputs[0], flat)

    with undisturbed(model, hook):
        model(*as_arguments(input))
    return shares


def batch_statistics(model: Module, input: Any) -> Statistics:
    """{layer: (mean, std)} of each layer's output for this input, per channel (axis 1), in float64.

    mean[c] = average over samples and positions of y[:, c];  std[c] = sqrt of the average of (y[:, c] - mean[c])^2

    Layers are the modules without modules in them. The model runs once in the mode it is in, without recording; its
    state is as before afterwards. Outputs without axis 1 are one channel.
    Errors: TypeError for another model or input.

    >>> nn.watch.batch_statistics(nn.Sequential(nn.ReLU()), np.array([[-1.0, 2.0], [3.0, 4.0]]))
    {'0': (array([1.5, 3. ]), array([1.5, 1. ]))}
    """
    names = _Leaves(model)
    found: Statistics = {}
    calls = _Calls()

    def hook(module: Module, inputs: Any, output: Any) -> None:
        if (name := names.of(module)) is not None and isinstance(output, Tensor):
            found[calls.name(name)] = _channel_statistics([output.data])

    with undisturbed(model, hook):
        model(*as_arguments(input))
    return found


def running_statistics(model: Module) -> Statistics:
    """{layer: (running_mean, sqrt(running_var))} of the norms that track them, as copies in float64.

    Decorrelated batch norm, which has a matrix in place of running_var, is left out.
    Errors: TypeError for another model.

    >>> nn.watch.running_statistics(nn.Sequential(nn.BatchNorm1d(2)))
    {'0': (array([0., 0.]), array([1., 1.]))}
    """
    return {
        name: (norm.running_mean.astype(np.float64), np.sqrt(norm.running_var.astype(np.float64)))
        for name, norm in check_model(model).named_modules()
        if isinstance(norm, _Running) and norm._uses_running() and "running_var" in norm._buffers
    }


def drift(before: Statistics, after: Statistics) -> dict[str, float]:
    """How far each layer's means have moved, in standard deviations, as an average over its channels:

        drift = average over c of |mean'[c] - mean[c]| / ((std[c] + std'[c]) / 2 + 1e-12)

    before, after: what batch_statistics() or running_statistics() returned at two moments. Layers that are in one of
    them only are left out; nan where the number of channels differs. Source: Ioffe & Szegedy 2015, section 4.1, where
    "internal covariate shift" is shown by percentiles over time. Errors: TypeError for other arguments.

    >>> moved = nn.watch.drift({"a": (np.zeros(2), np.ones(2))}, {"a": (np.array([1.0, 3.0]), np.ones(2))})
    >>> round(moved["a"], 6)
    2.0
    """
    for argument, statistics in (("before", before), ("after", after)):
        if not isinstance(statistics, dict):
            raise TypeError(f"{argument} must be a dict of pairs of arrays, got {type(statistics).__name__}")
    moved = {}
    for name in before:
        if name in after:
            for argument, pair in (("before", before[name]), ("after", after[name])):
                if not _is_pair(pair):
                    raise TypeError(f"{argument}[{name!r}] must be a pair of arrays, (mean, std), got {pair!r:.60}")
            (mean, std), (mean2, std2) = before[name], after[name]
            same = mean.shape == mean2.shape and mean.size > 0
            moved[name] = float(np.mean(np.abs(mean2 - mean) / ((std + std2) / 2 + 1e-12))) if same else float("nan")
    return moved


def _is_pair(value: Any) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2 and all(type(a) is np.ndarray for a in value)
    return pair and all(a.dtype.kind in "fiu" for a in value) and value[0].shape == value[1].shape


def _classes(argument: str, value: Any) -> tuple[type[Module], ...]:
    classes = (value,) if isinstance(value, type) else value
    if not isinstance(classes, (tuple, list)) or not all(
        isinstance(c, type) and issubclass(c, Module) for c in classes
    ):
        raise TypeError(f"{argument} must be a tuple of classes of Modules, got {value!r:.60}")
    return tuple(classes)


class _Leaves:
    """The names of the modules without modules in them, by the module itself. It is held: its id is nobody else's."""

    def __init__(self, model: Any, only: list[str] | None = None) -> None:
        named = [(m, n) for n, m in check_model(model).named_modules() if not any(True for _ in m.children())]
        self._named = {id(m): (m, name) for m, name in named if only is None or name in only}

    def of(self, module: Module) -> str | None:
        return self._named.get(id(module), (None, None))[1]

    def modules(self) -> list[Module]:
        return [m for m, _ in self._named.values()]

    def names(self) -> list[str]:
        return [name for _, name in self._named.values()]


class _Calls:
    """Names of calls: a module that is called again in the same forward gets a number behind its name."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def name(self, layer: str) -> str:
        self.counts[layer] = count = self.counts.get(layer, 0) + 1
        return layer if count == 1 else f"{layer}#{count}"


def _channel_statistics(outputs: list[Array]) -> tuple[Array, Array]:
    """Mean and standard deviation per channel over all outputs with as many channels as the last."""
    rows = [np.moveaxis(y, 1, 0).reshape(y.shape[1], -1) if y.ndim > 1 else y.reshape(1, -1) for y in outputs]
    y = np.concatenate([r for r in rows if len(r) == len(rows[-1])], axis=1).astype(np.float64)
    if y.shape[1] == 0:
        return np.full(len(y), np.nan), np.full(len(y), np.nan)
    return y.mean(axis=1), y.std(axis=1)


# Along training


@dataclass
class Histogram:
    """counts[i] values lie in [edges[i], edges[i + 1]) (the last bin has both ends); others are NaN or infinite.

    Values beyond 1e300 count as 1e300.

    >>> nn.watch.Histogram(counts=np.array([1, 2]), edges=np.array([0.0, 0.5, 1.0]), others=0).counts.sum().item()
    3
    """

    counts: Array
    edges: Array
    others: int

    @classmethod
    def of(cls, arrays: list[Array], bins: int) -> Histogram:
        """np.histogram of the finite values, bins of equal width from the smallest to the largest.

        arrays: a list of them; their values are counted together. bins: how many.

        >>> h = nn.watch.Histogram.of([np.array([0.0, 0.9, 1.0, np.nan])], bins=2)
        >>> h.counts, h.edges, h.others
        (array([1, 2]), array([0. , 0.5, 1. ]), 1)
        """
        values = np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float64)
        finite = np.clip(values[np.isfinite(values)], -1e300, 1e300)
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        if not high - low > 1e-9 * max(abs(low), abs(high)):  # all alike: a bin must have a width
            low, high = low - max(0.5, 1e-6 * abs(low)), high + max(0.5, 1e-6 * abs(high))
        counts, edges = np.histogram(finite, bins, (low, high))
        return cls(counts, edges, values.size - finite.size)


@dataclass
class LayerRecord:
    """What was seen of a layer in one step.

    type: its class. mean, std: of its output, per channel. activation: the histogram of its output, and gradient that
    of the loss's gradient with respect to it, or None. flat: share of flat units; None but for activations.

    >>> net = nn.Sequential(nn.ReLU())
    >>> watch = nn.Watch(net)
    >>> _ = net(tb.tensor([[-1.0, 3.0], [-1.0, 5.0]]))
    >>> watch.step()
    >>> seen = watch.records[0].layers["0"]
    >>> seen.type, seen.mean, seen.flat
    ('ReLU', array([0., 4.]), 0.5)
    """

    type: str
    mean: Array
    std: Array
    activation: Histogram
    gradient: Histogram | None
    flat: float | None


@dataclass
class Record:
    """One step: its number (counted from 0), its layers, the update-to-weight ratio of each parameter.

    step: the number. layers: {name: LayerRecord}. updates: {parameter: ratio}.

    >>> net = nn.Sequential(nn.ReLU())
    >>> watch = nn.Watch(net)
    >>> _ = net(tb.tensor([[-1.0, 3.0]]))
    >>> watch.step()
    >>> watch.records[0].step, list(watch.records[0].layers), watch.records[0].updates
    (0, ['0'], {})
    """

    step: int
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    updates: dict[str, float] = field(default_factory=dict)


class Watch:
    """Records what happens inside of a model while it is trained; each question has a method, and a plot of one call.

        with nn.Watch(model, every=10) as watch:
            for images, labels in loader:
                loss = F.cross_entropy(model(images), labels)
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                watch.step()  # once per step, after the optimizer's
        watch.plot_activations().savefig("activations.png")

    Training is the same to the bit with it. Layers are the modules without modules in them; one that is called twice
    in the same forward has a second name, "relu#2". A forward under no_grad(), such as a validation pass, is not
    recorded. In the steps between, the cost is a function call per layer.

    model: a Module. every: record steps 0, every, 2 every ... (default 1). layers: names of the layers to watch, as in
    model.named_modules(); None (default) is all. bins: of each histogram (default 50). flat: a unit whose |f'| is
    smaller is saturated (default 0.01). activations: the classes of modules that have an f'; they must work element
    by element (default ReLU, Sigmoid, Tanh).

    It hooks into the model when it is made; close(), or the end of ``with``, takes the hooks away. What was recorded
    stays: ``records`` is a list of Record. A copy.deepcopy of the model is not watched.
    Errors: TypeError, ValueError for other arguments; RuntimeError in a forward if step() was not called for 1,000
    forwards. The plots need Matplotlib, in the extra [demos], and raise ImportError without it.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 1))
    >>> sgd = optim.SGD(net.parameters(), lr=0.1)
    >>> with nn.Watch(net, every=2) as watch:
    ...     for _ in range(5):
    ...         loss = (net(tb.Tensor(np.ones((8, 3), np.float32))) ** 2).mean()
    ...         sgd.zero_grad()
    ...         loss.backward()
    ...         sgd.step()
    ...         watch.step()
    >>> watch.steps
    [0, 2, 4]
    >>> int(watch.histogram("1").counts.sum())  # 8 rows of 4 sigmoids
    32
    >>> sorted(watch.updates())
    ['0.bias', '0.weight', '2.bias', '2.weight']
    """

    def __init__(
        self,
        model: Module,
        every: int = 1,
        *,
        layers: Iterable[str] | None = None,
        bins: int = 50,
        flat: float = 0.01,
        activations: tuple[type[Module], ...] = ACTIVATIONS,
    ) -> None:
        leaves, wanted = _Leaves(model), None
        self.every, self.bins = check_int("every", every, 1), check_size("bins", bins)
        self.flat, self.activations = check_number("flat", flat, 0), _classes("activations", activations)
        if layers is not None:
            wanted = [layers] if isinstance(layers, str) else check_iterable("layers", layers, "names")
            unknown = [name for name in wanted if not isinstance(name, str) or name not in leaves.names()]
            if unknown:
                raise ValueError(f"layers must be among {sorted(leaves.names())}, got {unknown}")
        self.model = model
        self.records: list[Record] = []
        self._count = 0  # calls of step()
        self._calls = _Calls()
        self._layers: _Leaves | None = None
        self._start()
        self._handles = [model.register_forward_pre_hook(self._before_forward)]
        self._wanted = wanted
        self._look()

    def _look(self) -> None:
        """Hooks for the layers that the model has now: some may have been exchanged."""
        leaves = _Leaves(self.model, self._wanted)
        if [id(m) for m in leaves.modules()] != [id(m) for m in (self._layers.modules() if self._layers else [])]:
            for handle in self._handles[1:]:
                handle.remove()
            self._handles[1:] = [m.register_forward_hook(self._after) for m in leaves.modules()]
        self._layers = leaves

    def _start(self) -> None:
        self._weights: dict[str, Array] | None = None  # at the beginning of the step
        self._outputs: dict[str, list[Tensor]] = {}
        self._types: dict[str, str] = {}
        self._flat: dict[str, list[tuple[float, int]]] = {}

    def _before_forward(self, model: Module, inputs: Any) -> None:
        if model is self.model:
            self._calls = _Calls()
            self._look()

    def _after(self, module: Module, inputs: Any, output: Any) -> None:
        """The hook. A copy of the model calls it too, with modules that are not known here."""
        layer = None if self._layers is None else self._layers.of(module)
        if self._count % self.every or layer is None or not is_grad_enabled():
            return
        if not isinstance(output, Tensor):
            return
        if self._weights is None:
            self._weights = {name: p.data.copy() for name, p in self.model.named_parameters()}
        name = self._calls.name(layer)
        outputs = self._outputs.setdefault(name, [])
        if len(outputs) >= AT_ONCE:
            raise RuntimeError(f"{AT_ONCE} forwards since the last step() of the Watch: call it once per training step")
        if not output.is_leaf:
            output.retain_grad()
        outputs.append(output)
        self._types[name] = type(module).__name__
        if isinstance(module, self.activations):
            share = flat_share(module, inputs[0].data if isinstance(inputs[0], Tensor) else inputs[0], self.flat)
            self._flat.setdefault(name, []).append((share, output.size))

    def step(self) -> None:
        """The end of a training step: call it after the optimizer's step().

        >>> net = nn.Sequential(nn.ReLU())
        >>> watch = nn.Watch(net)
        >>> _ = net(tb.tensor([[-1.0, 3.0]]))
        >>> watch.step()
        >>> len(watch.records)
        1
        """
        if self._weights is not None:
            record = Record(self._count)
            for name, outputs in self._outputs.items():
                gradients = [y.grad for y in outputs if y.grad is not None and not y.is_leaf]
                gradients = [g.data if isinstance(g, Tensor) else g for g in gradients]
                with np.errstate(all="ignore"):  # on the way to divergence
                    mean, std = _channel_statistics([y.data for y in outputs])
                    shares = self._flat.get(name)
                    record.layers[name] = LayerRecord(
                        self._types[name],
                        mean,
                        std,
                        Histogram.of([y.data for y in outputs], self.bins),
                        Histogram.of(gradients, self.bins) if gradients else None,
                        None if shares is None else sum(s * n for s, n in shares) / max(sum(n for _, n in shares), 1),
                    )
            for name, p in self.model.named_parameters():
                if name in self._weights and self._weights[name].shape == p.shape:
                    record.updates[name] = update_ratio(self._weights[name], p.data)
            self.records.append(record)
        self._start()
        self._count += 1

    def close(self) -> None:
        """Take the hooks away; what was recorded stays.

        >>> watch = nn.Watch(nn.Sequential(nn.ReLU()))
        >>> watch.close()
        >>> _ = watch.model(tb.tensor([[-1.0, 3.0]]))
        >>> watch.step()
        >>> watch.records
        []
        """
        for handle in self._handles:
            handle.remove()
        self._start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:  # a copy of the model holds the hooks of the original
        return self

    def __getstate__(self) -> dict[str, Any]:  # pickle; the model is pickled with its hooks, and they with the Watch
        if self._outputs:
            raise RuntimeError(
                "a model cannot be pickled while a Watch holds outputs of its forward: "
                "call the Watch's step(), or its close(), which takes the hooks away"
            )
        return vars(self)

    # what was seen

    @property
    def steps(self) -> list[int]:
        """The numbers of the steps that were recorded.

        >>> watch = nn.Watch(nn.Sequential(nn.ReLU()), every=2)
        >>> for _ in range(5):
        ...     y = watch.model(tb.tensor([[-1.0, 3.0]]))
        ...     watch.step()
        >>> watch.steps
        [0, 2, 4]
        """
        return [record.step for record in self.records]

    def _record(self, index: int) -> Record:
        if not self.records:
            raise ValueError("nothing was recorded: train under the Watch, and call its step() after the optimizer's")
        check_int("index", index)
        if not -len(self.records) <= index < len(self.records):
            raise ValueError(f"index must be that of one of {len(self.records)} records, got {index}")
        return self.records[index]

    def histogram(self, layer: str, kind: str = "activation", index: int = -1) -> Histogram:
        """The values of a layer's output (kind="activation"), or dL/doutput (kind="gradient"), in one record.

        counts, edges = np.histogram(values, bins)     over samples, channels and positions, bins from least to largest

        layer: its name. kind: default "activation". index: which record (default -1, the last).
        Errors: ValueError for another layer, kind or index, and for the gradient of a layer that none has reached.

        >>> watch = nn.Watch(nn.Sequential(nn.ReLU()), bins=2)
        >>> _ = watch.model(tb.tensor([[-1.0, -2.0, 3.0]]))  # becomes 0, 0, 3
        >>> watch.step()
        >>> watch.histogram("0").counts
        array([2, 1])
        """
        seen = self._record(index).layers
        if not isinstance(layer, str) or layer not in seen:
            raise ValueError(f"layer must be one of {list(seen)}, got {layer!r}")
        if not isinstance(kind, str) or kind not in ("activation", "gradient"):
            raise ValueError(f"kind must be 'activation' or 'gradient', got {kind!r}")
        found = seen[layer].activation if kind == "activation" else seen[layer].gradient
        if found is None:
            raise ValueError(f"no gradient has reached the output of layer {layer!r}")
        return found

    def saturation(self) -> dict[str, Array]:
        """{activation layer: share of outputs with |f'(z)| < flat, for each record}

        >>> watch = nn.Watch(nn.Sequential(nn.Sigmoid()))
        >>> _ = watch.model(tb.tensor([[0.0, 9.0]]))  # the slopes are 0.25 and 0.0001
        >>> watch.step()
        >>> watch.saturation()
        {'0': array([0.5])}
        """
        return self._series({name: r.flat for name, r in record.layers.items()} for record in self.records)

    def drift(self) -> dict[str, Array]:
        """{layer: for each record but the first, how far the channels' means have moved since the one before}

        As drift(): an average over channels of |mean' - mean| / ((std + std') / 2 + 1e-12). Each record is of the
        mini-batch of its step, so that part of the drift is the batch's noise.

        >>> watch = nn.Watch(nn.Sequential(nn.Identity()))
        >>> for x in ([[1.0], [3.0]], [[4.0], [6.0]]):  # mean 2, then 5; standard deviation 1
        ...     y = watch.model(tb.tensor(x))
        ...     watch.step()
        >>> watch.drift()["0"].round(6)
        array([3.])
        """
        moments = [{name: (r.mean, r.std) for name, r in record.layers.items()} for record in self.records]
        with np.errstate(all="ignore"):
            return self._series(drift(a, b) for a, b in pairwise(moments))

    def updates(self) -> dict[str, Array]:
        """{parameter: ||p after the step - p before|| / ||p before||, for each record}, see update_ratio()

        >>> net = nn.Linear(1, 1, bias=False)
        >>> watch = nn.Watch(net)
        >>> _ = net(tb.tensor([[1.0]]))
        >>> net.weight.data = net.weight.data * 2  # in place of an optimizer's step
        >>> watch.step()
        >>> watch.updates()
        {'weight': array([1.])}
        """
        return self._series(record.updates for record in self.records)

    def _series(self, rows: Iterable[dict[str, Any]]) -> dict[str, Array]:
        """One array per name that ever has a value; nan where it has none."""
        rows = list(rows)
        names = dict.fromkeys(name for row in rows for name, value in row.items() if value is not None)
        return {
            name: np.array([np.nan if row.get(name) is None else row[name] for row in rows], np.float64)
            for name in names
        }

    # plots, each a Matplotlib figure (watch_plots.py)

    def plot_activations(self, index: int = -1) -> Any:
        """The histogram of every layer's output in one record, as a Matplotlib Figure.

        index: which record (default -1, the last). Errors: ValueError for another; ImportError without Matplotlib.

        >>> watch = nn.Watch(nn.Sequential(nn.ReLU()))
        >>> _ = watch.model(tb.tensor([[-1.0, 3.0]]))
        >>> watch.step()
        >>> watch.plot_activations().savefig("activations.png")
        """
        return watch_plots.histograms(self._record(index), "activation", "output")

    def plot_gradients(self, index: int = -1) -> Any:
        """The histogram of dL/doutput of every layer in one record, as a Matplotlib Figure; logarithmic counts.

        index: which record (default -1, the last). Errors: ValueError for another, and where no gradient has reached a
        layer's output; ImportError without Matplotlib.

        >>> watch = nn.Watch(nn.Sequential(nn.Linear(2, 1)))
        >>> watch.model(tb.tensor([[-1.0, 3.0]])).backward()
        >>> watch.step()
        >>> watch.plot_gradients().savefig("gradients.png")
        """
        return watch_plots.histograms(self._record(index), "gradient", "dL/doutput")

    def plot_saturation(self) -> Any:
        """saturation() along the steps, in percent, as a Matplotlib Figure.

        Errors: ValueError where nothing was recorded; ImportError without Matplotlib.

        >>> watch = nn.Watch(nn.Sequential(nn.ReLU()))
        >>> _ = watch.model(tb.tensor([[-1.0, 3.0]]))
        >>> watch.step()
        >>> watch.plot_saturation().savefig("saturation.png")
        """
        series = {name: 100 * share for name, share in self.saturation().items()}
        return watch_plots.lines(series, self.steps, f"outputs with |f'| < {self.flat:g} (%)")

    def plot_drift(self) -> Any:
        """drift() along the steps, as a Matplotlib Figure.

        Errors: ValueError where fewer than two steps were recorded; ImportError without Matplotlib.

        >>> watch = nn.Watch(nn.Sequential(nn.ReLU()))
        >>> for _ in range(2):
        ...     y = watch.model(tb.tensor([[-1.0, 3.0]]))
        ...     watch.step()
        >>> watch.plot_drift().savefig("drift.png")
        """
        label = f"drift of the means in {self.every} step{'s' * (self.every != 1)} (standard deviations)"
        return watch_plots.lines(self.drift(), self.steps[1:], label)

    def plot_updates(self) -> Any:
        """updates() along the steps on a logarithmic axis, as a Matplotlib Figure.

        The dotted line at 1e-3 is a rule of thumb: far above it steps are coarse, far below it training is slow
        (Karpathy, CS231n, "Ratio of weights:updates").
        Errors: ValueError where nothing was recorded; ImportError without Matplotlib.

        >>> net = nn.Linear(1, 1, bias=False)
        >>> watch = nn.Watch(net)
        >>> _ = net(tb.tensor([[1.0]]))
        >>> net.weight.data = net.weight.data * 1.001  # in place of an optimizer's step
        >>> watch.step()
        >>> watch.plot_updates().savefig("updates.png")
        """
        return watch_plots.ratios(self.updates(), self.steps, "||update|| / ||weights||")


def update_ratio(before: Array, after: Array) -> float:
    """||after - before|| / ||before||, Euclidean norms over all elements, in float64.

    before, after: a parameter's values around a step. Infinite where all of before is 0, and nan if after is 0 as well.
    About 1e-3 is healthy (Karpathy, CS231n).
    Errors: TypeError for what is not an array of numbers, ValueError for two shapes.

    >>> nn.watch.update_ratio(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    for name, value in (("before", before), ("after", after)):
        if type(value) is not np.ndarray or value.dtype.kind not in "fiu":
            raise TypeError(f"{name} must be an array of numbers, got {value!r:.60}")
    if before.shape != after.shape:
        raise ValueError(f"before and after must have one shape, got {before.shape} and {after.shape}")
    p = before.astype(np.float64)
    with np.errstate(all="ignore"):
        return float(np.divide(np.linalg.norm(after - p), np.linalg.norm(p)))
