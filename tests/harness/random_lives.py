"""What people do to a net, its optimizer and its schedules between training steps, written once for two libraries.

A Life is a net in training. Its methods use the names that this package shares with PyTorch; where the libraries
differ, they ask their library: Ours below, PyTorch's in parity/test_torch_random_lives.py.
"""

import copy
import gc
import itertools
import os
import pickle
import tempfile
from collections import OrderedDict

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import tinygrad_bn as tb
import tinygrad_bn.nn.functional as F
from tinygrad_bn import nn, optim

SETTINGS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
NAMES = ("weight", "bias")  # of all parameters
ORDERS = (
    ("net", "sgd", "schedules", "aside"),
    ("sgd", "net", "aside", "schedules"),
    ("schedules", "aside", "sgd", "net"),
)
DTYPES = {"double": np.float64, "float": np.float32}
FREED = ("at the end", "new group", "left out")  # the old parameters are gone before the new ones are made
HOW = (*FREED, "in its place", "beside the old", "forgotten")  # what the optimizer learns of new parameters
TRAININGS = ("fresh", "fresh", "zeros", "accumulate", "twice", "same gradient")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # files there wait for no disk


class Frozen(nn.BatchNorm1d):
    """A norm in eval mode for good, as for fine-tuning."""

    def train(self, mode=True):
        return super().train(False)


class Decay:
    """A callable for LambdaLR that can be pickled."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


class Ours:
    nn, F, optim, Frozen = nn, F, optim, Frozen
    tensor, parameter = tb.Tensor, nn.Parameter

    @staticmethod
    def array(value):
        """The memory of a tensor or buffer as a NumPy array, not a copy."""
        return value if isinstance(value, np.ndarray) else value.data

    @staticmethod
    def gradient(p):
        return p.grad

    @staticmethod
    def set_gradient(p, array):
        p.grad = array

    @staticmethod
    def set_data(p, array):
        p.data = array

    @staticmethod
    def address(p):
        return p.data.__array_interface__["data"][0]

    @staticmethod
    def momentum(sgd):
        """The buffer or None of every parameter in the groups, in order."""
        state = sgd.state_dict()["state"]
        return [state.get(i, {}).get("momentum_buffer") for i in range(sum(len(g["params"]) for g in sgd.param_groups))]

    @staticmethod
    def sgd_state(sgd):
        return sgd.state_dict()

    @staticmethod
    def copied(life, copy_of):
        """What remains to be done after a deepcopy."""

    @staticmethod
    def momentum_follows(sgd):
        """What remains to be done before a step, if the net was converted."""

    @staticmethod
    def saved_and_loaded(state):
        descriptor, path = tempfile.mkstemp(".npz", dir=MEMORY)
        os.close(descriptor)
        try:
            tb.save(path, state)
            return tb.load(path)
        finally:
            os.unlink(path)


def places(items, thing):
    """Where thing itself is in items; == of tensors compares their elements."""
    return [i for i, item in enumerate(items) if item is thing]


class Life:
    """plan: a pair (class, arguments) per layer. names: of the layers, or None for their numbers."""

    def __init__(self, lib, plan, names=None):
        self.lib, self.plan, self.dtype = lib, list(plan), "double"
        layers = [self.built(entry) for entry in plan]
        layers = layers if names is None else [OrderedDict(zip(names, layers, strict=True))]
        self.net = lib.nn.Sequential(*layers)
        self.sgd = None
        self.schedules, self.specs = [], []
        self.aside = []  # parameters that were taken out of the optimizer and may come back

    def built(self, entry, seed=None):
        """A layer in the net's dtype; with a seed, its values follow from it."""
        kind, args, options = entry
        layer = getattr(self.lib if kind == "Frozen" else self.lib.nn, kind)(*args, **options)
        getattr(layer, self.dtype)()
        if seed is not None:
            self.fill(layer.parameters(), seed)
        return layer

    def fill(self, parameters, seed):
        rng = np.random.default_rng(seed)
        for p in parameters:
            self.lib.array(p)[...] = rng.uniform(-1, 1, tuple(p.shape))

    def parameter(self, shape, seed):
        p = self.lib.parameter(np.zeros(shape, DTYPES[self.dtype]))
        self.fill([p], seed)
        return p

    # what there is

    def slots(self):
        """(number of the layer, name) of every attribute that is or was a parameter."""
        return [(i, name) for i, layer in enumerate(self.net) for name in NAMES if hasattr(layer, name)]

    def numbers(self, *kinds):
        return [i for i, (kind, _, _) in enumerate(self.plan) if kind.startswith(kinds)]

    def norms(self):
        return [i for i, (kind, _, _) in enumerate(self.plan) if "Norm" in kind or kind == "Frozen"]

    def running(self):
        """The norms with running statistics, or at least the flag."""
        layers = list(self.net)
        return [i for i in self.norms() if hasattr(layers[i], "track_running_stats")]

    def grouped(self):
        return [p for group in self.sgd.param_groups for p in group["params"]]

    def all(self):
        """Every parameter once: those of the net, then others in the optimizer, then others put aside."""
        found = list(self.net.parameters())
        known = {id(p) for p in found}
        for p in [*self.grouped(), *self.aside]:
            if id(p) not in known:
                known.add(id(p))
                found.append(p)
        return found

    def facts(self):
        """(what must be equal, what must be close): all that can be told about this life from outside."""
        lib, parameters, layers = self.lib, self.all(), list(self.net)
        names = {id(p): name for name, p in self.net.named_parameters()}
        for p in parameters:
            names.setdefault(id(p), f"left over {len(names)}")
        addresses = [lib.address(p) for p in parameters]
        gradients = [lib.gradient(p) for p in parameters]
        momentum = lib.momentum(self.sgd)
        buffers = list(self.net.named_buffers())
        equal = {
            "parameters": [names[id(p)] for p in parameters],
            "attributes": [names.get(id(getattr(layers[i], name))) for i, name in self.slots()],
            "requires_grad": [p.requires_grad for p in parameters],
            "with a gradient": [g is not None for g in gradients],
            "with momentum": [v is not None for v in momentum],
            "buffers": [name for name, _ in buffers],
            "groups": [[names[id(p)] for p in group["params"]] for group in self.sgd.param_groups],
            "settings": [[group[name] for name in SETTINGS[1:]] for group in self.sgd.param_groups],
            "with initial_lr": ["initial_lr" in group for group in self.sgd.param_groups],
            "aside": [names[id(p)] for p in self.aside],
            "training": [(name, module.training) for name, module in self.net.named_modules()],
            "shared memory": [addresses.index(a) for a in addresses],
            "epochs": [schedule.last_epoch for schedule in self.schedules],
        }
        rates = [x for group in self.sgd.param_groups for x in (group["lr"], group.get("initial_lr", 0))]
        rates += [lr for schedule in self.schedules for lr in schedule.get_last_lr()]
        close = {"rates": np.array(rates)}
        close.update((name, lib.array(p)) for p, name in zip(parameters, equal["parameters"], strict=True))
        pairs = zip(equal["parameters"], gradients, strict=True)
        close.update((f"gradient of {name}", g) for name, g in pairs if g is not None)
        close.update((name, lib.array(b)) for name, b in buffers)
        close.update((f"momentum {i}", v) for i, v in enumerate(momentum) if v is not None)
        return equal, close

    # training

    def input(self, n, seed):
        _, args, _ = self.plan[0]
        n = n if self.dtype == "double" else n + 6  # with a few rows a norm's gradient is mostly rounding in float32
        shape = (n, args[0], 3, 3) if self.plan[0][0] == "Conv2d" else (n, args[0])
        return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[self.dtype])

    def forward(self, n, seed):
        return self.net(self.lib.tensor(self.input(n, seed)))

    def backward(self, n, seed):
        y = self.forward(n, seed)
        target = np.random.default_rng(seed + 1).standard_normal(tuple(y.shape)).astype(DTYPES[self.dtype])
        loss = self.lib.F.mse_loss(y, self.lib.tensor(target))
        if loss.requires_grad:
            loss.backward()
        return loss.requires_grad

    def gradients(self, n, seed, how):
        """Everything in a training step but sgd.step()."""
        if how in ("fresh", "zeros", "twice"):
            self.sgd.zero_grad(set_to_none=how != "zeros")
        if how != "same gradient":
            for i in range(1 + (how == "twice")):
                self.backward(n, seed + i)
            self.lib.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)  # nothing runs away

    def train(self, n, seed, how):
        self.gradients(n, seed, how)
        self.lib.momentum_follows(self.sgd)
        self.sgd.step()

    def evaluate(self, n, seed):
        self.net.eval()
        y = self.forward(n, seed)
        self.net.train()
        return y

    # the optimizer

    def start(self, **options):
        self.sgd = self.lib.optim.SGD(self.net.parameters(), **options)

    def take_out(self, p):
        for group in self.sgd.param_groups:
            for i in places(group["params"], p):
                del group["params"][i]

    def put_in(self, p, g):
        self.sgd.param_groups[g % len(self.sgd.param_groups)]["params"].append(p)

    def exchanged(self, olds, news, how, g=0):
        """The optimizer gets parameters that have taken the place of others. What the net still uses is not taken out,
        and what the optimizer has already is not put in again.
        """
        used = list(self.net.parameters())
        olds = [p for p in olds if p is not None and not places(used, p)]
        news = [p for p in news if p is not None and not places(self.grouped(), p)]
        if how not in ("left out", "forgotten"):
            self.aside = [p for p in self.aside if not places(news, p)]
            if how == "in its place":
                for old, new in zip(list(olds), list(news), strict=False):
                    for group in self.sgd.param_groups:
                        for i in places(group["params"], old):
                            group["params"][i] = new
                            news = [p for p in news if p is not new]
            if how == "new group" and news and len(self.sgd.param_groups) < 5:
                self.sgd.add_param_group({"params": news, "lr": 0.05})
            else:
                for p in news:
                    self.put_in(p, g)
        if how not in ("beside the old", "forgotten"):
            for p in olds:
                self.take_out(p)

    def put_aside(self, k):
        p = self.grouped()[k]
        self.take_out(p)
        self.aside.append(p)

    def put_back(self, k, g):
        self.put_in(self.aside.pop(k), g)

    def move(self, k, g):
        p = self.grouped()[k]
        self.take_out(p)
        self.put_in(p, g)

    def set(self, g, changes):
        self.sgd.param_groups[g].update(changes)

    def merge_groups(self):
        last = self.sgd.param_groups.pop()
        self.sgd.param_groups[0]["params"] = self.sgd.param_groups[0]["params"] + last["params"]

    # the net

    def exchange(self, i, entry, seed, how, g):
        olds = [getattr(self.net[i], name, None) for name in NAMES]
        make = lambda: self.built(entry, seed)
        if how in FREED:
            self.net[i] = self.lib.nn.Identity()
            make = self.freed(olds, how, make)
        self.net[i], self.plan[i] = make(), entry
        self.exchanged(olds, [getattr(self.net[i], name, None) for name in NAMES], how, g)

    def freed(self, olds, how, make):
        """Empties the list olds. What is returned makes several of the same, to give one with the id of an old one."""
        self.exchanged(olds, [], how)
        ids = {id(p) for p in olds if p is not None}
        olds.clear()

        def make_one():
            many = [make() for _ in range(4)]
            parameters = lambda one: getattr(one, "parameters", lambda: [one])()
            return next((one for one in many if ids & {id(p) for p in parameters(one)}), many[0])

        return make_one

    def append(self, entry, seed, how):
        self.net.append(self.built(entry, seed))
        self.plan.append(entry)
        self.exchanged([], [getattr(self.net[-1], name) for name in NAMES], how)

    def shorten(self, how):
        olds = [getattr(self.net[-1], name) for name in NAMES]
        del self.net[-1], self.plan[-1]
        self.exchanged(olds, [], how)

    def tie(self, i, j, how):
        old = self.net[j].weight
        self.net[j].weight = self.net[i].weight
        self.exchanged([old], [self.net[i].weight], how)

    def tie_memory(self, i, j, how):
        """Layer j has the transposed weight of layer i, as a parameter of its own."""
        old = self.net[j].weight
        self.net[j].weight = self.lib.parameter(self.net[i].weight.data.T)
        self.exchanged([old], [self.net[j].weight], how)

    def new_parameter(self, slot, shape, seed, how):
        """In the place of one that is tied, or None, or just so; shape None removes it."""
        i, name = slot
        olds = [getattr(self.net[i], name)]
        make = lambda: None if shape is None else self.parameter(shape, seed)
        if how in FREED:
            setattr(self.net[i], name, None)
            make = self.freed(olds, how, make)
        setattr(self.net[i], name, make())
        self.exchanged(olds, [getattr(self.net[i], name)], how)

    def convert(self, dtype):
        self.dtype = dtype
        getattr(self.net, dtype)()

    # schedules

    def schedule(self, spec):
        self.schedules.append(self.scheduled(*spec))
        self.specs.append(spec)

    def scheduled(self, kind, a, b):
        make = self.lib.optim.lr_scheduler
        if kind == "StepLR":
            return make.StepLR(self.sgd, 1 + a % 3, gamma=0.5)
        if kind == "MultiStepLR":
            return make.MultiStepLR(self.sgd, [1, 2 + a, 2 + a], gamma=0.5)
        if kind == "CosineAnnealingLR":
            return make.CosineAnnealingLR(self.sgd, 1 + a, eta_min=0.01 * b)
        if kind == "LinearLR":
            return make.LinearLR(self.sgd, start_factor=0.25, total_iters=1 + a)
        if kind == "LambdaLR":
            rates = [Decay(0.9 - 0.1 * i) for i in range(len(self.sgd.param_groups))]
            return make.LambdaLR(self.sgd, rates if b else rates[0])
        first, second = [("StepLR", "LinearLR"), ("LinearLR", "CosineAnnealingLR"), ("LambdaLR", "MultiStepLR")][a % 3]
        parts = [self.scheduled(first, a, b), self.scheduled(second, a, b)]
        return make.SequentialLR(self.sgd, parts, milestones=[1 + a])

    # copies, files

    def copied(self, how, order):
        """The same life after copy.deepcopy or pickle of everything at once."""
        whole = {name: getattr(self, name) for name in order}
        if how == "list":
            whole = list(whole.values())
        copied = pickle.loads(pickle.dumps(whole)) if how == "pickle" else copy.deepcopy(whole)
        new = copy.copy(self)
        new.plan, new.specs = list(self.plan), list(self.specs)
        vars(new).update(copied if isinstance(copied, dict) else zip(order, copied, strict=True))
        self.lib.copied(self, new)
        return new

    def state(self):
        schedules = [schedule.state_dict() for schedule in self.schedules]
        return {"net": self.net.state_dict(), "sgd": self.lib.sgd_state(self.sgd), "schedules": schedules}

    def load(self, state, order):
        for name in order:
            if name == "schedules":
                for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
                    schedule.load_state_dict(saved)
            elif name != "aside":
                getattr(self, name).load_state_dict(state[name])

    def built_anew(self):
        """Net, optimizer and schedules of the same structure, with values of their own."""
        names = [name for name, _ in self.net.named_children()]
        new = Life(self.lib, self.plan, None if names[0] == "0" else names)
        new.convert(self.dtype)
        known = {}

        def counterpart(p, there=None):
            if id(p) not in known:
                known[id(p)] = self.lib.parameter(np.zeros_like(self.lib.array(p))) if there is None else there
                known[id(p)].requires_grad = p.requires_grad
            return known[id(p)]

        for i, name in self.slots():
            p, there = getattr(self.net[i], name), getattr(new.net[i], name)
            setattr(new.net[i], name, None if p is None else counterpart(p, there))
        for module, there in zip(self.net.modules(), new.net.modules(), strict=True):
            there.training = module.training
            for name in ("momentum", "track_running_stats"):
                if hasattr(module, name):
                    setattr(there, name, getattr(module, name))
        new.sgd = self.lib.optim.SGD(
            [{"params": [counterpart(p) for p in group["params"]]} for group in self.sgd.param_groups], lr=0.5
        )
        new.aside = [counterpart(p) for p in self.aside]
        for spec in self.specs:
            new.schedule(spec)
        return new

    def saved_and_loaded(self, order):
        new = self.built_anew()
        new.load(self.lib.saved_and_loaded(self.state()), order)
        return new


# nets


def norm_plans(c):
    """Norms of (N, c)."""
    return [
        ("BatchNorm1d", (c,), {}),
        ("BatchNorm1d", (c,), {"momentum": None}),
        ("BatchNorm1d", (c,), {"affine": False}),
        ("BatchNorm1d", (c,), {"track_running_stats": False}),
        ("BatchNorm1d", (c,), {"momentum": 0.5, "bias": False}),
        ("Frozen", (c,), {}),
        ("LayerNorm", (c,), {}),
        ("GroupNorm", (1, c), {}),
    ]


def mlp_plan(sizes, norm, dropout):
    """Two hidden layers of sizes[1] and sizes[2], with norms; no kinks, where rounding would decide."""
    a, b, c, d = sizes
    first, second = norm_plans(b)[norm % 8], norm_plans(c)[norm // 8 % 8]
    plan = [("Linear", (a, b), {"bias": norm % 3 > 0}), first, ("Tanh", (), {}), ("Linear", (b, c), {}), second]
    return [*plan, ("Dropout", (0.0,), {}) if dropout else ("Sigmoid", (), {}), ("Linear", (c, d), {})]


def cnn_plan(c, norm):
    norms = [
        ("BatchNorm2d", (c,), {}),
        ("InstanceNorm2d", (c,), {"track_running_stats": True, "affine": True}),
        ("GroupNorm", (c // 2, c), {}),
    ]
    head = [("Tanh", (), {}), ("Flatten", (), {}), ("Linear", (4 * c, 2), {})]
    return [("Conv2d", (1, c, 2), {}), norms[norm % 3], *head]


def forget_in_copies(monkeypatch):
    """A fault to be found: the copied optimizer of this package knows no momentum."""
    copied = Life.copied

    def forgetful(life, how, order):
        new = copied(life, how, order)
        if life.lib is Ours:
            new.sgd.load_state_dict({**new.sgd.state_dict(), "state": {}})  # in place: schedules hold this optimizer
        return new

    monkeypatch.setattr(Life, "copied", forgetful)


LOOKS = itertools.count()


def look_away():
    """A later collection looks at what comes from now on alone; all there is would take it ten times as long."""
    if next(LOOKS) % 25 == 0:
        gc.unfreeze()  # some of it is garbage by now
    gc.collect()
    gc.freeze()


def run(machine, examples, steps, shrink=True):
    """examples lives of the machine, of up to steps rules each; shrink: make one that fails as short as can be."""
    options = settings(
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    look_away()
    try:
        for done in range(0, examples, 500):  # hypothesis keeps 0.2 MB of every life until it has finished
            run_state_machine_as_test(machine, settings=settings(options, max_examples=min(500, examples - done)))
    finally:
        gc.unfreeze()
