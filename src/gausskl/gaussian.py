"""What the user said about a Gaussian, kept as they said it."""

from __future__ import annotations

from typing import Any

from . import _checks, _namespace

Array = Any

STRUCTURE = {
    "std": "diagonal",
    "var": "diagonal",
    "log_std": "diagonal",
    "log_var": "diagonal",
    "cov": "dense",
    "scale_tril": "dense",
    "packed_tril": "dense",
    "precision": "dense",
    "low_rank": "low rank",
}


class Gaussian:
    r"""A Gaussian, or a batch of them: a mean and exactly one description of the spread.

    The last axis of ``mean`` holds the dimensions; every axis before it is a batch axis. Arrays are kept as they
    are, never copied and never written to. The keyword says what you hold:

    ==============================  ===============================  =========================================
    keyword                         shape                            meaning
    ==============================  ===============================  =========================================
    ``std``                         broadcastable to ``(..., d)``    standard deviations
    ``var``                         broadcastable to ``(..., d)``    variances
    ``log_std``                     broadcastable to ``(..., d)``    natural logarithms of ``std``
    ``log_var``                     broadcastable to ``(..., d)``    natural logarithms of ``var``
    ``cov``                         ``(..., d, d)``                  covariance matrix
    ``scale_tril``                  ``(..., d, d)``                  lower triangular L with cov = L Lᵀ
    ``packed_tril``, ``packing``    ``(..., d(d+1)/2)``              the lower triangle of L as a vector
    ``precision``                   ``(..., d, d)``                  inverse of the covariance matrix
    ``cov_factor``, ``cov_diag``    ``(..., d, r)``, ``(..., d)``    cov = F Fᵀ + diag(cov_diag)
    ==============================  ===============================  =========================================

    Parameters
    ----------
    mean : array, shape (..., d)
        Means, of any real dtype: an array of NumPy, PyTorch, CuPy, JAX, Dask or another array-API library, or a
        list of numbers. Integers become the default float of the library.
    std, var, log_std, log_var : array or number, broadcastable to (..., d), optional
        A diagonal covariance. A number is isotropic. ``std`` and ``var`` must be greater than 0.
    cov : array, shape (..., d, d), optional
        Symmetric positive definite covariance matrices. Asymmetry of the size of rounding is averaged; any other
        is an error.
    scale_tril : array, shape (..., d, d), optional
        Lower triangular factors. The signs of the diagonal do not matter; entries above it must be 0.
    packed_tril : array, shape (..., d * (d + 1) / 2), optional
        Lower triangular factors as vectors, in the order that ``packing`` names.
    packing : {"row", "tfp"}, optional
        Required with ``packed_tril``. ``"row"``: row after row, as ``numpy.tril_indices`` counts. ``"tfp"``: the
        order of ``tfp.math.fill_triangular``.
    precision : array, shape (..., d, d), optional
        Symmetric positive definite precision matrices.
    cov_factor, cov_diag : array, shapes (..., d, r) and broadcastable to (..., d), optional
        A covariance of low rank plus a positive diagonal. Give both.

    Attributes
    ----------
    mean : array
        The means as given.
    keyword : str
        The keyword that described the spread; ``"low_rank"`` for ``cov_factor`` and ``cov_diag``.
    structure : {"diagonal", "dense", "low rank"}
        What kind of covariance that is.
    batch_shape : tuple of int
        Shape of the batch; ``()`` for a single Gaussian.
    event_size : int
        Number of dimensions d.

    Raises
    ------
    TypeError
        If none or more than one description of the spread is given, if something is not a real numeric array,
        or if the arrays come from two libraries.
    ValueError
        If shapes do not fit, or if the arrays are on two devices. Values are not looked at here.

    Examples
    --------
    >>> import gausskl as gk
    >>> gk.Gaussian([1.0, 2.0, 3.0], std=[1.0, 4.0, 9.0])
    Gaussian(numpy float64, batch=(), d=3, std)
    """

    __slots__ = ("arrays", "batch_shape", "event_size", "keyword", "mean", "packing", "untyped")

    def __init__(
        self,
        mean: Array,
        *,
        std: Array | None = None,
        var: Array | None = None,
        log_std: Array | None = None,
        log_var: Array | None = None,
        cov: Array | None = None,
        scale_tril: Array | None = None,
        packed_tril: Array | None = None,
        packing: str | None = None,
        precision: Array | None = None,
        cov_factor: Array | None = None,
        cov_diag: Array | None = None,
    ) -> None:
        given = {
            "std": std,
            "var": var,
            "log_std": log_std,
            "log_var": log_var,
            "cov": cov,
            "scale_tril": scale_tril,
            "packed_tril": packed_tril,
            "precision": precision,
            "cov_factor": cov_factor,
            "cov_diag": cov_diag,
        }
        spread = {name: value for name, value in given.items() if value is not None}
        self.keyword = _checks.one_spread(spread, packing)
        self.packing = packing
        arrays, self.untyped = _namespace.adopt({"mean": mean, **spread})
        _checks.known_shapes(arrays)
        self.mean = arrays.pop("mean")
        self.arrays: tuple[Array, ...] = tuple(arrays.values())
        self.event_size = _checks.event_size(self.mean)
        self.batch_shape = _checks.batch_shape(self.mean, arrays)

    @property
    def structure(self) -> str:
        """What kind of covariance this is: "diagonal", "dense" or "low rank"."""
        return STRUCTURE[self.keyword]

    def __repr__(self) -> str:
        library, dtype = _namespace.library_of(self.mean), _namespace.name_of_dtype(self.mean.dtype)
        return f"Gaussian({library} {dtype}, batch={self.batch_shape}, d={self.event_size}, {self.keyword})"
