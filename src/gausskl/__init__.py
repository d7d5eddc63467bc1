"""Kullback-Leibler divergence between Gaussians, on whatever array you hold."""

from .divergence import Plan, kl_divergence, plan
from .gaussian import Gaussian

__all__ = ["Gaussian", "Plan", "kl_divergence", "plan"]

__version__ = "0.1.0"
