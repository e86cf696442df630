// The 1x1 before a 5x5 or 3x3: a row at a time, from the ring to `middle`, for window_mma.cu; its sums for window_int8.cu, too.
#pragma once
// The first of two neighbouring channels that a thread has of product m; with FOURS it has four neighbours of two products.
DEV int bottleneck_channel(int m, int g) { return FOURS ? m / 2 * 32 + 4 * g + m % 2 * 2 : m * 16 + 2 * g; }

// COUNT blocks of 8 pixels from `first` on, of the row at `from`: the 1x1 and its bias.
template <int COUNT> DEV void bottleneck_sums(float (&d)[BEFORE_MS][COUNT][4], u32 base, u32 from, int first) {
  const int lane = threadIdx.x & 31, g = lane >> 2;
  u32 b[BEFORE_KS][COUNT][2];
#pragma unroll
  for (int k = 0; k < BEFORE_KS; ++k) {
    // Of the eight pixels to the right MORE exist; what lies behind them is being written, so the last one is read again.
    if constexpr (COUNT == 1) load_matrices(b[k][0], from + (first + min(lane & 7, PIXELS - TILE - 1)) * SOURCE_PITCH + (lane >> 3 & 1) * 16 + k * 32);
    else
#pragma unroll
      for (int block = 0; block < COUNT; block += 2) {
        u32 r[4];
        load_matrices(r, from + (first + block * 8 + (lane >> 4) * 8 + (lane & 7)) * SOURCE_PITCH + (lane >> 3 & 1) * 16 + k * 32);
        b[k][block][0] = r[0], b[k][block][1] = r[1], b[k][block + 1][0] = r[2], b[k][block + 1][1] = r[3];
      }
  }
#pragma unroll
  for (int m = 0; m < BEFORE_MS; ++m) {
    float bias[2];
    load_shared(bias, base + BIAS_AT + bottleneck_channel(m, g) * 4);
#pragma unroll
    for (int k = 0; k < BEFORE_KS; ++k) {
      u32 w[4];
      load_shared(w, base + BEFORE_AT + (m * BEFORE_KS + k) * 512 + lane * 16);
#pragma unroll
      for (int block = 0; block < COUNT; ++block)
        if (k == 0) mma_dense(d[m][block], w, b[k][block], bias);
        else mma_dense(d[m][block], w, b[k][block]);
    }
  }
}

// The same, LeakyReLU, float16; the border outside of the image.
template <int COUNT> DEV void bottleneck_blocks(const Arguments& a, const Strip& s, const u32 (&border)[BEFORE_MS], u32 base, u32 from, u32 to, int first, int y) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  float d[BEFORE_MS][COUNT][4];
  bottleneck_sums<COUNT>(d, base, from, first);
  const bool known = (u32)y < (u32)a.height;  // stores come last: the compiler moves no load across them
#pragma unroll
  for (int block = 0; block < COUNT; ++block)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pixel = first + block * 8 + 2 * t + i;
      const bool inside = known && (u32)(s.x0 - PAD + pixel) < (u32)a.width;
#pragma unroll
      for (int m = 0; m < BEFORE_MS; ++m) {
        const u32 value = inside ? leaky_pair(d[m][block][i], d[m][block][2 + i]) : border[m];
        if (COUNT > 1 || pixel < PIXELS) store_shared(to + pixel * PITCH + m * 32 + g * 4, value);
      }
    }
}

DEV void bottleneck(const Arguments& a, const Strip& s, const u32 (&border)[BEFORE_MS], u32 base, int slot, int step) {
  const int warp = threadIdx.x >> 5;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const u32 from = base + RING_AT + slot * STAGE + i * PIXELS * SOURCE_PITCH;
    const u32 to = base + MIDDLE_AT + (step & 1) * MIDDLE + i * PIXELS * PITCH;
    const int y = s.y0 - PAD + step * ROWS + i;
    bottleneck_blocks<BLOCKS>(a, s, border, base, from, to, warp * BLOCKS * 8, y);
    if (warp == i % WARPS) bottleneck_blocks<1>(a, s, border, base, from, to, TILE, y);  // the pixels to the right
  }
}
