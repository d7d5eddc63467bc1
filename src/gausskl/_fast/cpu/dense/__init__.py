"""Pairs with a full covariance: eight matrices side by side, one in each lane of a vector.

``call`` knows the arrays, ``kernels`` the loop over the batch, ``workspace`` the memory of a block and one Gaussian in
it, ``spreads`` makes factors and covariances of what was given, ``matrices`` is the linear algebra, ``divergence`` and
``gradients`` the mathematics.
"""
