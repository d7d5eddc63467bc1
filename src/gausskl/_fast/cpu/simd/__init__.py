"""Vectors, loops and double-doubles as Numba can compile them. Nothing here knows a Gaussian."""
