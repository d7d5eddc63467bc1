"""Every Triton kernel compiles for a GPU, which needs none, and reads contiguous rows 16 bytes at a time."""

import itertools
import os

import pytest
import regimes

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gausskl._fast.gpu import triton as triton_source

SPREADS = [((keyword, None),) * count for keyword in regimes.SPREAD for count in (1, 2)]
SIZES = {"ROWS": 1, "COLUMNS": 1024, "LEVELS": 10, "CHUNK": triton_source.CHUNK}


def ptx(kernel, dtype):
    """The kernel as a GPU's assembler reads it, for arrays of many whole rows."""
    names = kernel.arg_names
    fixed = SIZES | {name: 1 for name in names if name.endswith("_by_column")}
    signature = {
        name: "constexpr" if name in fixed else f"*{dtype}" if name.endswith("_at") else "i32" for name in names
    }
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name not in fixed}
    constants = {(names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(kernel, signature, constants, aligned)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]


@pytest.mark.parametrize(("dtype", "bits"), [("fp16", 32), ("bf16", 32), ("fp32", 32), ("fp64", 64)])
@pytest.mark.parametrize("spreads", SPREADS, ids=lambda spreads: "-".join(keyword for keyword, _ in spreads))
def test_it_compiles_for_a_gpu(spreads, dtype, bits):
    wide = "ld.global.v2.b64" if bits == 64 else "ld.global.v4.b32"
    every = (True,) * (2 * len(spreads))
    for kernel in (
        triton_source.forward(spreads, bits, False),
        triton_source.forward(spreads, bits, True),
        triton_source.backward(spreads, bits, every),
    ):
        assembly = ptx(kernel, dtype)
        assert wide in assembly
        assert assembly.count("ld.global") == assembly.count(wide)
        assert "div.full" not in assembly  # a quotient that is one or two units off
        assert "sqrt.approx" not in assembly


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=4)))
def test_a_gradient_not_wanted_is_not_written(wanted):
    if any(wanted):
        assembly = ptx(triton_source.backward((("std", None),) * 2, 32, wanted), "fp32")
        assert assembly.count("st.global.v4.b32") == 2 * sum(wanted)
