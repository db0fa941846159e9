"""Writes golden.npz beside this file, from PyTorch 2.13: python tests/golden/make_golden.py

Keys are "case/name". The cases are listed in cases.py, which test_golden.py reads too.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as TF
from cases import LOSSES, OPS, SGD_SETTINGS, sgd_gradients, values

golden = {}
for case, (name, shapes, extra) in OPS.items():
    arrays = values(case, shapes)
    inputs = [torch.tensor(a, requires_grad=True) for a in arrays]
    extra = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in extra.items()}
    y = getattr(TF if hasattr(TF, name) else torch, name)(inputs[0], **dict(extra)) if len(inputs) == 1 else None
    if y is None:
        names = ["weight", "bias"][: len(inputs) - 1]
        y = getattr(TF, name)(inputs[0], **extra, **dict(zip(names, inputs[1:], strict=True)))
    y.backward(torch.tensor(values(case + "/dy", [tuple(y.shape)])[0]))
    golden[f"{case}/y"] = y.detach().numpy()
    for i, t in enumerate(inputs):
        golden[f"{case}/grad{i}"] = t.grad.numpy()
    for k in ("running_mean", "running_var"):
        if k in extra:
            golden[f"{case}/{k}"] = extra[k].numpy()

for case, (name, shapes, target, extra) in LOSSES.items():
    x = torch.tensor(values(case, shapes)[0], requires_grad=True)
    y = getattr(TF, name)(x, torch.tensor(target), **extra)
    y.backward(torch.tensor(values(case + "/dy", [tuple(y.shape)])[0]))
    golden[f"{case}/y"], golden[f"{case}/grad0"] = y.detach().numpy(), x.grad.numpy()

for case, settings in SGD_SETTINGS.items():
    p = torch.tensor(values(case, [(3, 2)])[0], requires_grad=True)
    sgd = torch.optim.SGD([p], **settings)
    path = []
    for g in sgd_gradients(case):
        p.grad = torch.tensor(g)
        sgd.step()
        path.append(p.detach().numpy().copy())
    golden[f"{case}/path"] = np.array(path)

net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
for i, (key, value) in enumerate(net.state_dict().items()):
    golden[f"state/{i:02d}/{key}"] = value.numpy()

np.savez_compressed(Path(__file__).with_name("golden.npz"), **golden)
