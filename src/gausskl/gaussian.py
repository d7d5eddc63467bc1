"""What the user said about a Gaussian, kept as they said it."""

from __future__ import annotations

from typing import Any

from . import _checks
from ._arrays import adopt, namespace
from ._arrays.signature import has_memory, signature
from ._form import KNOWN, Form, form_of, seen
from ._spreads import STRUCTURE

Array = Any


NOTHING: dict[str, Any] = {}


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
    spread : dict
        What described the spread, by keyword, as given: ``Gaussian(g.mean, **g.spread)`` is ``g``.
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

    Notes
    -----
    Arrays may change afterwards, in values and in shape, dtype or device: whatever uses the Gaussian sees them as they
    are then, and raises these errors if they no longer fit.

    Examples
    --------
    >>> import gausskl as gk
    >>> gk.Gaussian([1.0, 2.0, 3.0], std=[1.0, 4.0, 9.0])
    Gaussian(numpy float64, batch=(), d=3, std)
    """

    __slots__ = ("_form", "_numbers", "arrays", "mean")

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
        spread: dict[str, Array] = {}  # one by one: a loop would take as long as all the rest of a small call
        if std is not None:
            spread["std"] = std
        if var is not None:
            spread["var"] = var
        if log_std is not None:
            spread["log_std"] = log_std
        if log_var is not None:
            spread["log_var"] = log_var
        if cov is not None:
            spread["cov"] = cov
        if scale_tril is not None:
            spread["scale_tril"] = scale_tril
        if packed_tril is not None:
            spread["packed_tril"] = packed_tril
        if precision is not None:
            spread["precision"] = precision
        if cov_factor is not None:
            spread["cov_factor"] = cov_factor
        if cov_diag is not None:
            spread["cov_diag"] = cov_diag
        own = signature(mean, *spread.values())
        form = None if own is None else KNOWN.get((own, packing, *spread))
        self._numbers: dict[str, Any] = NOTHING  # what was given without a library or dtype
        if form is None:
            keyword = _checks.one_spread(spread, packing)
            self._numbers = {k: v for k, v in {"mean": mean, **spread}.items() if adopt.is_plain(v)}
            spread, untyped = adopt.adopt({"mean": mean, **spread})
            mean = spread.pop("mean")
            form = form_of(keyword, packing, mean, spread, untyped)
        self._form: Form = form
        self.mean = mean
        self.arrays: tuple[Array, ...] = tuple(spread.values())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it was said: the arrays may come back on another device, where another form is theirs."""
        mean, spread = self.mean, self.spread
        if self._form.untyped:
            mean, spread = mean.tolist(), {k: v if k == "packing" else v.tolist() for k, v in spread.items()}
        return _said, (mean, spread)

    @property
    def form(self) -> Form:
        """What is known without the values; found out anew if the arrays are no longer what they were."""
        form, mean, spread = self._form, self.mean, self.arrays[0]
        if (
            mean.shape == form.mean_shape
            and mean.dtype is form.mean_dtype
            and spread.shape == form.spread_shape
            and spread.dtype is form.spread_dtype
        ):
            return form  # one by one: a loop over the two would take as long as a fifth of a small call
        if not namespace.can_change(form.library) or form.seen == seen((mean, *self.arrays)):
            return form
        return self.look_anew()

    def look_anew(self) -> Form:
        """Make the Gaussian again of its arrays as they are now; numbers beside them follow them."""
        said = {"mean": self.mean, **self.spread}
        now = seen((self.mean, *self.arrays))
        for name, before, after in zip(list(said), self._form.seen, now, strict=False):
            if before == after and name in self._numbers:
                said[name] = self._numbers[name]
        try:
            for name, array in said.items():
                has_memory(name, array)
            again = Gaussian(**said)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the arrays of a Gaussian changed after it was made: {error}") from error
        self._form, self.mean, self.arrays = again._form, again.mean, again.arrays
        return self._form

    @property
    def keyword(self) -> str:
        """The keyword that described the spread; "low_rank" for ``cov_factor`` and ``cov_diag``."""
        return self._form.keyword

    @property
    def packing(self) -> str | None:
        """The order of the numbers in ``packed_tril``."""
        return self._form.packing

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch; ``()`` for a single Gaussian."""
        return self.form.batch_shape

    @property
    def event_size(self) -> int:
        """Number of dimensions d."""
        return self.form.event_size

    @property
    def spread(self) -> dict[str, Any]:
        """What described the spread, by keyword, as given."""
        if self.keyword == "low_rank":
            return dict(zip(("cov_factor", "cov_diag"), self.arrays, strict=True))
        packing = {} if self.packing is None else {"packing": self.packing}
        return {self.keyword: self.arrays[0], **packing}

    @property
    def structure(self) -> str:
        """What kind of covariance this is: "diagonal", "dense" or "low rank"."""
        return STRUCTURE[self.keyword]

    def to_torch_distribution(self) -> Any:
        """Make a ``torch.distributions`` object of a Gaussian of tensors.

        Returns
        -------
        torch.distributions.Distribution
            ``Independent(Normal, 1)``, ``MultivariateNormal`` or ``LowRankMultivariateNormal``, with one event axis.

        Raises
        ------
        TypeError
            If the arrays are not tensors of PyTorch.
        ValueError
            By torch, if it does not accept the values.
        """
        from ._interop.objects import to_torch_distribution

        return to_torch_distribution(self)

    def __repr__(self) -> str:
        try:
            form = self.form
        except (TypeError, ValueError):
            return f"Gaussian({self.keyword}, of arrays that changed and no longer fit)"
        library, dtype, batch, d = form.library, form.dtypes[0], form.batch_shape, form.event_size
        return f"Gaussian({library} {dtype}, batch={batch}, d={d}, {self.keyword})"


def _said(mean: Array, spread: dict[str, Any]) -> Gaussian:
    """A Gaussian as it was said. A function, because :mod:`copy` copies what a function is called with."""
    return Gaussian(mean, **spread)
