"""The instruction wgmma as C++: its number of operands follows from that of its columns."""


def header(columns: list[int], sparse: bool = False) -> str:
    """wgmma.cuh: `Wgmma<N>::multiply(d, a, b)` for each N of `columns`.

    d (64 x N float32, N / 2 values in each of 128 threads) += a (64 x 16) b (16 x N), float16 in
    shared memory, both with the 16 side by side ("K-major"); a, b are matrix descriptors.

    With `sparse` `WgmmaSparse<N>::multiply<SELECT>(d, a, b, metadata)`: a (64 x 32, two of four,
    64 x 16 stored), b (32 x N), metadata of lanes 4 g + 2 SELECT and the next.
    """
    name, made = ("WgmmaSparse", _sparse) if sparse else ("Wgmma", _dense)
    text = ["#pragma once", f"template <int N> struct {name};"]
    return "\n".join([*text, *(made(one) for one in sorted(set(columns)))])


def _operands(n: int) -> tuple[int, str, str]:
    """How many values a thread has, their places in the text, and the list of them."""
    count = n // 2
    places = ", ".join(f"%{at}" for at in range(count))
    return count, places, ", ".join(f'"+f"(d[{at}])' for at in range(count))


def _sparse(n: int) -> str:
    count, places, values = _operands(n)
    given = ", ".join(f"%{count + at}" for at in range(4))
    return f"""template <> struct WgmmaSparse<{n}> {{
  template <int SELECT> static DEV void multiply(float* d, u64 a, u64 b, u32 metadata) {{
    asm volatile("wgmma.mma_async.sp.sync.aligned.m64n{n}k32.f32.f16.f16 "
                 "{{{places}}}, {given}, 1, 1, 1, 0, 0;\\n"
                 : {values}
                 : "l"(a), "l"(b), "r"(metadata), "n"(SELECT));
  }}
}};"""


def _dense(n: int) -> str:
    count, places, values = _operands(n)
    return f"""template <> struct Wgmma<{n}> {{
  static DEV void multiply(float* d, u64 a, u64 b) {{
    asm volatile("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16 "
                 "{{{places}}}, %{count}, %{count + 1}, 1, 1, 1, 0, 0;\\n"
                 : {values}
                 : "l"(a), "l"(b));
  }}
}};"""
