// What follows a 5x5 or 3x3: perhaps a 1x1 and the image, and the store, for window_wgmma.cu and window_wgmma_sparse.cu.
#pragma once
struct Then {
  u32 weights[THEN ? Q / 2 : 1][THEN_BLOCKS][2];
  float bias[THEN_BLOCKS][2];
};

DEV void load_then(const Arguments& a, Then& then) {
  const int lane = threadIdx.x & 31, t = lane & 3;
  const u32* words = (const u32*)a.then_weights;
#pragma unroll
  for (int block = 0; block < THEN_BLOCKS; ++block) {
#pragma unroll
    for (int k = 0; k < Q / 2; ++k)
#pragma unroll
      for (int i = 0; i < 2; ++i) then.weights[k][block][i] = words[((k * THEN_BLOCKS + block) * 2 + i) * 32 + lane];
#pragma unroll
    for (int i = 0; i < 2; ++i) then.bias[block][i] = THEN == 16 ? a.then_bias[4 * t + 2 * block + i] : t + i == 0 ? a.then_bias[0] : 0.f;
  }
}

// The 1x1 behind it, by mma.sync: the sums are its fragment of pixels as they lie. One row, two pixels a thread.
DEV void multiply_then(float (&d)[THEN_BLOCKS][4], const u32 (&sums)[2][Q], const Then& then) {
#pragma unroll
  for (int block = 0; block < THEN_BLOCKS; ++block) {
#pragma unroll
    for (int i = 0; i < 4; ++i) d[block][i] = then.bias[block][i & 1];
#pragma unroll
    for (int k = 0; k < Q / 2; ++k) {
      const u32 pixels[4] = {sums[0][2 * k], sums[1][2 * k], sums[0][2 * k + 1], sums[1][2 * k + 1]};
      mma_dense(d[block], pixels, then.weights[k][block]);
    }
  }
}

// What is added to the row y of this thread's two pixels; asked for early, because it takes long.
DEV void load_image(const Arguments& a, const Strip& s, float (&image)[2], int y, bool wanted) {
  const int lane = threadIdx.x & 31, x = s.x0 + (threadIdx.x >> 5) * 16 + (lane >> 2);
#pragma unroll
  for (int h = 0; h < 2; ++h)
    image[h] = load_global(a.image + ((long long)s.n * a.height + y) * a.width + x + 8 * h, wanted && (lane & 3) == 0 && x + 8 * h < a.width);
}

// `sums`: of pixels g and g + 8 of this warp's 16, behind LeakyReLU.
DEV void store_row(const Arguments& a, const Strip& s, const u32 (&sums)[2][Q], const Then& then, const float (&image)[2], int y, bool wanted) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, x = s.x0 + (threadIdx.x >> 5) * 16 + g;
  u16* row = (u16*)a.y + s.n * a.y_slice + (long long)y * a.y_row;
  if constexpr (THEN == 0) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int q = 0; q < Q; q += 2)
        store_global(row + (x + 8 * h) * Y + COUT / 4 * t + 2 * q, sums[h][q] | (u64)sums[h][q + 1] << 32, wanted && x + 8 * h < a.width);
  } else {
    float d[THEN_BLOCKS][4];
    multiply_then(d, sums, then);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const bool here = wanted && x + 8 * h < a.width;
      float v[THEN_BLOCKS][2];
#pragma unroll
      for (int block = 0; block < THEN_BLOCKS; ++block)
#pragma unroll
        for (int i = 0; i < 2; ++i) v[block][i] = THEN_ACTIVATE ? leaky(d[block][2 * h + i]) : d[block][2 * h + i];
      if constexpr (THEN == 16)
        store_global(row + (x + 8 * h) * Y + 4 * t, halves(v[0][0], v[0][1]) | (u64)halves(v[THEN_BLOCKS - 1][0], v[THEN_BLOCKS - 1][1]) << 32, here);
      else {
        const long long at = ((long long)s.n * a.height + y) * a.width + x + 8 * h;
        store_global((float*)a.y + at, RESIDUAL ? v[0][0] + image[h] : v[0][0], here && t == 0);
      }
    }
  }
}
