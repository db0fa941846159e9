"""The cases behind golden.npz: names are PyTorch's, inputs are drawn from a seed made of the case's name."""

import zlib

import numpy as np


def values(case, shapes):
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    return [np.asarray(rng.standard_normal(shape)) for shape in shapes]


def running(channels):
    rng = np.random.default_rng(channels)
    return {"running_mean": rng.standard_normal(channels), "running_var": rng.uniform(0.5, 2, channels)}


# case: (function, shapes of x [, weight, bias], other arguments)
OPS = {
    "batch_norm 2d": ("batch_norm", [(6, 3), (3,), (3,)], {**running(3), "training": True}),
    "batch_norm 4d": ("batch_norm", [(3, 2, 4, 3), (2,), (2,)], {**running(2), "training": True, "momentum": 0.3}),
    "batch_norm plain": ("batch_norm", [(6, 3)], {**running(3), "training": True, "eps": 0.1}),
    "batch_norm eval": ("batch_norm", [(4, 3, 5), (3,), (3,)], {**running(3)}),
    "layer_norm": ("layer_norm", [(4, 3, 5), (3, 5), (3, 5)], {"normalized_shape": (3, 5)}),
    "layer_norm plain": ("layer_norm", [(4, 7)], {"normalized_shape": (7,), "eps": 1e-3}),
    "group_norm": ("group_norm", [(3, 6, 4), (6,), (6,)], {"num_groups": 3}),
    "instance_norm": ("instance_norm", [(3, 2, 4, 3), (2,), (2,)], {}),
    "instance_norm running": ("instance_norm", [(3, 2, 5)], {**running(2)}),
    "rms_norm": ("rms_norm", [(4, 5), (5,)], {"normalized_shape": (5,)}),
    "relu": ("relu", [(4, 5)], {}),
    "sigmoid": ("sigmoid", [(4, 5)], {}),
    "tanh": ("tanh", [(4, 5)], {}),
    "softmax": ("softmax", [(3, 4, 2)], {"dim": 1}),
    "log_softmax": ("log_softmax", [(3, 4)], {"dim": -1}),
    "linear": ("linear", [(2, 3, 4), (5, 4), (5,)], {}),
}

TARGET = np.array([0, 3, -100, 1])
LOSSES = {
    f"{name} {reduction}": (name, [(4, 4)], target, {"reduction": reduction})
    for reduction in ("mean", "sum", "none")
    for name, target in (
        ("cross_entropy", TARGET),
        ("nll_loss", TARGET),
        ("mse_loss", values("mse target", [(4, 4)])[0]),
        ("binary_cross_entropy_with_logits", np.random.default_rng(0).random((4, 4))),
    )
}

SGD_SETTINGS = {
    f"sgd {i}": settings
    for i, settings in enumerate(
        [
            {"lr": 0.1},
            {"lr": 0.1, "weight_decay": 0.2},
            {"lr": 0.1, "momentum": 0.9},
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
            {"lr": 0.1, "momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1},
            {"lr": 0.1, "maximize": True},
            {"lr": 0.1, "maximize": True, "momentum": 0.9, "weight_decay": 0.1},
            {"lr": 0.1, "maximize": True, "momentum": 0.9, "nesterov": True},
        ]
    )
}


def sgd_gradients(case):
    return values(case + "/gradients", [(10, 3, 2)])[0]
