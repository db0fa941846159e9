"""Is a gradient right? Checks for ops of this package, for plain NumPy pairs of forward and backward, and cases."""

from .cases import gradcheck_cases
from .gradcheck import gradcheck, gradgradcheck
from .numerical import numerical_gradient
from .pairs import check_pair
from .report import GradcheckError, Report

__all__ = [
    "GradcheckError",
    "Report",
    "check_pair",
    "gradcheck",
    "gradcheck_cases",
    "gradgradcheck",
    "numerical_gradient",
]
