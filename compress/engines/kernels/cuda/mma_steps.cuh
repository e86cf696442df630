// The steps of a strip, for window_mma.cu and window_int8.cu: rows arrive in a ring, and sums move down by as many rows.
#pragma once

// What lies in shared memory from the beginning; WORDS: of metadata, for 32 lanes.
DEV void copy_weights(const Arguments& a, u32 base) {
  if constexpr (!IN_REGISTERS) {
    copy_region(base, a.weights, FRAGMENTS * 512);
    if constexpr (SPARSE) copy_region(base + METADATA_AT, a.metadata, WORDS * 128);
  }
  if constexpr (BOTTLENECK) {
    copy_region(base + BEFORE_AT, a.bottleneck_weights, BEFORE_KS * BEFORE_MS * 512);
    copy_region(base + BIAS_AT, a.bottleneck_bias, CIN * 4);
  }
#if INT8
  copy_region(base + AFFINE_AT, a.affine, CIN * (BOTTLENECK ? 16 : 8));
#endif
  if constexpr (THEN == 16) copy_region(base + THEN_AT, a.then_weights, MS * 512);
}

struct Weights {
  u32 a[IN_REGISTERS ? FRAGMENTS : 1][4], metadata[IN_REGISTERS && SPARSE ? WORDS : 1];
};
DEV void load_weights(const Arguments& a, Weights& weights) {
  if constexpr (IN_REGISTERS) {
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i) {
      const Quad v = a.weights[i * 32 + lane];
#pragma unroll
      for (int j = 0; j < 4; ++j) weights.a[i][j] = v.v[j];
    }
    if constexpr (SPARSE) {
#pragma unroll
      for (int i = 0; i < WORDS; ++i) weights.metadata[i] = a.metadata[i * 32 + lane];
    }
  }
}

#if UPSAMPLED
// The upsampled channels of a step's rows, into a slot of the ring.
DEV void upsample(const Arguments& a, const Strip& s, u32 base, Mixer& mixed, int step, int slot) {
  const Right right = right_of(a, s, mixed, step % WARPS);
  const int y = s.y0 - PAD + step * ROWS;
  mix_first(a, right, mixed, base, y);
#pragma unroll
  for (int i = 0; i < ROWS; ++i)
    mix_row<SOURCE_PITCH, 16>(a, s, right, mixed, base, base + RING_AT + slot * STAGE + i * PIXELS * SOURCE_PITCH, y + i, rows_between(a, y + i));
}
#endif

struct Ring {
  int steps;          // of the strip
  int arrived, slot;  // steps whose rows were there; where the rows of the next one lie
  Loader rows;
};
DEV Ring ring(const Arguments& a, const Strip& s, int steps) {
  Ring r = {steps, 0, 0, loader(a, s)};
  return r;
}
// The first rows are under way.
DEV void fill(const Arguments& a, u32 base, Ring& r) {
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (i < r.steps) load_rows(a, r.rows, base + RING_AT + i * STAGE);
    copy_commit();
  }
}
// The rows of step `arrived` are there; the fetch of later ones begins. In one structure with the ring, what is upsampled
// is other code.
#if UPSAMPLED
DEV void arrive(const Arguments& a, const Strip& s, u32 base, Ring& r, Low& low, Mixer& mixed) {
#else
DEV void arrive(const Arguments& a, const Strip& s, u32 base, Ring& r) {
#endif
  copy_wait<STAGES - 2>();
  __syncthreads();
  const int later = r.arrived + STAGES - 1, free_slot = r.slot == 0 ? STAGES - 1 : r.slot - 1;
  if (later < r.steps) load_rows(a, r.rows, base + RING_AT + free_slot * STAGE);
#if UPSAMPLED
  if (later < r.steps) load_low<NEW_ROWS>(a, low, base, rows_between(a, s.y0 - PAD + (r.arrived + 1) * ROWS).first, true);
#endif
  copy_commit();
#if UPSAMPLED
  if (r.arrived + 1 < r.steps) upsample(a, s, base, mixed, r.arrived + 1, r.slot == STAGES - 1 ? 0 : r.slot + 1);
#endif
}
DEV void leave(Ring& r) {
  r.slot = r.slot == STAGES - 1 ? 0 : r.slot + 1;
  ++r.arrived;
}

// The image below the output rows of a step, which is added to them.
DEV void load_images(const Arguments& a, const Strip& s, int step, float (&image)[ROWS]) {
  if constexpr (RESIDUAL) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int y = step * ROWS - MORE + i;
      image[i] = load_image(a, s, s.y0 + y, y >= 0 && y < s.rows);
    }
  }
}
// Sums of rows that are not finished, after a step.
template <class Sum> DEV void move_down(Sum (&sums)[ROWS + MORE][BLOCKS][MS][4]) {
#pragma unroll
  for (int e = 0; e < MORE; ++e)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int m = 0; m < MS; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[e][block][m][i] = sums[e + ROWS][block][m][i];
}
// All steps: `body` is told whether it computes all products of its rows, and else which of them. The first and the
// last steps of a strip leave out the products of rows above and below it.
template <class Body> DEV void all_steps(const Strip& s, int& step, Body& body) {
  const int full = (s.rows + ROWS - 1) / ROWS, last = full + MORE / ROWS;
  auto part = [&] { body(Bool<false>{}, max(MORE - step * ROWS, 0), min(ROWS + MORE - 1, (last - step) * ROWS - 1)); };
#pragma unroll 1
  while (step * ROWS < MORE) part();
#pragma unroll 1
  while (step < full) body(Bool<true>{}, 0, ROWS + MORE - 1);
#pragma unroll 1
  while (step < last) part();
}
