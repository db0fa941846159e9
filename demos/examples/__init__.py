"""One script per headline claim: no statistics, one figure, a few seconds. How sure they are: docs/experiments.md."""
