"""Numbers in memory and in registers, and loops over them: what the code that works with tiles is emitted with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ...terms.operations import fma
from .double_double import Number, Wide, of_lanes
from .lanes import BYTES, FLOAT, I32, I64, Lanes, sqrt, vector

LANES = 8
VECTOR = vector(FLOAT[64])
POINTER = ir.IntType(8).as_pointer()  # what memory that a kernel works in is addressed by
Value = Any  # of the LLVM builder
Index = Any  # an LLVM value, or a number known when the kernel is made


@dataclass(frozen=True)
class Arithmetic:
    """What the entries of tiles are: floats, or numbers of twice their digits."""

    builder: Any
    wide: bool
    small: bool = False  # for matrices of a few rows: all of the code in one piece

    @property
    def size(self) -> int:
        """Bytes of an entry."""
        return 2 * BYTES if self.wide else BYTES

    def index(self, x: Index) -> Value:
        """An index as a value of the builder."""
        return I64(x) if isinstance(x, int) else x

    def plus(self, a: Index, b: Index) -> Index:
        """a + b."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return self.builder.add(self.index(a), self.index(b))

    def times(self, a: Index, b: Index) -> Index:
        """a * b."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        return self.builder.mul(self.index(a), self.index(b))

    def minus(self, a: Index, b: Index) -> Index:
        """a - b."""
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return self.builder.sub(self.index(a), self.index(b))

    def beyond(self, address: Value, offset: Index) -> Value:
        """The address that is so many bytes further."""
        return self.builder.gep(address, [self.index(offset)])

    def lanes(self, address: Value) -> Lanes:
        """Load one vector."""
        loaded = self.builder.load(self.builder.bitcast(address, VECTOR.as_pointer()))
        loaded.align = BYTES
        return Lanes(self.builder, 64, loaded)

    def put_lanes(self, x: Lanes, address: Value) -> None:
        """Store one vector."""
        self.builder.store(x.value, self.builder.bitcast(address, x.value.type.as_pointer())).align = BYTES

    def load(self, address: Value) -> Number:
        """Load an entry."""
        high = self.lanes(address)
        return Wide(high, self.lanes(self.beyond(address, BYTES))) if self.wide else high

    def store(self, x: Number, address: Value) -> None:
        """Store an entry."""
        for k, part in enumerate(parts(x)):
            self.put_lanes(part, self.beyond(address, k * BYTES))

    def constant(self, value: float) -> Number:
        """A number in every lane."""
        return self.of(Lanes(self.builder, 64, ir.Constant(VECTOR, [value] * LANES)))

    def whole(self, x: Index) -> Lanes:
        """A whole number that is known when the kernel runs, in every lane."""
        number = self.builder.sitofp(self.index(x), FLOAT[64])
        first = self.builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
        return Lanes(self.builder, 64, self.builder.shuffle_vector(first, ir.Constant(VECTOR, ir.Undefined), zeros))

    def of(self, x: Lanes) -> Number:
        """Floats as entries."""
        return of_lanes(x) if self.wide else x

    def sqrt(self, x: Number) -> Number:
        """Square root."""
        return x.sqrt() if self.wide else sqrt(x)

    def less_product(self, x: Number, a: Number, b: Number) -> Number:
        """x - a b."""
        return x - a * b if self.wide else fma(-a, b, x)

    def plus_product(self, x: Number, a: Number, b: Number) -> Number:
        """x + a b."""
        return x + a * b if self.wide else fma(a, b, x)

    def call(self, name: str, emit: Callable[..., None], *arguments: Index) -> None:
        """Emit code once as a function, and call it: what occurs several times compiles sooner like this.

        ``emit`` takes an arithmetic like this one and the arguments; the name has to say all else that it depends on.
        Numbers known when the kernel is made stay known inside.
        """
        if self.small:
            emit(self, *arguments)
            return
        module, wide = self.builder.module, "wide" * self.wide
        known = [argument if isinstance(argument, int) else "x" for argument in arguments]
        given = [argument for argument in arguments if not isinstance(argument, int)]
        full = "_".join(["gausskl", name, wide, *map(str, known)])
        function = module.globals.get(full)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [each.type for each in given])
            function = ir.Function(module, kind, full)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside = ir.IRBuilder(function.append_basic_block("entry"))
            values = iter(function.args)
            emit(Arithmetic(inside, self.wide), *[next(values) if each == "x" else each for each in known])
            inside.ret_void()
        self.builder.call(function, given)

    @contextlib.contextmanager
    def each(self, start: Index, stop: Index, step: int = 1, once: bool = False) -> Iterator[Index]:
        """A loop; ``once`` if it is known to run exactly once."""
        if once:
            yield start
            return
        with cgutils.for_range_slice(self.builder, self.index(start), self.index(stop), I64(step)) as (index, _):
            yield index

    def fold(self, start: Index, stop: Index, values: list[Number], body: Callable[..., list[Number]]) -> list[Number]:
        """A loop that carries numbers along in registers."""
        if isinstance(start, int) and isinstance(stop, int) and start == stop:
            return values
        builder = self.builder
        before = builder.basic_block
        head, inside, after = (builder.append_basic_block("fold") for _ in range(3))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(ir.IntType(64))
        index.add_incoming(self.index(start), before)
        carried = [self._phi(value, before) for value in values]
        builder.cbranch(builder.icmp_signed("<", index, self.index(stop)), inside, after)
        builder.position_at_end(inside)
        results = body(index, carried)
        for phi, result in zip(carried, results, strict=True):
            for part, new in zip(parts(phi), parts(result), strict=True):
                part.value.add_incoming(new.value, builder.basic_block)
        index.add_incoming(builder.add(index, I64(1)), builder.basic_block)
        builder.branch(head)
        builder.position_at_end(after)
        return carried

    def _phi(self, value: Number, before: Any) -> Number:
        phis = []
        for part in parts(value):
            phi = self.builder.phi(part.value.type)
            phi.add_incoming(part.value, before)
            phis.append(Lanes(self.builder, part.bits, phi))
        return Wide(*phis) if isinstance(value, Wide) else phis[0]


def parts(x: Number) -> list[Lanes]:
    """The vectors that a number is made of."""
    return [x.high, x.low] if isinstance(x, Wide) else [x]


def rounded(x: Number) -> Lanes:
    """The nearest floats."""
    return x.high if isinstance(x, Wide) else x
