// What follows a 5x5 or 3x3: LeakyReLU, perhaps a 1x1 and the image, and the store, for window_mma.cu and window_int8.cu.
#pragma once
struct Then {
  float weights[MS][2], bias[2];  // of channels 2 g and the next; the weights where there is one output channel
};
DEV Then load_then(const Arguments& a) {
  const int g = (threadIdx.x & 31) >> 2;
  Then then = {};
  if constexpr (THEN == 16) then.bias[0] = a.then_bias[2 * g], then.bias[1] = a.then_bias[2 * g + 1];
  if constexpr (THEN == 1) {
    then.bias[0] = a.then_bias[0];
#pragma unroll
    for (int m = 0; m < MS; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) then.weights[m][i] = ((const float*)a.then_weights)[m * 16 + 2 * g + i];
  }
  return then;
}

// Two channels of a pixel: d[0], d[2] of column 2 t; d[1], d[3] of the next.
DEV void store_pixels(u16* row, int x, int width, const float (&d)[4], bool activate) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
    store_global(row + (x + i) * Y, activate ? leaky_pair(d[i], d[2 + i]) : halves(d[i], d[2 + i]), x + i < width);
}

// A 1x1 of 16 output channels behind it: the sums, turned into a fragment of pixels, times its weights.
DEV void multiply_then(float (&d)[4], const float (&sums)[MS][4], const Then& then, u32 base) {
  d[0] = d[1] = then.bias[0], d[2] = d[3] = then.bias[1];
#pragma unroll
  for (int m = 0; m < MS; ++m) {
    const float(&f)[4] = sums[m];
    const u32 b[2] = {transposed(leaky_pair(f[0], f[1])), transposed(leaky_pair(f[2], f[3]))};
    u32 w[4];
    load_shared(w, base + THEN_AT + m * 512 + (threadIdx.x & 31) * 16);
    mma_dense(d, w, b);
  }
}

// A 1x1 of one output channel behind it: each thread has two channels of 2 BLOCKS pixels, and eight threads have
// the rest. They add up, and halve what each of them looks after in every step; see `pixel_of_lane`.
DEV float add_channels(const float (&sums)[BLOCKS][MS][4], const Then& then) {
  float v[2 * BLOCKS];
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = 0, absolute = 0;  // LeakyReLU is (1 + SLOPE) / 2 f + (1 - SLOPE) / 2 |f|
#pragma unroll
      for (int m = 0; m < MS; ++m)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          sum += then.weights[m][c] * sums[block][m][2 * c + i];
          absolute += then.weights[m][c] * fabsf(sums[block][m][2 * c + i]);
        }
      v[2 * block + i] = (1 + SLOPE) / 2 * sum + (1 - SLOPE) / 2 * absolute;
    }
  int count = 2 * BLOCKS;
#pragma unroll
  for (int lanes = 16; lanes >= 4; lanes /= 2) {
    const bool upper = threadIdx.x & lanes;
    count = count > 1 ? count / 2 : 1;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (2 * BLOCKS * lanes >= 32) v[i] = (upper ? v[i + count] : v[i]) + shuffle_xor(upper ? v[i] : v[i + count], lanes);
      else v[i] += shuffle_xor(v[i], lanes);
    }
  }
  return v[0] + then.bias[0];
}

// The pixel, counted in the strip, whose sum a thread has behind `add_channels`; -1 where another thread has it, too.
DEV int pixel_of_lane() {
  const int lane = threadIdx.x & 31, at = BLOCKS == 4 ? lane >> 2 : lane >> 3;
  return BLOCKS == 4 || !(lane & 4) ? (threadIdx.x >> 5) * BLOCKS * 8 + at / 2 * 8 + 2 * (lane & 3) + at % 2 : -1;
}

// What is added to row y of this thread's pixel; asked for early, because it takes long.
DEV float load_image(const Arguments& a, const Strip& s, int y, bool wanted) {
  const int pixel = pixel_of_lane();
  return load_global(a.image + ((long long)s.n * a.height + y) * a.width + s.x0 + pixel, wanted && pixel >= 0 && s.x0 + pixel < a.width);
}

DEV void store_row(const Arguments& a, const Strip& s, const float (&sums)[BLOCKS][MS][4], const Then& then, float image, u32 base, int y) {
  if constexpr (THEN == 1) {
    const float sum = add_channels(sums, then);
    const int pixel = pixel_of_lane();
    float* to = (float*)a.y + ((long long)s.n * a.height + y) * a.width + s.x0 + pixel;
    store_global(to, (THEN_ACTIVATE ? leaky(sum) : sum) + image, pixel >= 0 && s.x0 + pixel < a.width);
  } else {
    const int x = s.x0 + (threadIdx.x >> 5) * BLOCKS * 8 + 2 * (threadIdx.x & 3);
    u16* row = (u16*)a.y + s.n * a.y_slice + (long long)y * a.y_row + 2 * ((threadIdx.x & 31) >> 2);
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      if constexpr (THEN == 16) {
        float d[4];
        multiply_then(d, sums[block], then, base);
        store_pixels(row, x + block * 8, a.width, d, THEN_ACTIVATE);
      } else {
#pragma unroll
        for (int m = 0; m < MS; ++m) store_pixels(row + m * 16, x + block * 8, a.width, sums[block][m], true);
      }
    }
  }
}
