"""The experiments: each demo trains small nets, measures one claim and says PASS or FAIL."""

from importlib.util import find_spec

INSTALL = "pip install -e '.[demos]'"
if _missing := [name for name in ("matplotlib", "scipy", "threadpoolctl", "tqdm") if find_spec(name) is None]:
    raise SystemExit(f"the demos need {', '.join(_missing)}: {INSTALL}")
