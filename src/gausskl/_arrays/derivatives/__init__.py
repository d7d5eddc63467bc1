"""Formulas that know their own gradients, and how each library that differentiates is told.

:mod:`.differentiable` attaches a gradient to a formula, :mod:`.rules` keeps them, and the way of each library is a
module that is imported when the first of its arrays comes.
"""
