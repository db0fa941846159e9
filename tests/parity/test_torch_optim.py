"""States of SGD and of modules go to PyTorch and back, also through a checkpoint; schedules give PyTorch's values."""

import numpy as np
import pytest

import tinygrad_bn as tb
from tinygrad_bn import nn, optim

torch = pytest.importorskip("torch", reason="pip install -e '.[parity]'")

SHAPES = [(3, 4), (5,), (), (2, 3, 2)]
SETTINGS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "weight decay": {"momentum": 0.9, "weight_decay": 0.1},
    "dampening": {"momentum": 0.8, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"momentum": 0.9, "maximize": True},
}


def to_numpy(value):
    if isinstance(value, torch.Tensor):
        return value.numpy().copy()
    if isinstance(value, dict):
        return {k: to_numpy(v) for k, v in value.items()}
    return [to_numpy(v) for v in value] if isinstance(value, list) else value


def to_torch(value):
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, dict):
        return {k: to_torch(v) for k, v in value.items()}
    return [to_torch(v) for v in value] if isinstance(value, list) else value


def pair(seed, settings):
    """The same parameters in two groups, with an optimizer of either library."""
    rng = np.random.default_rng(seed)
    start = [rng.standard_normal(shape) for shape in SHAPES]
    ours, theirs = [nn.Parameter(a.copy()) for a in start], [torch.nn.Parameter(torch.tensor(a)) for a in start]
    make = lambda sgd, p: sgd([{"params": p[:2]}, {"params": p[2:], "lr": 0.02}], lr=0.1, **settings)
    return ours, make(optim.SGD, ours), theirs, make(torch.optim.SGD, theirs)


def walk(parameters, sgd, seeds):
    """One step per seed; the second parameter has no gradient at first."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for i, p in enumerate(parameters):
            g = rng.standard_normal(tuple(p.shape)) + np.asarray(p.detach().numpy())
            p.grad = None if i == 1 and seed < 2 else torch.tensor(g) if isinstance(p, torch.Tensor) else g
        sgd.step()


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("case", SETTINGS)
def test_sgd_goes_on_from_pytorchs_state(tmp_path, case, steps):
    _, _, theirs, a = pair(0, SETTINGS[case])
    walk(theirs, a, range(steps))
    ours, b, _, _ = pair(1, {"momentum": 0.5})
    tb.save(tmp_path / "a", to_numpy(a.state_dict()))
    b.load_state_dict(tb.load(tmp_path / "a"))
    for p, q in zip(ours, theirs, strict=True):
        p.data = q.detach().numpy().copy()
    for optimizer, parameters in ((a, theirs), (b, ours)):
        walk(parameters, optimizer, range(steps, steps + 20))
    close(ours, theirs)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("case", SETTINGS)
def test_pytorchs_sgd_goes_on_from_ours(tmp_path, case, steps):
    ours, a, _, _ = pair(0, SETTINGS[case])
    walk(ours, a, range(steps))
    _, _, theirs, b = pair(1, {"momentum": 0.5})
    tb.save(tmp_path / "a", a.state_dict())
    b.load_state_dict(to_torch(tb.load(tmp_path / "a")))
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            q.copy_(torch.tensor(p.data))
    for optimizer, parameters in ((a, ours), (b, theirs)):
        walk(parameters, optimizer, range(steps, steps + 20))
    close(ours, theirs)


@pytest.mark.parametrize("case", SETTINGS)
def test_the_states_have_the_same_entries(case):
    ours, a, theirs, b = pair(0, SETTINGS[case])
    walk(ours, a, range(1)), walk(theirs, b, range(1))
    mine, reference = a.state_dict(), to_numpy(b.state_dict())
    with_buffer = {i: s for i, s in reference["state"].items() if s.get("momentum_buffer") is not None}
    assert mine["state"].keys() == with_buffer.keys()
    for i, entry in with_buffer.items():
        np.testing.assert_allclose(mine["state"][i]["momentum_buffer"], entry["momentum_buffer"], rtol=1e-15)
    for g, h in zip(mine["param_groups"], reference["param_groups"], strict=True):
        assert g == {k: h[k] for k in g} and set(h) - set(g) == {"foreach", "differentiable", "fused"}


def test_a_modules_state_goes_to_pytorch_and_back_through_a_checkpoint(tmp_path):
    build = lambda n: n.Sequential(n.Linear(6, 5), n.BatchNorm1d(5), n.ReLU(), n.Linear(5, 4), n.LayerNorm(4))
    tb.manual_seed(0), torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)
    ours, theirs = build(nn), build(torch.nn)
    ours(tb.tensor(x))  # running statistics are no longer those at the start
    tb.save(tmp_path / "a.npz", {"model": ours.state_dict()})
    theirs.load_state_dict(to_torch(tb.load(tmp_path / "a.npz")["model"]))
    with np.load(tmp_path / "a.npz") as file:
        theirs.load_state_dict({k[6:]: torch.tensor(file[k]) for k in file.files if k.startswith("model/")})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.eval(), theirs.eval()
    np.testing.assert_allclose(ours(tb.tensor(x)).data, theirs(torch.tensor(x)).detach().numpy(), atol=1e-5)
    theirs.train()
    theirs(torch.tensor(x))
    tb.save(tmp_path / "b.npz", to_numpy(dict(theirs.state_dict())))
    ours.load_state_dict(tb.load(tmp_path / "b.npz"))
    for name, value in theirs.state_dict().items():
        assert ours.state_dict()[name].tobytes() == value.numpy().tobytes(), name


SCHEDULES = {
    "StepLR": ("StepLR", {"step_size": 7}),
    "StepLR, growing": ("StepLR", {"step_size": 30, "gamma": 1.5}),
    "MultiStepLR": ("MultiStepLR", {"milestones": [3, 50, 50, 77], "gamma": 0.3}),
    "MultiStepLR from 0": ("MultiStepLR", {"milestones": [0, 1]}),
    "CosineAnnealingLR": ("CosineAnnealingLR", {"T_max": 33}),
    "CosineAnnealingLR, eta_min": ("CosineAnnealingLR", {"T_max": 60, "eta_min": 0.003}),
    "CosineAnnealingLR, even": ("CosineAnnealingLR", {"T_max": 8}),
    "CosineAnnealingLR, T_max 1": ("CosineAnnealingLR", {"T_max": 1}),
    "CosineAnnealingLR, 100 steps": ("CosineAnnealingLR", {"T_max": 100}),
    "LinearLR": ("LinearLR", {}),
    "LinearLR, down": ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 40}),
    "LinearLR, longer": ("LinearLR", {"start_factor": 0.01, "end_factor": 0.5, "total_iters": 300}),
}


@pytest.mark.filterwarnings("ignore:Detected call of")  # of PyTorch's schedule before its optimizer's step
@pytest.mark.parametrize("case", SCHEDULES)
def test_schedules_give_pytorchs_learning_rates(case):
    name, settings = SCHEDULES[case]
    _, ours, _, theirs = pair(0, {})
    a = getattr(optim.lr_scheduler, name)(ours, **settings)
    b = getattr(torch.optim.lr_scheduler, name)(theirs, **settings)
    worst = 0.0
    for t in range(101):
        mine, reference = a.get_last_lr(), b.get_last_lr()
        assert mine == [group["lr"] for group in ours.param_groups] and len(mine) == 2
        np.testing.assert_allclose(mine, reference, rtol=1e-12, atol=1e-17, err_msg=f"step {t}")
        worst = max(worst, *(abs(m - r) / r for m, r in zip(mine, reference, strict=True) if r > 1e-17), 0.0)
        a.step(), b.step()
    print(f"{case}: largest relative difference {worst:.1e}")


def chains():
    """Several schedules on one optimizer, by what builds them."""
    return {
        "warm-up and cosine": lambda s, L: [L.LinearLR(s, 0.1, 1.0, 5), L.CosineAnnealingLR(s, 30)],
        "three": lambda s, L: [L.LinearLR(s, 0.1, 1.0, 5), L.CosineAnnealingLR(s, 30, 0.001), L.StepLR(s, 7, 0.5)],
        "cosine up again": lambda s, L: [L.CosineAnnealingLR(s, 6, 0.001), L.MultiStepLR(s, [4, 9], 0.5)],
        "linear to 0": lambda s, L: [L.LinearLR(s, 1.0, 0.0, 12), L.StepLR(s, 5, 0.5)],
        "sequence": lambda s, L: [L.SequentialLR(s, [L.LinearLR(s, 0.1), L.CosineAnnealingLR(s, 8)], [5])],
        "three in a row": lambda s, L: [
            L.SequentialLR(
                s, [L.StepLR(s, 2, 0.5), L.LambdaLR(s, lambda t: 1 / (1 + t)), L.CosineAnnealingLR(s, 8, 0.01)], [5, 9]
            )
        ],
        "sequence and step": lambda s, L: [L.SequentialLR(s, [L.LinearLR(s), L.StepLR(s, 2)], [3]), L.StepLR(s, 5)],
        "lambda by group": lambda s, L: [L.LambdaLR(s, [lambda t: 0.9**t, lambda t: 1.0]), L.StepLR(s, 5)],
    }


def by_hand(sgd, t):
    if t in (3, 10, 17):
        sgd.param_groups[0]["lr"] = 0.03 * t


def join(sgd, t):
    if t == 6:
        p = torch.nn.Parameter(torch.ones(1)) if isinstance(sgd, torch.optim.SGD) else nn.Parameter(np.ones(1))
        sgd.add_param_group({"params": [p], "lr": 0.7})


# where a group joins the others PyTorch's cosine and lambdas raise; what ours do is in test_lr_scheduler.py
JOINED = ("linear to 0", "sequence and step")


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize(
    ("case", "between"),
    [*((case, b) for case in chains() for b in (None, by_hand)), *((case, join) for case in JOINED)],
)
def test_chained_schedules_give_pytorchs_learning_rates(case, between):
    _, ours, _, theirs = pair(0, {})
    both = [
        (sgd, chains()[case](sgd, schedules))
        for sgd, schedules in ((ours, optim.lr_scheduler), (theirs, torch.optim.lr_scheduler))
    ]
    for t in range(40):
        mine, reference = ([group["lr"] for group in sgd.param_groups] for sgd, _ in both)
        np.testing.assert_allclose(mine, reference, rtol=1e-11, atol=1e-16, err_msg=f"step {t}")
        for sgd, schedules in both:
            if between is not None:
                between(sgd, t)
            for schedule in schedules:
                schedule.step()
        np.testing.assert_allclose(both[0][1][-1].get_last_lr(), both[1][1][-1].get_last_lr(), rtol=1e-11, atol=1e-16)
