"""Kernels for arrays in the memory of the CPU, compiled by Numba when they are first needed and kept on disk.

``simd`` makes vectors of eight numbers and loops over them; ``diagonal``, ``dense`` and ``low_rank`` have a ``call``,
which knows the arrays, and kernels, which know pointers. A row has the same bits in any batch and on any thread.
"""
