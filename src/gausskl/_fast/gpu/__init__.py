"""Kernels for a GPU: formulas traced into programs, in Triton or CUDA C, and the leaves that launch them.

Nothing is read back from the device. None of them has been run on a GPU yet; ``docs/gpu.md`` says what was tested.
"""
