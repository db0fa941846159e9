"""The same work in each library: forward and backward of a net, or a training step.

PyTorch's names are ours, so one piece of code serves both; JAX gets its usual form, one jitted function.
"torch.compile" is PyTorch tuned: forward and backward compiled, the fused SGD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.timing import Contestant

LR, MOMENTUM, EPS = 0.01, 0.9, 1e-5
PACKAGES = {"torch": "PyTorch", "jax": "JAX"}


@dataclass(frozen=True)
class Library:
    """F, nn, optim: its modules. tensor: from array to tensor; labels stay integers."""

    F: Any
    nn: Any
    optim: Any
    tensor: Callable[..., Any]
    prepare: Callable[[], None] = lambda: None
    compile: Callable[[Any], Any] = lambda function: function
    fused: tuple[str, ...] = ()


def ours(threads: int | None = None) -> Library:
    """On this many threads, or on as many as are set."""
    import tinygrad_bn.nn.functional as F
    from tinygrad_bn import Tensor, nn, optim, set_num_threads

    prepare = partial(set_num_threads, threads) if threads else lambda: None
    return Library(F, nn, optim, lambda a: Tensor(a) if a.dtype == np.float32 else a, prepare)


def replayed(threads: int) -> Library:
    """Ours, with what is called again and again as a replay."""
    from tinygrad_bn import replay

    return replace(ours(threads), compile=replay)


def pytorch(threads: int, compiled: bool = False) -> Library:
    import torch

    def compile(function: Any) -> Any:
        torch._dynamo.reset()  # else the next case counts as the last one with another shape
        return torch.compile(function, dynamic=False)

    eager = partial(Library, torch.nn.functional, torch.nn, torch.optim, torch.tensor)
    prepare = partial(torch.set_num_threads, threads)
    return eager(prepare, compile, ("fused",)) if compiled else eager(prepare)


def array(value: Any) -> np.ndarray:
    """A copy of anybody's tensor."""
    return np.array(value.detach() if hasattr(value, "detach") else value)


@dataclass
class Work:
    """With labels y: a step of SGD with momentum on the net's cross entropy. Without: forward and backward from dy, by
    default x upside down.

    spec: the layers, ("Linear", 64, 100), ("ReLU",) ..., by the names and arguments that nn has in both libraries.
    Each turn begins with the same weights and no momentum. The result that must agree: the output (or the loss) and
    all gradients; of training also the third step's loss and the weights after it.
    """

    spec: list[tuple]
    x: np.ndarray
    y: np.ndarray | None = None
    dy: np.ndarray | None = None

    def __post_init__(self) -> None:
        from tinygrad_bn import manual_seed

        manual_seed(1)
        rng, nn = np.random.default_rng(1), ours().nn
        self.state = nn.Sequential(*(getattr(nn, kind)(*sizes) for kind, *sizes in self.spec)).state_dict()
        self.weights = [name for name in self.state if name.endswith(("weight", "bias"))]
        for name in self.weights:
            a = self.state[name]
            if a.ndim > 1:
                a *= np.sqrt(6)  # He's initialization
            else:
                a += rng.normal(0, 0.2, a.shape)  # norms begin with ones and zeros, which would hide mistakes
        upside_down = self.x[::-1].copy() if self.dy is None else self.dy
        self.target = upside_down if self.y is None else self.y

    def eager(self, library: Library) -> Contestant:
        net = library.nn.Sequential(*(getattr(library.nn, kind)(*sizes) for kind, *sizes in self.spec))
        x, target, training = library.tensor(self.x), library.tensor(self.target), self.y is not None
        x.requires_grad = not training
        leaves = [*([] if training else [x]), *net.parameters()]
        outcome = library.compile(lambda x, y: library.F.cross_entropy(net(x), y) if training else net(x))
        if hasattr(outcome, "function"):  # a replay: it is recorded with two batches
            for _ in range(2):
                other = library.tensor(self.x[::-1].copy())
                other.requires_grad = x.requires_grad  # or it is another program
                outcome(other, library.tensor(self.target[::-1].copy()))
                outcome(x, target)
        sgd: Any = None

        def start() -> None:
            nonlocal sgd
            library.prepare()
            net.load_state_dict({name: library.tensor(a) for name, a in self.state.items()})
            if training:
                options = dict.fromkeys(library.fused, True)
                sgd = library.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, **options)

        def forward_backward() -> Any:
            for t in leaves:
                t.grad = None
            y = outcome(x, target)
            y.backward(target)
            return y

        def step() -> Any:
            sgd.zero_grad()
            loss = outcome(x, target)
            loss.backward()
            sgd.step()
            return loss

        call = step if training else forward_backward

        def result() -> list[np.ndarray]:
            first, gradients = array(call()), [array(t.grad) for t in leaves]
            if not training:
                return [first, *gradients]
            step()
            return [first, *gradients, array(step()), *(array(t) for t in leaves)]

        return Contestant(call, result, start)

    def jax(self) -> Contestant:
        import jax
        from jax import numpy as jnp

        def loss_of(p: Any, running: Any, x: Any, y: Any) -> Any:
            logits, new = jax_net(self.spec, p, running, x)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), new

        @jax.jit
        def update(p: Any, velocity: Any, running: Any, x: Any, y: Any) -> Any:
            (loss, new), gradients = jax.value_and_grad(loss_of, has_aux=True)(p, running, x, y)
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradients)
            return loss, jax.tree.map(lambda w, v: w - LR * v, p, velocity), velocity, new

        @jax.jit
        def pull_back(p: Any, x: Any, dy: Any) -> Any:
            y, vjp = jax.vjp(lambda p, x: jax_net(self.spec, p, {}, x)[0], p, x)
            return y, *vjp(dy)

        x, target = jnp.asarray(self.x), jnp.asarray(self.target)
        p: Any = None
        velocity: Any = None
        running: Any = None

        def start() -> None:
            nonlocal p, velocity, running
            p = {name: jnp.array(self.state[name]) for name in self.weights}
            velocity = jax.tree.map(jnp.zeros_like, p)
            running = {k: jnp.array(v) for k, v in self.state.items() if k.endswith(("_mean", "_var"))}

        def forward_backward() -> Any:
            return jax.block_until_ready(pull_back(p, x, target))

        def step() -> Any:
            nonlocal p, velocity, running
            loss, p, velocity, running = jax.block_until_ready(update(p, velocity, running, x, target))
            return loss

        def result() -> list[np.ndarray]:
            if self.y is None:
                y, dp, dx = forward_backward()
                return [y, dx, *(dp[name] for name in self.weights)]
            first = step()
            gradients = [array(velocity[name]) for name in self.weights]  # in the first step they are the same
            step()
            return [first, *gradients, step(), *(p[name] for name in self.weights)]

        return Contestant(forward_backward if self.y is None else step, result, start)


def jax_net(spec: list[tuple], p: Any, running: Any, x: Any) -> tuple[Any, Any]:
    """The net's output and its new running statistics. Variances are two-pass, as everyone's here."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    plain = {
        "ReLU": jax.nn.relu,
        "Sigmoid": jax.nn.sigmoid,
        "Tanh": jnp.tanh,
        "Flatten": lambda x: x.reshape(len(x), -1),
    }
    new = {}
    for i, (kind, *sizes) in enumerate(spec):
        w: Any = p.get(f"{i}.weight")
        b: Any = p.get(f"{i}.bias")
        if kind in plain:
            x = plain[kind](x)
        elif kind == "Flatten":
            x = x.reshape(len(x), -1)
        elif kind == "Linear":
            x = x @ w.T + b
        elif kind == "Conv2d":
            x = lax.conv_general_dilated(x, w, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NCHW", "OIHW", "NCHW"))
            x += b[:, None, None]
        elif kind == "MaxPool2d":
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        else:
            shape, last = x.shape, x.ndim - 1
            x = x.reshape(len(x), sizes[0], -1) if kind == "GroupNorm" else x
            axes = {"B": (0, *range(2, last + 1)), "L": (last,), "G": (2,), "I": tuple(range(2, last + 1))}[kind[0]]
            mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            for name, value in (("mean", mean), ("var", var * (m := x.size // x.shape[1]) / (m - 1))):
                if (key := f"{i}.running_{name}") in running:
                    new[key] = 0.9 * running[key] + 0.1 * value.reshape(-1)
            x = ((x - mean) * lax.rsqrt(var + EPS)).reshape(shape)
            x = x * w.reshape(1, -1, *(1,) * (last - 1)) + b.reshape(1, -1, *(1,) * (last - 1))
    return x, new


def find_peers() -> tuple[list[str], list[str]]:
    """The packages to compare with, and a line about each that is not installed."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    why = "is left out: it is not installed; pip install -e '.[parity]' adds it"
    return [p for p in PACKAGES if p not in missing], [f"{PACKAGES[p]} {why}" for p in missing]


@cache
def all_threads() -> int:
    """As many as were set when this was first asked: later, a turn of "ours (1)" may have been the last."""
    from tinygrad_bn import get_num_threads

    return get_num_threads()


def enter(work: Work, peers: tuple[str, ...], compiled: bool) -> tuple[dict[str, Contestant], str]:
    """Ours, also on one thread; then every peer there is, and a note if torch.compile cannot compile the work."""
    contestants, note = {"ours": work.eager(ours(all_threads())), "ours (1)": work.eager(ours(1))}, ""
    contestants["replay"] = work.eager(replayed(all_threads()))
    if "torch" in peers:
        contestants |= {f"PyTorch ({n})": work.eager(pytorch(n)) for n in (1, 2)}
    if "torch" in peers and compiled:
        tuned = work.eager(pytorch(2, compiled=True))
        try:
            tuned.prepare()
            tuned.call()
            contestants["torch.compile"] = tuned
        except Exception as error:  # no C++ compiler, no support on this platform ...
            note = f"torch.compile does not work here: {str(error).strip().splitlines()[0]}"
    if "jax" in peers:
        contestants["JAX"] = work.jax()
    return contestants, note
