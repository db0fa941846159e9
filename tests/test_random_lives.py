"""Random lives beside a reference of a few lines: whose momentum is whose, whatever is done between training steps.

The reference calls every parameter by a name of its own and keeps values, momentum and groups under these names in
plain dicts and lists, where none can be mistaken for another. Gradients are taken from the package. The first layer is
a batch norm, whose running statistics NumPy computes from the inputs. parity/test_torch_random_lives.py does more.
"""

import gc
import itertools

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from random_lives import ORDERS, SETTINGS, TRAININGS, Life, Ours, forget_in_copies, look_away, norm_plans, run

SMALL = st.integers(0, 11)  # taken modulo the number of things to choose from
SEEDS = st.integers(0, 9999)
BATCH = st.integers(2, 8)


class Reference:
    """SGD and its groups, by name."""

    def __init__(self, names, settings):
        self.values, self.momentum = {}, {}
        self.groups = [{"names": names, **settings}]

    def grouped(self):
        return [name for group in self.groups for name in group["names"]]

    def take_out(self, name):
        for group in self.groups:
            group["names"] = [other for other in group["names"] if other != name]

    def step(self, gradients):
        for group in self.groups:
            for name in group["names"]:
                if gradients[name] is None:
                    continue
                d = -gradients[name] if group["maximize"] else gradients[name]
                d = d + group["weight_decay"] * self.values[name]
                if group["momentum"]:
                    v = self.momentum.get(name)
                    v = d if v is None else group["momentum"] * v + (1 - group["dampening"]) * d
                    self.momentum[name] = v
                    d = d + group["momentum"] * v if group["nesterov"] else v
                self.values[name] = self.values[name] - group["lr"] * d


class Statistics:
    """Of the first norm."""

    def __init__(self, width):
        self.training, self.tracked, self.momentum = True, True, 0.1
        self.mean, self.var, self.seen = np.zeros(width), np.ones(width), 0

    def see(self, x):
        if self.training and self.tracked:
            self.seen += 1
            share = 1 / self.seen if self.momentum is None else self.momentum
            self.mean = (1 - share) * self.mean + share * x.mean(0)
            self.var = (1 - share) * self.var + share * x.var(0, ddof=1)


def close(a, b):
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-9)


class Lives(RuleBasedStateMachine):
    @initialize(
        sizes=st.lists(st.integers(2, 4), min_size=4, max_size=4),
        norm=st.integers(0, 7),
        momentum=st.sampled_from([0, 0.9, 0.9]),
        seed=SEEDS,
    )
    def start(self, sizes, norm, momentum, seed):
        a, b, c, d = sizes
        tail = [("Linear", (b, c), {}), ("Sigmoid", (), {}), ("Linear", (c, d), {})]
        plan = [("BatchNorm1d", (a,), {}), ("Linear", (a, b), {}), norm_plans(b)[norm], ("Tanh", (), {}), *tail]
        self.life = Life(Ours, plan)
        self.life.convert("double")
        self.life.fill(self.life.net.parameters(), seed)
        self.life.start(lr=0.1, momentum=momentum)
        self.statistics = Statistics(a)
        self.fresh = map("p{}".format, itertools.count())
        self.saved = None
        self.slots, self.aside = {}, []  # {(number of the layer, name of the attribute): name of the parameter or None}
        settings = {
            "lr": 0.1,
            "momentum": momentum,
            "dampening": 0,
            "weight_decay": 0,
            "nesterov": False,
            "maximize": False,
        }
        self.reference = Reference([], settings)
        for i in range(len(plan)):
            self.learn(i)
        self.reference.groups[0]["names"] = self.in_net()

    def learn(self, i):
        """Names for the parameters of a new layer i."""
        for slot in self.life.slots():
            if slot[0] == i:
                self.learn_slot(slot)

    def learn_slot(self, slot):
        p = getattr(self.life.net[slot[0]], slot[1])
        self.slots[slot] = None if p is None else next(self.fresh)
        if p is not None:
            self.reference.values[self.slots[slot]] = p.data.copy()

    def in_net(self):
        """Every name once, in the order of named_parameters()."""
        return list(dict.fromkeys(name for _, name in sorted(self.slots.items(), key=self.order) if name))

    @staticmethod
    def order(item):
        (i, attribute), _ = item
        return i, attribute != "weight"

    def parameters(self):
        """{name: parameter}; that no name has two, and no two names have one, is checked on the way."""
        pairs = [(name, getattr(self.life.net[i], key)) for (i, key), name in self.slots.items() if name]
        pairs += zip(self.reference.grouped(), self.life.grouped(), strict=True)
        pairs += zip(self.aside, self.life.aside, strict=True)
        found = dict(pairs)
        assert all(found[name] is p for name, p in pairs)
        assert len({id(p) for p in found.values()}) == len(found)
        return found

    @invariant()
    def as_the_reference_says(self):
        reference, sgd = self.reference, self.life.sgd
        assert [len(g["params"]) for g in sgd.param_groups] == [len(g["names"]) for g in reference.groups]
        found = self.parameters()
        assert [id(p) for p in self.life.net.parameters()] == [id(found[name]) for name in self.in_net()]
        for (i, key), name in self.slots.items():
            assert name or getattr(self.life.net[i], key) is None
        for name, p in found.items():
            assert close(p.data, reference.values[name]), name
        state = sgd.state_dict()["state"]
        for k, name in enumerate(reference.grouped()):
            assert (k in state) == (name in reference.momentum), f"momentum of {name}: {state.get(k)}"
            assert k not in state or close(state[k]["momentum_buffer"], reference.momentum[name]), name
        for ours, theirs in zip(sgd.param_groups, reference.groups, strict=True):
            assert all(ours[key] == theirs[key] for key in SETTINGS)
        norm, statistics = self.life.net[0], self.statistics
        assert norm.training == statistics.training
        assert norm.num_batches_tracked == statistics.seen
        assert close(norm.running_mean, statistics.mean) and close(norm.running_var, statistics.var)

    def teardown(self):
        self.life = None
        look_away()

    # training

    @rule(steps=st.integers(1, 3), n=BATCH, seed=SEEDS, how=st.sampled_from(TRAININGS))
    def train(self, steps, n, seed, how):
        for s in range(seed, seed + steps):
            self.life.gradients(n, s, how)
            for i in range({"same gradient": 0, "twice": 2}.get(how, 1)):
                self.statistics.see(self.life.input(n, s + i))
            gradients = {name: None if p.grad is None else p.grad.copy() for name, p in self.parameters().items()}
            self.life.sgd.step()
            self.reference.step(gradients)

    @rule(n=BATCH, seed=SEEDS)
    def forward(self, n, seed):
        self.life.forward(n, seed)
        self.statistics.see(self.life.input(n, seed))

    @rule(training=st.booleans(), whole=st.booleans())
    def mode(self, training, whole):
        (self.life.net if whole else self.life.net[0]).train(training)
        self.statistics.training = training

    @rule(change=st.sampled_from(["tracked", "untracked", "reset", None, 0.1, 0.7]))
    def change_norm(self, change):
        norm, statistics = self.life.net[0], self.statistics
        if change == "reset":
            norm.reset_running_stats()
            if statistics.tracked:
                statistics.mean, statistics.var, statistics.seen = 0 * statistics.mean, 0 * statistics.var + 1, 0
        elif isinstance(change, str):
            norm.track_running_stats = statistics.tracked = change == "tracked"
        else:
            norm.momentum = statistics.momentum = change

    @rule(i=SMALL, flag=st.booleans())
    def freeze(self, i, flag):
        self.life.net[i % len(self.life.net)].requires_grad_(flag)

    # copies and files

    @rule(how=st.sampled_from(["dict", "list", "pickle"]), order=st.sampled_from(ORDERS), collect=st.booleans())
    def copy(self, how, order, collect):
        self.life = self.life.copied(how, order)
        if collect:
            gc.collect()

    @rule(order=st.permutations(["net", "sgd"]))
    def save_and_load(self, order):
        """What is in no group loses its momentum, and its value if it is not in the net."""
        self.life = self.life.saved_and_loaded(order)
        grouped, parameters = self.reference.grouped(), self.parameters()
        self.reference.momentum = {k: v for k, v in self.reference.momentum.items() if k in grouped}
        for name in set(parameters) - set(self.in_net()):
            self.reference.values[name] = parameters[name].data.copy()

    def structure(self):
        """What a state must fit."""
        ties = [name for name, _ in self.life.net.named_parameters()]
        shapes = [(name, array.shape) for name, array in self.life.net.state_dict().items()]
        return ties, shapes, [[p.shape for p in group["params"]] for group in self.life.sgd.param_groups]

    @rule()
    def remember(self):
        values = {slot: self.reference.values[name] for slot, name in self.slots.items() if name}
        momentum = [self.reference.momentum.get(name) for name in self.reference.grouped()]
        rest = [dict(group) for group in self.reference.groups], vars(self.statistics).copy()
        self.saved = self.structure(), self.life.state(), values, momentum, *rest

    @precondition(lambda self: self.saved and self.saved[0] == self.structure())
    @rule(order=st.permutations(["net", "sgd"]))
    def go_back(self, order):
        _, state, values, momentum, groups, statistics = self.saved
        self.life.load(state, order)
        self.reference.values.update((self.slots[slot], value) for slot, value in values.items())
        pairs = zip(self.reference.grouped(), momentum, strict=True)
        self.reference.momentum = {name: v for name, v in pairs if v is not None}
        for group, saved in zip(self.reference.groups, groups, strict=True):
            group.update((key, saved[key]) for key in SETTINGS)
        for key in ("mean", "var", "seen"):  # no flags
            setattr(self.statistics, key, statistics[key])

    @rule(n=BATCH, seed=SEEDS, how=st.sampled_from(TRAININGS), order=st.permutations(["net", "sgd"]))
    def try_a_step(self, n, seed, how, order):
        self.remember()
        self.train(1, n, seed, how)
        self.go_back(order)

    @rule()
    def collect(self):
        gc.collect()

    # layers

    @rule(i=SMALL, bias=st.booleans(), seed=SEEDS, taken_out=st.booleans())
    def exchange_linear(self, i, bias, seed, taken_out):
        numbers = self.life.numbers("Linear")
        i = numbers[i % len(numbers)]
        self.exchange(i, ("Linear", self.life.plan[i][1], {"bias": bias}), seed, taken_out)

    @rule(which=st.integers(0, 7), seed=SEEDS, taken_out=st.booleans())
    def exchange_norm(self, which, seed, taken_out):
        self.exchange(2, norm_plans(self.life.plan[2][1][-1])[which], seed, taken_out)

    def exchange(self, i, entry, seed, taken_out):
        """The new parameters are in no group yet."""
        olds = [name for (k, _), name in self.slots.items() if k == i and name]
        self.life.exchange(i, entry, seed, "left out" if taken_out else "forgotten", 0)
        self.learn(i)
        self.gone(olds, taken_out)

    def gone(self, olds, taken_out):
        for name in set(olds) - set(self.slots.values()):
            if taken_out:
                self.reference.take_out(name)

    def pairs(self):
        shapes = {i: self.life.plan[i][1] for i in self.life.numbers("Linear")}
        return [(i, j) for i in shapes for j in shapes if i != j and shapes[i] == shapes[j]]

    @precondition(lambda self: self.pairs())
    @rule(k=SMALL, taken_out=st.booleans())
    def tie(self, k, taken_out):
        i, j = self.pairs()[k % len(self.pairs())]
        old = self.slots[j, "weight"]
        self.life.tie(i, j, "left out" if taken_out else "forgotten")
        self.slots[j, "weight"] = self.slots[i, "weight"]
        self.gone([old], taken_out)

    @rule(k=SMALL, seed=SEEDS, to_none=st.booleans(), taken_out=st.booleans())
    def new_parameter(self, k, seed, to_none, taken_out):
        """A tied one is untied by this, one that is None comes back."""
        slot = sorted(self.slots)[k % len(self.slots)]
        (i, attribute), old = slot, self.slots[slot]
        kind, args, _ = self.life.plan[i]
        if to_none and (kind, attribute) != ("Linear", "weight"):
            shape = None
        else:
            shape = args[::-1] if (kind, attribute) == ("Linear", "weight") else args[-1:]
        self.life.new_parameter(slot, shape, seed, "left out" if taken_out else "forgotten")
        self.learn_slot(slot)
        self.gone([old], taken_out)

    # the optimizer

    @rule(
        g=SMALL,
        change=st.sampled_from(
            [
                {"lr": 0.03},
                {"momentum": 0, "nesterov": False},
                {"momentum": 0.9},
                {"momentum": 0.9, "dampening": 0, "nesterov": True},
                {"dampening": 0.3, "nesterov": False},
                {"weight_decay": 0.1},
                {"maximize": True},
                {"maximize": False},
            ]
        ),
    )
    def edit_group(self, g, change):
        g %= len(self.reference.groups)
        self.life.set(g, change)
        self.reference.groups[g].update(change)

    @precondition(lambda self: self.reference.grouped())
    @rule(k=SMALL, g=SMALL)
    def move(self, k, g):
        k %= len(self.reference.grouped())
        self.life.move(k, g)
        name = self.reference.grouped()[k]
        self.reference.take_out(name)
        self.put_in(name, g)

    def put_in(self, name, g):
        self.reference.groups[g % len(self.reference.groups)]["names"].append(name)

    @precondition(lambda self: self.reference.grouped())
    @rule(k=SMALL)
    def put_aside(self, k):
        k %= len(self.reference.grouped())
        self.life.put_aside(k)
        name = self.reference.grouped()[k]
        self.reference.take_out(name)
        self.aside.append(name)

    @precondition(lambda self: self.aside)
    @rule(k=SMALL, g=SMALL)
    def put_back(self, k, g):
        k %= len(self.aside)
        self.life.put_back(k, g)
        self.put_in(self.aside.pop(k), g)

    @rule(g=SMALL, own_group=st.booleans(), options=st.sampled_from([{}, {"lr": 0.03, "momentum": 0.5}]))
    def take_in(self, g, own_group, options):
        """All parameters of the net that are in no group, nor put aside."""
        news = [name for name in self.in_net() if name not in [*self.reference.grouped(), *self.aside]]
        if not news:
            return
        parameters = self.parameters()
        if own_group and len(self.reference.groups) < 5:
            self.life.sgd.add_param_group({"params": [parameters[name] for name in news], **options})
            defaults = {key: self.life.sgd.defaults[key] for key in SETTINGS}
            self.reference.groups.append({**defaults, **options, "names": news})
        else:
            for name in news:
                self.life.put_in(parameters[name], g)
                self.put_in(name, g)


def test_random_lives_go_as_a_reference_says():
    run(Lives, 100, 40)


def test_momentum_that_is_lost_in_a_copy_is_noticed(monkeypatch):
    forget_in_copies(monkeypatch)
    with pytest.raises(AssertionError, match="momentum of p"):
        run(Lives, 100, 40, shrink=False)
