"""Leaves: kernels that compute what a formula computes, only faster. Without this folder everything still works.

:mod:`.leaves` is the table: which pair is served by which leaf, or why by none. ``terms`` are scalar formulas, which
``cpu`` compiles with Numba and ``gpu`` traces into Triton or CUDA C; ``cpu`` and ``gpu`` do not know each other. A leaf
is worth its lines if it is three times as fast, and gives the bits of a row whatever batch it stands in.
"""
