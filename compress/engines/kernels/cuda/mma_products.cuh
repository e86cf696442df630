// The products of a 5x5 or 3x3: input rows in shared memory into the sums of output rows, for window_mma.cu.
#pragma once
// Fragments of pixels: shift dx, step k of the channels.
DEV void load_pixels(u32 (&b)[BLOCKS][K / 8], u32 row, int dx, int k) {
  if constexpr (K == 32) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) load_matrices(b[block], row + (dx + block * 8) * PITCH + k * 64);
  } else {
#pragma unroll
    for (int block = 0; block < BLOCKS; block += 2) {
      u32 r[4];
      load_matrices(r, row + (dx + block * 8) * PITCH + k * 32);
      b[block][0] = r[0], b[block][1] = r[1], b[block + 1][0] = r[2], b[block + 1][1] = r[3];
    }
  }
}

// One input row into output rows low .. high, or ALL, where K = 32 is two taps: dx 0 and 1, 2 and 3; of the last dx the
// rows dy 0 and 1, 2 and 3, and the last dy alone.
template <bool ALL> DEV void products_paired(Window& w, const Weights& weights, u32 row, int low, int high) {
  u32 pairs[PAD][BLOCKS][4], last[BLOCKS][4];
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) {
    u32 r[2];
#pragma unroll
    for (int p = 0; p < PAD; ++p) load_matrices(pairs[p][block], row + (block * 8 + 2 * p) * PITCH);
    load_matrices(r, row + (block * 8 + MORE) * PITCH);
    last[block][0] = w.before[block][0], last[block][1] = w.before[block][1];
    last[block][2] = w.before[block][0] = r[0], last[block][3] = w.before[block][1] = r[1];
  }
#pragma unroll
  for (int e = 0; e < SIDE; ++e) {
    if (!ALL && (e < low || e > high)) continue;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const int dy = MORE - e;
      float(&d)[4] = w.sums[e][block][0];
      auto add = [&](int product, const u32(&b)[4]) { multiply(d, weights.a[product], b, weights.metadata[product / 2], product & 1); };
#pragma unroll
      for (int p = 0; p < PAD; ++p) add(PAD * dy + p, pairs[p][block]);
      if (dy % 2 == 1 || dy == MORE) add(PAD * SIDE + dy / 2, last[block]);
    }
  }
}

// ROWS input rows, shift dx, into output rows low .. high, or ALL. The topmost output row comes first (the last dy), so
// that behind the last dx each sum can move on to a place that is free.
template <bool ALL> DEV void products_dx(Window& w, const Weights& weights, u32 base, u32 rows, int dx, int low, int high) {
  const int lane = threadIdx.x & 31;
  u32 metadata[SPARSE ? WORDS_DX : 1];
  if constexpr (SPARSE) {
#pragma unroll
    for (int i = 0; i < WORDS_DX; ++i)
      metadata[i] = IN_REGISTERS ? weights.metadata[IN_REGISTERS ? dx * WORDS_DX + i : 0]
                                 : load_shared(base + METADATA_AT + (dx * WORDS_DX + i) * 128 + lane * 4);
  }
#pragma unroll
  for (int k = 0; k < KS; ++k) {
    u32 b[ROWS][BLOCKS][K / 8];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) load_pixels(b[i], rows + i * PIXELS * PITCH, dx, k);
#pragma unroll
    for (int dy = MORE; dy >= 0; --dy)
#pragma unroll
      for (int m = 0; m < MS; ++m) {
        const int j = (k * SIDE + dy) * MS + m;
        u32 a[4];
        if constexpr (IN_REGISTERS) {
          const u32(&kept)[4] = weights.a[dx * SIDE * KS * MS + j];
          a[0] = kept[0], a[1] = kept[1], a[2] = kept[2], a[3] = kept[3];
        } else load_shared(a, base + (dx * SIDE * KS * MS + j) * 512 + lane * 16);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const int e = i - dy + MORE;
          if (!ALL && (e < low || e > high)) continue;
#pragma unroll
          for (int block = 0; block < BLOCKS; ++block) multiply(w.sums[e][block][m], a, b[i][block], metadata[SPARSE ? j / 2 : 0], j & 1);
        }
      }
  }
}

template <bool ALL> DEV void products(Window& w, const Weights& weights, u32 base, u32 rows, int low, int high) {
#pragma unroll
  for (int e = MORE; e < ROWS + MORE; ++e)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int m = 0; m < MS; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) w.sums[e][block][m][i] = w.bias[m][i >> 1];
  if constexpr (PAIRED) products_paired<ALL>(w, weights, rows, low, high);
  else if constexpr (IN_REGISTERS) {
#pragma unroll
    for (int dx = 0; dx < SIDE; ++dx) products_dx<ALL>(w, weights, base, rows, dx, low, high);
  } else {
#pragma unroll 1
    for (int dx = 0; dx < MORE; ++dx) products_dx<ALL>(w, weights, base, rows, dx, low, high);
    products_dx<ALL>(w, weights, base, rows, MORE, low, high);
  }
}
