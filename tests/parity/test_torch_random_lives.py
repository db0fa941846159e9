"""Random lives: whatever is done between training steps, net, optimizer and schedules go the way of PyTorch's.

A life is a random sequence of rules: training, copies, files, exchanged and tied layers, edited groups, frozen and
removed parameters, schedules, conversions. Each rule does the same with both libraries, and after each all that can be
told from outside must be equal: values, gradients, buffers, momentum, rates, flags, order, names, shared memory.

By design some things differ. Here PyTorch's side is brought into line:
- A copy here keeps gradients and shared memory; PyTorch's has neither.
- Momentum here follows the dtype of its parameter in the next step; PyTorch's stays what it was.
- The state of a parameter that is in no group is left out of state_dict(); PyTorch's state_dict() raises KeyError.
- A group that is added later gets its "initial_lr" from the next step of any schedule, and all schedules go on;
  PyTorch's group gets it from the next schedule that is built, and some schedules raise ValueError.
- A Sequential with names keeps them when a layer is deleted; PyTorch's has numbers from then on.
"""

import copy
import gc
import os
import warnings

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from random_lives import (
    HOW,
    ORDERS,
    TRAININGS,
    Life,
    Ours,
    cnn_plan,
    forget_in_copies,
    look_away,
    mlp_plan,
    norm_plans,
    places,
    run,
)

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")

torch.set_num_threads(1)
torch.optim.SGD([torch.zeros(1)])  # imports much, before run() looks away from all that there is
RATES = (0.0, 0.01, 0.03, 0.1)
SCHEDULES = ("StepLR", "MultiStepLR", "CosineAnnealingLR", "LinearLR", "LambdaLR", "SequentialLR")


class Frozen(torch.nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


class Theirs:
    nn, F, optim, Frozen = torch.nn, torch.nn.functional, torch.optim, Frozen
    tensor = staticmethod(torch.from_numpy)

    @staticmethod
    def parameter(data):
        return torch.nn.Parameter(torch.from_numpy(data) if isinstance(data, np.ndarray) else data)

    @staticmethod
    def array(value):
        return value.detach().numpy()

    @staticmethod
    def gradient(p):
        return None if p.grad is None else p.grad.numpy()

    @staticmethod
    def set_gradient(p, array):
        p.grad = None if array is None else torch.from_numpy(array)

    @staticmethod
    def set_data(p, array):
        p.data = torch.from_numpy(array)

    @staticmethod
    def address(p):
        return p.data_ptr()

    @staticmethod
    def momentum(sgd):
        buffers = [
            sgd.state[p].get("momentum_buffer") if p in sgd.state else None
            for g in sgd.param_groups
            for p in g["params"]
        ]
        return [None if v is None else v.numpy() for v in buffers]

    @staticmethod
    def sgd_state(sgd):
        used = {p for group in sgd.param_groups for p in group["params"]}
        unused = {p: sgd.state.pop(p) for p in list(sgd.state) if p not in used}
        state = sgd.state_dict()
        sgd.state.update(unused)
        return state

    @staticmethod
    def copied(life, copied):
        first = {}
        for old, new in zip(life.all(), copied.all(), strict=True):
            whole = first.setdefault(old.data_ptr(), new)
            if whole is not new:
                new.data = torch.as_strided(whole.data, old.shape, old.stride())
            new.grad = None if old.grad is None else old.grad.clone()

    @staticmethod
    def momentum_follows(sgd):
        for p in (p for group in sgd.param_groups for p in group["params"]):
            if p.grad is not None and sgd.state.get(p, {}).get("momentum_buffer") is not None:
                sgd.state[p]["momentum_buffer"] = sgd.state[p]["momentum_buffer"].to(p.dtype)

    @staticmethod
    def saved_and_loaded(state):
        return copy.deepcopy(state)


SMALL = st.integers(0, 11)  # taken modulo the number of things to choose from
SEEDS = st.integers(0, 9999)
BATCH = st.integers(2, 8)
WAYS = st.sampled_from(HOW)


class Lives(RuleBasedStateMachine):
    @initialize(
        conv=st.integers(0, 3),
        sizes=st.lists(st.integers(2, 4), min_size=4, max_size=4),
        norm=st.integers(0, 63),
        named=st.booleans(),
        momentum=st.sampled_from([0, 0.9, 0.9]),
        seed=SEEDS,
    )
    def start(self, conv, sizes, norm, named, momentum, seed):
        plan = cnn_plan(2, norm) if conv == 0 else mlp_plan(sizes, norm, seed % 2)
        names = [f"layer{i}" for i in range(len(plan))] if named else None
        self.ours, self.theirs = Life(Ours, plan, names), Life(Theirs, plan, names)
        self.saved = None
        self.both("convert", "double")
        for life in (self.ours, self.theirs):
            life.fill(life.net.parameters(), seed)
            life.start(lr=0.1, momentum=momentum)

    def both(self, what, *args):
        """The method of both lives, or the function."""
        do = what if callable(what) else lambda life, *args: getattr(life, what)(*args)
        theirs = do(self.theirs, *args)
        return do(self.ours, *args), theirs

    def close(self, name, ours, theirs):
        assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, PyTorch's {theirs.shape}"
        if not (ours == theirs).all():
            error = np.abs(ours - theirs).max()
            bound = (1e-9 if ours.dtype == np.float64 else 1e-3) * (1 + np.abs(theirs).max())
            assert error <= bound, f"{name}: {ours}, PyTorch's {theirs}, which differ by {error}"

    @invariant()
    def the_same(self):
        (equal, arrays), (expected, references) = self.both("facts")
        for what, value in equal.items():
            assert value == expected[what], f"{what}: {value}, PyTorch's {expected[what]}"
        for (name, array), reference in zip(arrays.items(), references.values(), strict=True):
            self.close(name, array, reference)
            if name.startswith("momentum") and array.dtype != reference.dtype:
                continue
            assert array.dtype == reference.dtype, f"{name}: {array.dtype}, PyTorch's {reference.dtype}"
            if name != "rates":
                reference[...] = array  # so that rounding errors do not pile up

    def teardown(self):
        self.ours = self.theirs = self.saved = None
        look_away()

    # training

    @rule(steps=st.integers(1, 3), n=BATCH, seed=SEEDS, how=st.sampled_from(TRAININGS))
    def train(self, steps, n, seed, how):
        for i in range(steps if self.ours.dtype == "double" else 1):
            self.both("train", n, seed + i, how)

    @rule(n=BATCH, seed=SEEDS)
    def forward(self, n, seed):
        ours, theirs = self.both("forward", n, seed)
        self.close("output", ours.data, theirs.detach().numpy())

    @rule(n=BATCH, seed=SEEDS)
    def evaluate(self, n, seed):
        ours, theirs = self.both("evaluate", n, seed)
        self.close("output", ours.data, theirs.detach().numpy())

    @rule(n=BATCH, seed=SEEDS)
    def backward(self, n, seed):
        ours, theirs = self.both("backward", n, seed)
        assert ours == theirs
        self.both(lambda life: life.lib.nn.utils.clip_grad_norm_(life.net.parameters(), 1.0))

    @rule(set_to_none=st.booleans(), of_net=st.booleans())
    def zero_grad(self, set_to_none, of_net):
        if of_net:
            self.both(lambda life: life.net.zero_grad())
        else:
            self.both(lambda life: life.sgd.zero_grad(set_to_none=set_to_none))

    # copies and files

    @rule(how=st.sampled_from(["dict", "list", "pickle"]), order=st.sampled_from(ORDERS), drop=st.booleans())
    def copy(self, how, order, drop):
        self.ours, self.theirs = self.both("copied", how, order)
        if drop:
            gc.collect()

    @rule(part=st.sampled_from(["net", "sgd", "schedules"]))
    def copy_in_vain(self, part):
        """A copy of a part alone leaves everything as it is, also when it is gone."""
        self.both(lambda life: copy.deepcopy(getattr(life, part)))

    @rule(order=st.permutations(["net", "sgd", "schedules"]))
    def save_and_load(self, order):
        self.ours, self.theirs = self.both("saved_and_loaded", order)
        gc.collect()

    def structure(self):
        """What a state must fit."""
        shapes = [(name, array.shape) for name, array in self.ours.net.state_dict().items()]
        groups = [[p.shape for p in group["params"]] for group in self.ours.sgd.param_groups]
        return shapes, groups, list(self.ours.specs), self.ours.dtype

    @rule()
    def remember(self):
        self.saved = self.structure(), [copy.deepcopy(state) for state in self.both("state")]

    @precondition(lambda self: self.saved is not None)
    @rule(order=st.permutations(["net", "sgd", "schedules"]))
    def go_back(self, order):
        structure, (ours, theirs) = self.saved
        if structure == self.structure():
            self.theirs.load(copy.deepcopy(theirs), order)
            self.ours.load(ours, order)

    @rule(n=BATCH, seed=SEEDS, how=st.sampled_from(TRAININGS), order=st.permutations(["net", "sgd", "schedules"]))
    def try_a_step(self, n, seed, how, order):
        self.remember()
        self.both("train", n, seed, how)
        self.go_back(order)

    @rule()
    def collect(self):
        gc.collect()

    # layers

    def linears(self, i):
        """The number of a linear layer, and of the next or None."""
        found = self.ours.numbers("Linear")
        k = i % len(found)
        return found[k], found[k + 1] if k + 1 < len(found) else None

    @rule(i=SMALL, width=st.integers(2, 5), bias=st.booleans(), seed=SEEDS, how=WAYS, g=SMALL)
    def exchange_linear(self, i, width, bias, seed, how, g):
        """With another width the layers that follow are exchanged as well."""
        i, j = self.linears(i)
        a, old = self.ours.plan[i][1]
        self.both("exchange", i, ("Linear", (a, width), {"bias": bias}), seed, how, g)
        if j is None or width == old:
            return
        for k in range(i + 1, j):
            kind, _, options = self.ours.plan[k]
            if k in self.ours.norms():
                args = (1, width) if kind == "GroupNorm" else (width,)
                self.both("exchange", k, (kind, args, options), seed + k, how, g)
        self.both("exchange", j, ("Linear", (width, self.ours.plan[j][1][1]), {}), seed + j, how, g)

    @precondition(lambda self: self.ours.plan[0][0] == "Linear")
    @rule(i=SMALL, which=st.integers(0, 7), seed=SEEDS, how=WAYS, g=SMALL)
    def exchange_norm(self, i, which, seed, how, g):
        norms = self.ours.norms()
        i = norms[i % len(norms)]
        width = self.ours.plan[i][1][-1]
        self.both("exchange", i, norm_plans(width)[which], seed, how, g)

    @rule(width=st.integers(1, 4), seed=SEEDS, how=WAYS)
    def append(self, width, seed, how):
        if len(self.ours.plan) < 9:
            self.both("append", ("Linear", (self.ours.plan[-1][1][1], width), {}), seed, how)

    @rule(how=WAYS)
    def shorten(self, how):
        named = hasattr(self.ours.net, "layer0")
        if not named and [kind for kind, _, _ in self.ours.plan[-2:]] == ["Linear", "Linear"]:
            self.both("shorten", how)

    def pairs(self, turned):
        """Two different linear layers whose weights have the same shape, or that of each other's transpose."""
        numbers = self.ours.numbers("Linear")
        shapes = {i: self.ours.plan[i][1] for i in numbers}
        step = -1 if turned else 1
        return [(i, j) for i in numbers for j in numbers if i != j and shapes[i] == shapes[j][::step]]

    @precondition(lambda self: self.pairs(False))
    @rule(k=SMALL, how=WAYS)
    def tie(self, k, how):
        pairs = self.pairs(False)
        self.both("tie", *pairs[k % len(pairs)], how)

    @precondition(lambda self: self.pairs(True))
    @rule(k=SMALL, how=WAYS)
    def tie_memory(self, k, how):
        pairs = self.pairs(True)
        self.both("tie_memory", *pairs[k % len(pairs)], how)

    @rule(k=SMALL, seed=SEEDS, how=WAYS)
    def new_parameter(self, k, seed, how):
        """A tied one is untied by this, one that is None comes back."""
        slots = self.ours.slots()
        i, name = slots[k % len(slots)]
        if not (name == "bias" and self.group_norm(i) and self.ours.net[i].weight is None):
            self.both("new_parameter", (i, name), self.shape(i, name), seed, how)

    def group_norm(self, i):
        """PyTorch's with a bias but without a weight raises an error in backward."""
        return self.ours.plan[i][0] == "GroupNorm"

    def shape(self, i, name):
        kind, args, _ = self.ours.plan[i]
        if kind == "Conv2d":
            return (args[1], args[0], 2, 2) if name == "weight" else (args[1],)
        return args[::-1] if (kind, name) == ("Linear", "weight") else (args[-1],)

    @rule(k=SMALL, how=WAYS)
    def set_none(self, k, how):
        slots = [(i, name) for i, name in self.ours.slots() if name == "bias" or i in self.ours.norms()]
        i, name = slots[k % len(slots)]
        if not (name == "weight" and self.group_norm(i) and self.ours.net[i].bias is not None):
            self.both("new_parameter", (i, name), None, 0, how)

    @rule(k=SMALL)
    def mistake(self, k):
        """An array in the place of a parameter: TypeError, and nothing has changed."""
        i, name = self.ours.slots()[k % len(self.ours.slots())]
        if getattr(self.ours.net[i], name) is not None:
            for life in (self.theirs, self.ours):
                with pytest.raises(TypeError):
                    setattr(life.net[i], name, np.zeros(3))

    # parameters

    def one(self, do, k):
        """do(life, parameter) for the same parameter of both."""
        self.both(lambda life: do(life, life.all()[k % len(life.all())]))

    @rule(k=SMALL)
    def drop_gradient(self, k):
        self.one(lambda life, p: life.lib.set_gradient(p, None), k)

    @rule(k=SMALL, seed=SEEDS)
    def set_gradient(self, k, seed):
        def do(life, p):
            values = np.random.default_rng(seed).uniform(-0.1, 0.1, tuple(p.shape))
            life.lib.set_gradient(p, values.astype(life.lib.array(p).dtype))

        self.one(do, k)

    @rule(k=SMALL, seed=SEEDS, whole=st.booleans())
    def overwrite(self, k, seed, whole):
        """In place, or by another array."""

        def do(life, p):
            values = np.random.default_rng(seed).uniform(-1, 1, tuple(p.shape)).astype(life.lib.array(p).dtype)
            if whole:
                life.lib.set_data(p, values)
            else:
                life.lib.array(p)[...] = values

        self.one(do, k)

    @rule(k=SMALL)
    def change_layout(self, k):
        self.one(lambda life, p: life.lib.set_data(p, np.array(life.lib.array(p), order="F")), k)

    @rule(i=SMALL, flag=st.booleans(), alone=st.booleans())
    def freeze(self, i, flag, alone):
        if alone:
            self.one(lambda life, p: p.requires_grad_(flag), i)
        else:
            self.both(lambda life: life.net[i % len(life.net)].requires_grad_(flag))

    @rule(dtype=st.sampled_from(["float", "double"]))
    def convert(self, dtype):
        self.both("convert", dtype)

    # optimizer

    @rule(
        g=SMALL,
        change=st.sampled_from(
            [
                *({"lr": lr} for lr in RATES),
                {"momentum": 0, "nesterov": False},
                {"momentum": 0.9},
                {"momentum": 0.9, "dampening": 0, "nesterov": True},
                {"nesterov": False},
                {"dampening": 0.3, "nesterov": False},
                {"dampening": 0},
                {"weight_decay": 0},
                {"weight_decay": 0.1},
                {"maximize": True},
                {"maximize": False},
            ]
        ),
    )
    def edit_group(self, g, change):
        self.both("set", g % len(self.ours.sgd.param_groups), change)

    @precondition(lambda self: self.ours.grouped())
    @rule(k=SMALL, g=SMALL)
    def move(self, k, g):
        self.both("move", k % len(self.ours.grouped()), g)

    @precondition(lambda self: self.ours.grouped())
    @rule(k=SMALL)
    def put_aside(self, k):
        self.both("put_aside", k % len(self.ours.grouped()))

    @precondition(lambda self: self.ours.aside)
    @rule(k=SMALL, g=SMALL)
    def put_back(self, k, g):
        self.both("put_back", k % len(self.ours.aside), g)

    @rule(options=st.sampled_from([{}, {"lr": 0.03}, {"momentum": 0.5}, {"weight_decay": 0.01, "maximize": True}]))
    def add_group(self, options):
        """Of all parameters of the net that are in no group."""

        def do(life):
            news = [p for p in life.net.parameters() if not places(life.grouped(), p)]
            if news and len(life.sgd.param_groups) < 5:
                life.sgd.add_param_group({"params": news, **options})
                life.aside = [p for p in life.aside if not places(news, p)]

        self.both(do)

    @precondition(lambda self: not self.ours.schedules and len(self.ours.sgd.param_groups) > 1)
    @rule()
    def merge_groups(self):
        self.both("merge_groups")

    # modes and norms

    @rule(i=SMALL, training=st.booleans(), whole=st.booleans())
    def mode(self, i, training, whole):
        def do(life):
            module = life.net if whole else life.net[i % len(life.net)]
            module.train() if training else module.eval()

        self.both(do)

    @precondition(lambda self: self.ours.running())
    @rule(i=SMALL, change=st.sampled_from(["tracked", "untracked", "reset", None, 0.1, 0.7]))
    def change_norm(self, i, change):
        i = self.ours.running()[i % len(self.ours.running())]
        kind, norm = self.ours.plan[i][0], self.ours.net[i]
        if "Instance" in kind and change in (None, "tracked", "untracked"):
            return  # None: PyTorch's never moves then
        if change == "reset" and norm.track_running_stats and norm.running_mean is None:
            return  # PyTorch raises AttributeError

        def do(life):
            if change == "reset":
                life.net[i].reset_running_stats()
            elif isinstance(change, str):
                life.net[i].track_running_stats = change == "tracked"
            else:
                life.net[i].momentum = change

        self.both(do)

    # schedules

    @precondition(lambda self: len(self.ours.schedules) < 3)
    @rule(kind=st.sampled_from(SCHEDULES), a=st.integers(0, 4), b=st.integers(0, 1))
    def schedule(self, kind, a, b):
        self.both("schedule", (kind, a, b))

    @precondition(lambda self: self.ours.schedules)
    @rule(k=SMALL, times=st.integers(1, 4))
    def step_schedule(self, k, times):
        k %= len(self.ours.schedules)
        for _ in range(times):
            goes_on = self.stepped(k)
            for ours, theirs in zip(self.ours.sgd.param_groups, self.theirs.sgd.param_groups, strict=True):
                if "initial_lr" in ours:
                    theirs.setdefault("initial_lr", ours["initial_lr"])
                if not 0 <= theirs["lr"] <= 0.3 or not goes_on:  # chained values run away after some changes by hand
                    ours["lr"] = theirs["lr"] = 0.05
            if not goes_on:
                self.both(lambda life: (life.schedules.pop(k), life.specs.pop(k)))
                return

    def stepped(self, k):
        """Whether PyTorch can take the step: some schedules cannot after groups were added. Then ours can, or raises
        and has changed nothing.
        """
        try:
            self.theirs.schedules[k].step()
        except ValueError:
            groups, state = [dict(g) for g in self.ours.sgd.param_groups], self.ours.schedules[k].state_dict()
            try:
                self.ours.schedules[k].step()
            except ValueError:
                assert groups == self.ours.sgd.param_groups
                assert state == self.ours.schedules[k].state_dict()
            return False
        self.ours.schedules[k].step()
        return True

    @precondition(lambda self: self.ours.schedules)
    @rule(k=SMALL)
    def drop_schedule(self, k):
        self.both(lambda life: (life.schedules.pop(k % len(life.schedules)), life.specs.pop(k % len(life.specs))))


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's on the order of steps and schedules
        yield


def test_random_lives_go_as_in_pytorch(quiet):
    run(Lives, 200, 50)


def test_momentum_that_is_lost_in_a_copy_is_noticed(quiet, monkeypatch):
    forget_in_copies(monkeypatch)
    with pytest.raises(AssertionError, match="PyTorch's"):
        run(Lives, 200, 50, shrink=False)


@pytest.mark.long
def test_many_random_lives_go_as_in_pytorch(quiet):
    run(Lives, int(os.environ.get("RANDOM_LIVES", "20_000")), 50)
