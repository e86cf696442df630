// From float16 to int8, a row at a time, from the ring to `middle`: as it is, or behind the 1x1 before a 5x5 or 3x3; for window_int8.cu.
#pragma once
constexpr int EIGHTS = CIN / 8, ROUNDED_APART = THREADS / EIGHTS;  // pieces of eight channels of a pixel; pixels that all threads round at once
static_assert(THREADS % EIGHTS == 0 && 32 % EIGHTS == 0, "");

// The rows of a step, as they lie in the ring; zeros outside of the image. The warps take turns with what is to the right.
DEV void round_rows(const Arguments& a, const Strip& s, u32 base, u32 from, u32 to, int step) {
  const int at = (threadIdx.x + THREADS - 32 * (step % WARPS)) % THREADS, eight = at % EIGHTS;
  u32 affine[4][4];  // scale and shift of two channels each: read again in each step, or the products had fewer registers
#pragma unroll
  for (int j = 0; j < 4; ++j) load_shared(affine[j], base + AFFINE_AT + (j * EIGHTS + eight) * 16);
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const bool known = (u32)(s.y0 - PAD + step * ROWS + i) < (u32)a.height;
#pragma unroll
    for (int first = 0; first < PIXELS; first += ROUNDED_APART) {
      const int pixel = first + at / EIGHTS;
      if (first + ROUNDED_APART > PIXELS && pixel >= PIXELS) continue;
      u32 v[4], q[8];
      load_shared(v, from + (i * PIXELS + pixel) * SOURCE_PITCH + eight * 16);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        q[2 * j] = nearest(low_half(v[j]), as_float(affine[j][0]), as_float(affine[j][1]));
        q[2 * j + 1] = nearest(high_half(v[j]), as_float(affine[j][2]), as_float(affine[j][3]));
      }
      const bool inside = known && (u32)(s.x0 - PAD + pixel) < (u32)a.width;
      const u32 low = inside ? low_bytes(q[0], q[1], q[2], q[3]) : 0, high = inside ? low_bytes(q[4], q[5], q[6], q[7]) : 0;
      store_shared_pair(to + i * MIDDLE_ROW + pixel * PITCH + eight * 8, low, high);
    }
  }
}

// COUNT blocks of 8 pixels from `first` on, of the row at `from`: 1x1, LeakyReLU, int8; zeros outside of the image.
template <int COUNT> DEV void bottleneck_int8_blocks(const Arguments& a, const Strip& s, u32 base, u32 from, u32 to, int first, int y) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  float d[BEFORE_MS][COUNT][4];
  bottleneck_sums<COUNT>(d, base, from, first);
  const bool known = (u32)y < (u32)a.height;
  u32 q[COUNT][2][BEFORE_MS][2];  // block, pixel, product, channel
#pragma unroll
  for (int m = 0; m < BEFORE_MS; ++m) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      u32 affine[4];  // the scale of v and of |v|, which make LeakyReLU and BatchNorm, and the shift
      load_shared(affine, base + AFFINE_AT + (bottleneck_channel(m, g) + c) * 16);
#pragma unroll
      for (int block = 0; block < COUNT; ++block)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float v = d[m][block][2 * c + i];
          q[block][i][m][c] = nearest(fabsf(v), as_float(affine[1]), fmaf(v, as_float(affine[0]), as_float(affine[2])));
        }
    }
  }
#pragma unroll
  for (int block = 0; block < COUNT; ++block)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pixel = first + block * 8 + 2 * t + i;
      const bool inside = known && (u32)(s.x0 - PAD + pixel) < (u32)a.width, wanted = COUNT > 1 || pixel < PIXELS;
      const auto& of = q[block][i];
      if constexpr (FOURS) {
#pragma unroll
        for (int m = 0; m < BEFORE_MS; m += 2) {
          const u32 value = inside ? low_bytes(of[m][0], of[m][1], of[m + 1][0], of[m + 1][1]) : 0;
          store_shared(to + pixel * PITCH + bottleneck_channel(m, g), value, wanted);
        }
      } else store_shared(to + pixel * PITCH + 2 * g, (u16)(inside ? low_bytes(of[0][0], of[0][1], 0, 0) : 0), wanted);
    }
}

// The rows of a step, of which the first one is row y of the image.
DEV void bottleneck_int8(const Arguments& a, const Strip& s, u32 base, u32 from, u32 to, int y) {
  const int warp = threadIdx.x >> 5;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const u32 row = from + i * PIXELS * SOURCE_PITCH, into = to + i * MIDDLE_ROW;
    bottleneck_int8_blocks<BLOCKS>(a, s, base, row, into, warp * BLOCKS * 8, y + i);
    if (warp == i % WARPS) bottleneck_int8_blocks<1>(a, s, base, row, into, TILE, y + i);  // the pixels to the right
  }
}
