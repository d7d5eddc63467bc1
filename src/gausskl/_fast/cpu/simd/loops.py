"""What a kernel calls: loops over vectors, sums, and memory by address."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import BYTES, FLOAT, I32, I64, Lanes, vector

NUMBER = {64: types.float64, 32: types.float32}
AHEAD = 1024  # bytes by which a loop asks for its inputs in advance


# Memory. An address is an integer; a vector may start at any multiple of the size of a number.


def _address(builder: Any, base: Any, index: Any, bits: int) -> Any:
    return builder.add(base, builder.mul(index, I64(bits // 8)))


def _load(builder: Any, address: Any, kind: Any, bits: int) -> Any:
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = bits // 8
    return loaded


def _store(builder: Any, value: Any, address: Any, bits: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = bits // 8


def _stream(builder: Any, value: Any, address: Any, bits: int) -> None:
    """Store past the caches, which would read the old numbers first; to addresses that vectors are aligned to."""
    stored = builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    stored.align = BYTES
    stored.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))


def prefetch(builder: Any, address: Any) -> None:
    """Ask for memory that will be read soon. The address may be any."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, byte), I32(0), I32(3), I32(1)])


class _Rest:
    """The numbers that are left over after the last whole vector."""

    def __init__(self, builder: Any, count: Any, bits: int) -> None:
        self.builder, self.bits, self.kind = builder, bits, vector(FLOAT[bits])
        lanes = self.kind.count
        mask, index = ir.VectorType(ir.IntType(1), lanes), ir.VectorType(I64, lanes)
        splat = builder.insert_element(ir.Constant(index, ir.Undefined), count, I32(0))
        splat = builder.shuffle_vector(
            splat, ir.Constant(index, ir.Undefined), ir.Constant(vector32(lanes), [0] * lanes)
        )
        self.mask = builder.icmp_signed("<", ir.Constant(index, list(range(lanes))), splat)
        self.suffix = f"v{lanes}f{bits}.p0"
        self.mask_type = mask

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.masked.{name}.{self.suffix}")

    def load(self, address: Any, missing: float) -> Any:
        """Load them, with ``missing`` in the other lanes."""
        pointer = self.kind.as_pointer()
        function = self._function("load", self.kind, pointer, I32, self.mask_type, self.kind)
        filler = ir.Constant(self.kind, [missing] * self.kind.count)
        at = self.builder.inttoptr(address, pointer)
        return self.builder.call(function, [at, I32(self.bits // 8), self.mask, filler])

    def store(self, value: Any, address: Any) -> None:
        """Store them and nothing else."""
        pointer = self.kind.as_pointer()
        function = self._function("store", ir.VoidType(), self.kind, pointer, I32, self.mask_type)
        at = self.builder.inttoptr(address, pointer)
        self.builder.call(function, [value, at, I32(self.bits // 8), self.mask])


def vector32(count: int) -> Any:
    """Type of ``count`` lane numbers."""
    return ir.VectorType(I32, count)


def _whole(builder: Any, count: Any, lanes: int) -> Any:
    return builder.and_(count, I64(-lanes))


# What a kernel calls.


@functools.cache
def elementwise(formula: Callable[..., Any], bits: int, streaming: bool = False) -> Any:
    """Function ``(inputs, outputs, count) -> int`` that applies a formula to ``count`` numbers.

    Inputs and outputs are tuples of addresses. The formula takes :class:`Lanes` and returns a tuple: as many as there
    are outputs, and one of integers; the function returns all of these integers or-ed together. With ``streaming``
    the outputs bypass the caches, and have to be aligned and made of whole vectors.
    """
    kind, lanes, put = vector(FLOAT[bits]), 8 * BYTES // bits, _stream if streaming else _store
    integers = vector(ir.IntType(bits))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        inputs, outputs, count = args
        sources, targets = cgutils.unpack_tuple(builder, inputs), cgutils.unpack_tuple(builder, outputs)
        marks = cgutils.alloca_once_value(builder, ir.Constant(integers, [0] * lanes))

        def apply(index: Any, load: Any, store: Any) -> None:
            values = [Lanes(builder, bits, load(_address(builder, source, index, bits))) for source in sources]
            *results, mark = formula(*values)
            for result, target in zip(results, targets, strict=True):
                store(result.value, _address(builder, target, index, bits))
            builder.store(builder.or_(builder.load(marks), mark.value), marks)

        def load(address: Any) -> Any:
            prefetch(builder, builder.add(address, I64(AHEAD)))
            return _load(builder, address, kind, bits)

        whole = _whole(builder, count, lanes)
        with cgutils.for_range_slice(builder, I64(0), whole, I64(lanes)) as (index, _):
            apply(index, load, lambda value, address: put(builder, value, address, bits))
        if not streaming:
            with builder.if_then(builder.icmp_signed("<", whole, count), likely=False):
                rest = _Rest(builder, builder.sub(count, whole), bits)
                apply(whole, functools.partial(rest.load, missing=1.0), rest.store)
        name = f"llvm.vector.reduce.or.v{lanes}i{bits}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(bits), [integers]), name)
        found = builder.call(function, [builder.load(marks)])
        return found if bits == 64 else builder.zext(found, I64)

    @intrinsic
    def function(context, inputs, outputs, count):  # type: ignore[no-untyped-def]
        return types.int64(inputs, outputs, count), generate

    return function


ACCUMULATORS = 8


@functools.cache
def total(bits: int) -> Any:
    """Function ``(address, count) -> number`` that sums. The order of the additions depends on the count alone."""
    kind, lanes = vector(FLOAT[bits]), 8 * BYTES // bits

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, count = args
        zero = ir.Constant(kind, [0.0] * lanes)
        result = cgutils.alloca_once_value(builder, zero)

        def add(value: Any, place: Any = result) -> None:
            builder.store(builder.fadd(builder.load(place), value), place)

        many = _whole(builder, count, lanes * ACCUMULATORS)
        with builder.if_then(builder.icmp_signed(">", many, I64(0))):
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(ACCUMULATORS)]
            with cgutils.for_range_slice(builder, I64(0), many, I64(lanes * ACCUMULATORS)) as (index, _):
                for k, place in enumerate(sums):
                    at = _address(builder, address, builder.add(index, I64(k * lanes)), bits)
                    add(_load(builder, at, kind, bits), place)
            values = [builder.load(place) for place in sums]
            while len(values) > 1:
                values = [builder.fadd(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
            add(values[0])
        whole = _whole(builder, count, lanes)
        with cgutils.for_range_slice(builder, many, whole, I64(lanes)) as (index, _):
            add(_load(builder, _address(builder, address, index, bits), kind, bits))
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            rest = _Rest(builder, builder.sub(count, whole), bits)
            add(rest.load(_address(builder, address, whole, bits), missing=0.0))
        value = builder.load(result)
        width = lanes
        while width > 1:
            width //= 2
            low, high = (ir.Constant(vector32(width), list(range(k, k + width))) for k in (0, width))
            value = builder.fadd(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
        return builder.extract_element(value, I32(0))

    @intrinsic
    def function(context, address, count):  # type: ignore[no-untyped-def]
        return NUMBER[bits](address, count), generate

    return function


@functools.cache
def scratch(size: int) -> Any:
    """Function ``() -> address`` of ``size`` bytes that are the kernel's own until it returns."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.goto_entry_block():  # alloca_once would also fill it
            place = builder.alloca(ir.ArrayType(ir.IntType(8), size))
            place.align = BYTES
        return builder.ptrtoint(place, I64)

    @intrinsic
    def function(context):  # type: ignore[no-untyped-def]
        return types.int64(), generate

    return function


@intrinsic
def address_of(context, array):  # type: ignore[no-untyped-def]
    """Address of the first number of an array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, I64)

    return types.int64(array), generate


@intrinsic
def strides_of(context, array):  # type: ignore[no-untyped-def]
    """Bytes from row to row and along each other axis; an axis of length 1 stands still."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = context.make_array(signature.args[0])(context, builder, args[0])
        sizes, strides = (cgutils.unpack_tuple(builder, each) for each in (given.shape, given.strides))
        moving = [builder.icmp_signed(">", size, I64(1)) for size in sizes]
        values = [builder.select(moves, stride, I64(0)) for moves, stride in zip(moving, strides, strict=True)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(types.int64, array.ndim)(array), generate


@functools.cache
def get(bits: int) -> Any:
    """Function ``(address) -> number``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], FLOAT[bits], bits)

    @intrinsic
    def function(context, address):  # type: ignore[no-untyped-def]
        return NUMBER[bits](address), generate

    return function


@functools.cache
def put(bits: int) -> Any:
    """Function ``(number, address)``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store(builder, args[0], args[1], bits)
        return context.get_dummy_value()

    @intrinsic
    def function(context, number, address):  # type: ignore[no-untyped-def]
        return types.void(NUMBER[bits], types.int64), generate

    return function
