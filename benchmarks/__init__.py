"""How fast this package is, beside PyTorch and JAX doing the same work: `python -m benchmarks`.

timing.py times side by side, report.py has the targets and the verdicts, peers.py does one piece of work in each
library, cases.py says which pieces, processes.py measures what needs a fresh process, profiling.py says where a
training step's time goes.
"""
