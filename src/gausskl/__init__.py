"""Kullback-Leibler divergence between Gaussians, on whatever array you hold."""

from ._interop.objects import as_gaussian
from ._plan import Plan
from .divergence import kl_divergence, plan, warm_up
from .gaussian import Gaussian

__all__ = ["Gaussian", "Plan", "as_gaussian", "kl_divergence", "plan", "warm_up"]

__version__ = "0.1.0"
