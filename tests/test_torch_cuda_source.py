"""The kernels for dense pairs of CUDA tensors compile for a GPU, which needs none."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("cuda.core")

from gausskl._fast.gpu import leaf_cuda

SPREADS = {
    "cov": (("cov", None),) * 2,
    "factors": (("scale_tril", None), ("packed_tril", "tfp")),
    "diagonal q": (("cov", None), ("log_var", None)),
    "standard normal": (("cov", None),),
}


@pytest.mark.parametrize("d", [1, 8, 16])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", SPREADS)
def test_it_compiles_for_a_gpu(name, bits, d):
    for arch in ("sm_80", "sm_90"):
        code = bytes(leaf_cuda.compiled(SPREADS[name], bits, d, arch).code)
        assert code.startswith(b"\x7fELF")
        assert b"gausskl_dense" in code
