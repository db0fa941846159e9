"""Figures: what a test measured is printed after the last test, beside pytest's own summary (docs/reliability.md)."""

import pytest

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(request):
    """figure("calls of the fuzzer", 50_000): kept for the list that ends the run."""

    def keep(what, value):
        request.config.stash.setdefault(FIGURES, []).append(f"{what}: {value}")

    return keep


def pytest_terminal_summary(terminalreporter, config):
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures measured")
        for line in figures:
            terminalreporter.line(line)
