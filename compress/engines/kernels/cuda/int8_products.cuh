// The products of a 5x5 or 3x3 in int8: input rows in `middle` into the sums of output rows, for window_int8.cu.
#pragma once
// Which row of 16 bytes of which matrix this lane's address is of, see load_pixels: a pixel, counted from the first one of the
// warp, and a piece of 16 channels. A matrix is a piece of a tap; of a dense product two blocks are loaded at once.
DEV int pixel_of_row(int lane) {
  const int matrix = lane >> 3, in_block = SPARSE ? matrix : matrix & 1;
  return (lane & 7) + (TAPS == 1 ? 0 : in_block / PIECES_IN) + (SPARSE ? 0 : (matrix >> 1) * 8);
}
DEV int piece_of_row(int lane) { return (SPARSE ? lane >> 3 : lane >> 3 & 1) % (TAPS == 1 ? PIECES_K : PIECES_IN); }
// The same of the last column: the pieces of a pixel, and as many blocks as there is room for.
DEV int pixel_of_last(int lane) { return (lane & 7) + (PIECES_IN == 1 ? lane >> 3 & (BLOCKS - 1) : lane >> 4) * 8; }
DEV int piece_of_last(int lane) { return PIECES_IN == 1 ? 0 : lane >> 3 & 1; }

// Fragments of pixels: taps from shift dx on, step k of the channels.
DEV void load_pixels(u32 (&b)[BLOCKS][PIECES_K], u32 row, int dx, int k) {
#pragma unroll
  for (int block = 0; block < BLOCKS; block += SPARSE ? 1 : 2) {
    u32 r[4];
    load_matrices(r, row + (dx + block * 8) * PITCH + k * K);
#pragma unroll
    for (int i = 0; i < 4; ++i) b[block + i / PIECES_K][i % PIECES_K] = r[i];
  }
}
DEV void load_last(u32 (&b)[BLOCKS][PIECES_IN], u32 row) {
  if constexpr (PIECES_IN == 1 && BLOCKS == 2) {
    u32 r[2];
    load_matrices(r, row);
    b[0][0] = r[0], b[1][0] = r[1];
  } else {
    constexpr int AT_ONCE = 4 / PIECES_IN;
#pragma unroll
    for (int block = 0; block < BLOCKS; block += AT_ONCE) {
      u32 r[4];
      load_matrices(r, row + block * 8 * PITCH);
#pragma unroll
      for (int i = 0; i < 4; ++i) b[block + i / PIECES_IN][i % PIECES_IN] = r[i];
    }
  }
}

// Fragment j of the weights.
DEV void load_weights(u32 (&a)[4], u32& metadata, const Weights& weights, u32 base, int j) {
  if constexpr (IN_REGISTERS) {
    const u32(&kept)[4] = weights.a[j];
    a[0] = kept[0], a[1] = kept[1], a[2] = kept[2], a[3] = kept[3];
    if constexpr (SPARSE) metadata = weights.metadata[j];
  } else {
    load_shared(a, base + j * 512 + (threadIdx.x & 31) * 16);
    if constexpr (SPARSE) metadata = load_shared(base + METADATA_AT + j * 128 + (threadIdx.x & 31) * 4);
  }
}
DEV void multiply(int (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
  if constexpr (SPARSE) mma_int8_sparse(d, a, b, metadata);
  else mma_int8(d, a, b);
}

// Taps from shift dx on of ROWS input rows into output rows low .. high, or ALL; the topmost comes first, see mma_products.cuh.
template <bool ALL> DEV void products_dx(Window& w, const Weights& weights, u32 base, u32 rows, int across, int low, int high) {
#pragma unroll
  for (int k = 0; k < KS; ++k) {
    u32 b[ROWS][BLOCKS][PIECES_K];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) load_pixels(b[i], rows + i * MIDDLE_ROW, across * TAPS, k);
#pragma unroll
    for (int dy = MORE; dy >= 0; --dy)
#pragma unroll
      for (int m = 0; m < MS; ++m) {
        u32 a[4], metadata = 0;
        load_weights(a, metadata, weights, base, ((across * KS + k) * SIDE + dy) * MS + m);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const int e = i - dy + MORE;
          if (!ALL && (e < low || e > high)) continue;
#pragma unroll
          for (int block = 0; block < BLOCKS; ++block) multiply(w.sums[e][block][m], a, b[i][block], metadata);
        }
      }
  }
}

// The last column: dy 0 .. TAPS - 1, TAPS .. 2 TAPS - 1, ..., and the last dy, before which there are zeros, of rows that came
// one behind the other.
template <bool ALL> DEV void products_last(Window& w, const Weights& weights, u32 base, u32 rows, int low, int high) {
  u32 b[ROWS][BLOCKS][PIECES_K];
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    u32 now[BLOCKS][PIECES_IN];
    load_last(now, rows + i * MIDDLE_ROW);
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
        for (int piece = 0; piece < PIECES_IN; ++piece) {
          const u32 value = tap == TAPS - 1 ? now[block][piece] : w.before[block][tap][piece];
          b[i][block][tap * PIECES_IN + piece] = value;
          if (tap > 0) w.before[block][tap - 1][piece] = value;
        }
  }
#pragma unroll
  for (int down = DOWN - 1; down >= 0; --down)
#pragma unroll
    for (int m = 0; m < MS; ++m) {
      u32 a[4], metadata = 0;
      load_weights(a, metadata, weights, base, (ACROSS * KS * SIDE + down) * MS + m);
      const int dy = min((down + 1) * TAPS - 1, MORE);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        const int e = i - dy + MORE;
        if (!ALL && (e < low || e > high)) continue;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) multiply(w.sums[e][block][m], a, b[i][block], metadata);
      }
    }
}

// The rows of a step; `mine` and `mine_last` are this lane's places for load_pixels and load_last.
template <bool ALL> DEV void products(Window& w, const Weights& weights, u32 base, u32 rows, u32 mine, u32 mine_last, int low, int high) {
#pragma unroll
  for (int e = MORE; e < ROWS + MORE; ++e)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int m = 0; m < MS; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) w.sums[e][block][m][i] = 0;
  if constexpr (IN_REGISTERS) {
#pragma unroll
    for (int across = 0; across < ACROSS; ++across) products_dx<ALL>(w, weights, base, rows + mine, across, low, high);
  } else {  // what comes last stands outside of the loop: behind it sums move
#pragma unroll 1
    for (int across = 0; across < ACROSS - !LAST; ++across) products_dx<ALL>(w, weights, base, rows + mine, across, low, high);
    if constexpr (!LAST) products_dx<ALL>(w, weights, base, rows + mine, ACROSS - 1, low, high);
  }
  if constexpr (LAST) products_last<ALL>(w, weights, base, rows + mine_last, low, high);
}
