"""Compile the fused engine's kernels for a GPU that need not be here, and look at the machine code.

    python tests/fused_compile.py 90

Asserts for each kernel that tensor cores multiply and that nothing is loaded value by value, and
that copies of 8 bytes pass through the L1 cache; those of 16 bytes do with some versions of Triton
only. Prints one line each.
"""

import re
import sys
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from compress.engines.kernels.chain import chain_kernel, pool_chain_kernel
from compress.engines.kernels.conv import conv_kernel
from compress.engines.kernels.moves import pool_kernel, upsample_kernel
from compress.engines.kernels.packing import power, row_length
from compress.engines.kernels.tiling import Tiling, default

POINTERS = dict.fromkeys(("x", "y", "z", "old", "w", "w2", "w_old", "w_new"), "*fp16")
FLOATS = dict.fromkeys(("table", "bias", "bias2", "image"), "*fp32")
RATIOS = {"ratio_y": "fp32", "ratio_x": "fp32"}
ODD = {"H", "W", "high", "wide", "tiles_y", "tiles_x", "total", *RATIOS}
"""Arguments that need not be multiples of 16."""


def ptx(kernel: Any, constants: dict[str, Any], cut: Tiling, capability: int) -> Any:
    names = kernel.arg_names
    known = POINTERS | FLOATS | RATIOS
    if constants.get("RESIDUAL"):
        known = known | {"y": "*fp32"}  # the engine's output
    types = {n: "constexpr" if n in constants else known.get(n, "i32") for n in names}
    aligned = [i for i, n in enumerate(names) if n not in constants and n not in ODD]
    source = ASTSource(
        kernel,
        signature=types,
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )
    options = {"num_warps": cut.warps, "num_stages": cut.stages}
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def conv(size: int, inside: int, whole: int, out: int, then: int, cut: Tiling) -> dict[str, Any]:
    row, width = row_length(inside, size, cut.gx), power(cut.gy * cut.gx * out)
    return {
        "X": whole, "Y": 1 if then == 1 else 16, "C": inside, "ROW": row,
        "K": (cut.gy + size - 1) * row,
        "PAD": size // 2, "TABLE": False, "GY": cut.gy, "GX": cut.gx, "BY": cut.by,
        "BX": cut.bx, "BK": cut.bk,
        "NP": width, "CO": out, "ACT": True, "THEN": then > 0, "CO2": then or out,
        "NP2": power(cut.gy * cut.gx * then) if then else width, "ACT2": then != 1,
        "RESIDUAL": then == 1, "SLOPE": 0.01,
        "COPY": cut.copy,
    }  # fmt: skip


def chain(inside: int, new: int, old: int, out: int, cut: Tiling) -> dict[str, Any]:
    row = row_length(inside, 5, cut.gx)
    return {
        "X": inside, "Y": 80, "Z": out, "C": inside, "ROW": row, "K": (cut.gy + 4) * row, "PAD": 2,
        "TABLE": False, "OLD": old, "OLD_BK": min(cut.bk, power(cut.gy * cut.gx * old)),
        "GY": cut.gy, "GX": cut.gx, "BY": cut.by, "BX": cut.bx, "BK": cut.bk,
        "NP": power(cut.gy * cut.gx * new), "CO": new, "NP2": power(cut.gy * cut.gx * out),
        "CO2": out, "ACT": True, "ACT2": True, "SLOPE": 0.01, "COPY": cut.copy,
    }  # fmt: skip


def pool_chain(channels: int, out: int, cut: Tiling) -> dict[str, Any]:
    return {
        "X": 32, "Y": 80, "Z": out, "C": channels, "CP": power(channels), "BY": cut.by,
        "BX": cut.bx, "NP": power(out), "CO": out, "ACT": True, "SLOPE": 0.01,
    }  # fmt: skip


CONVS = {  # k, channels read, channels a pixel, out, out of the 1x1 behind it
    "5x5 64-16": (5, 64, 64, 16, 0),
    "5x5 32-32-16": (5, 32, 32, 32, 16),
    "5x5 32-32-1 + image": (5, 32, 32, 32, 1),
    "5x5 24-24-8": (5, 24, 40, 24, 8),
    "1x1 48-64": (1, 48, 80, 64, 0),
    "7x7 1-16": (7, 1, 1, 16, 0),
}
CHAINS = {"chain 64-16 48-64": (64, 16, 48, 64), "chain 16-16 64-16": (16, 16, 64, 16)}


def check(name: str, made: Any, capability: int) -> int:
    text = made.asm["ptx"]
    multiplies = "wgmma.mma_async" if capability >= 90 else "mma.sync"
    assert multiplies in text, f"{name}: no tensor cores"
    narrow = re.findall(r"ld\.global\S*\.[bu]16", text)
    assert not narrow, f"{name}: {len(narrow)} loads of single values"
    through, around = text.count("cp.async.ca"), text.count("cp.async.cg")
    shared = made.metadata.shared
    print(f"sm_{capability} {name}: {multiplies}, {through} copies through L1, {around} around it, "
          f"{shared} bytes of shared memory")  # fmt: skip
    return through


def main(capability: int) -> None:
    for name, shape in CONVS.items():
        cut = default(shape[0], shape[1], shape[3], 256)
        check(name, ptx(conv_kernel, conv(*shape, cut), cut, capability), capability)
    shape, cut = CONVS["5x5 64-16"], Tiling(gy=2, gx=2, by=8, bx=16, copy=4)
    halves = ptx(conv_kernel, conv(*shape, cut), cut, capability)
    assert check("5x5 64-16, copies of 8 bytes", halves, capability) > 0
    cut = Tiling(gy=2, gx=2, by=4, bx=16)
    for name, widths in CHAINS.items():
        check(name, ptx(chain_kernel, chain(*widths, cut), cut, capability), capability)
    pooled = pool_chain(16, 64, Tiling(by=4, bx=16))
    made = ptx(pool_chain_kernel, pooled, Tiling(), capability)
    check("max-pool 16 + 1x1 16-64", made, capability)
    moves = {"X": 32, "Y": 80, "C": 16, "BLOCK": 256}
    for kernel in (pool_kernel, upsample_kernel):
        text = ptx(kernel, moves, Tiling(), capability).asm["ptx"]
        narrow = re.findall(r"(?:ld|st)\.global\S*\.b(?:16|32)", text.replace("v4.b32", ""))
        assert not narrow, f"{kernel.__name__}: {len(narrow)} values moved one by one"


if __name__ == "__main__":
    main(int(sys.argv[1]))
