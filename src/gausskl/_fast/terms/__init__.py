"""Scalar formulas without a branch or a logarithm, for a number of a kernel: a vector on the CPU, a symbol on a GPU.

Where one does not hold it says so, and the formulas of the library take over.
"""
