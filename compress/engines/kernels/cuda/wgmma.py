"""The instruction wgmma as C++: its number of operands follows from that of its columns."""


def header(columns: list[int]) -> str:
    """wgmma.cuh: `Wgmma<N>::multiply(d, a, b)` for each N of `columns`.

    d (64 x N float32, N / 2 values in each of 128 threads) += a (64 x 16) b (16 x N), float16 in
    shared memory, both with the 16 side by side ("K-major"); a, b are matrix descriptors.
    """
    text = ["#pragma once", "template <int N> struct Wgmma;"]
    return "\n".join([*text, *(_specialised(one) for one in sorted(set(columns)))])


def _specialised(n: int) -> str:
    count = n // 2
    places = ", ".join(f"%{at}" for at in range(count))
    values = ", ".join(f'"+f"(d[{at}])' for at in range(count))
    return f"""template <> struct Wgmma<{n}> {{
  static DEV void multiply(float* d, u64 a, u64 b) {{
    asm volatile("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.f16.f16 "
                 "{{{places}}}, %{count}, %{count + 1}, 1, 1, 1, 0, 0;\\n"
                 : {values}
                 : "l"(a), "l"(b));
  }}
}};"""
