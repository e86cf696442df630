// Convolution, SIDE x SIDE = 5x5 or 3x3, stride 1, 2:4, by sparse wgmma (compute capability 9.0a); perhaps a 1x1 behind it.
//
// The sparse operand of wgmma comes first and has 64 rows: the weights of ROWS = 2 output rows of 32 channels. The other one
// are COLUMNS neighbouring pixels of an input row, K = 32 of their channels. So an input row adds to both output rows at
// once, and SIDE + 1 input rows make them; of the first and the last one half of the weights are zeros.
//
// A block has WORKERS warpgroups with a strip each, below each other. They share the weights and nothing else, and wait for
// each other never: while one rounds its results, the other one has the tensor cores.
//
//   shared memory: | weights | and for each warpgroup | ring | results | low |
//   weights: [dx][k][half of the 16 that are kept of 32][dy = -1 .. SIDE][COUT][8 values], zeros where dy is -1 or SIDE.
//         64 rows from dy = i - 1 are what input row i adds to output row 1, and then to output row 0
//   ring: STAGES steps of ROWS input rows, each as in window_wgmma.cu
//   results: [output row][COUT / 8][COLUMNS][16 bytes], and 16 bytes behind each plane for the banks' sake
//   low: with UPSAMPLED, rows of the smaller image, see upsample.cuh
//
// Products leave two channels of many pixels in a thread, stores want many channels of a pixel: finished rows go through
// shared memory, and are read and stored while the next step's products run.
#include <parameters.cuh>
#include <wgmma.cuh>
#define TILE_THREAD (threadIdx.x & 127)
#include <arguments.cuh>

constexpr int PAD = SIDE / 2, MORE = SIDE - 1, ROWS = 64 / COUT, COLUMNS = 128;
constexpr int THREADS = 128, TILE = COLUMNS, PIXELS = TILE + MORE, PLANE = PIXELS * 16;
constexpr int SOURCE = CIN, KS = CIN / 32, ROW = CIN / 8 * PLANE, STEP = ROWS * ROW;
constexpr int HALF = (SIDE + 2 * (ROWS - 1)) * COUT * 16, PRODUCTS = (SIDE + ROWS - 1) * SIDE * KS, WORDS = (PRODUCTS + 1) / 2;
constexpr int RING_AT = SIDE * KS * 2 * HALF, RESULTS_AT = RING_AT + STAGES * STEP;
constexpr int RESULTS_PLANE = COLUMNS * 16 + 16, RESULTS = COUT / 8 * RESULTS_PLANE, LOW_AT = RESULTS_AT + ROWS * RESULTS;
constexpr int AHEAD = MORE / ROWS;  // steps of input rows that products read behind their own
constexpr int SUMS = COLUMNS / 2, PARTS = COLUMNS / 64, Q = COUT / 8;
constexpr int THEN_BLOCKS = THEN == 16 ? 2 : 1;
static_assert(COUT == 32 && BOTTLENECK == 0 && MORE % ROWS == 0 && STAGES >= AHEAD + 2, "");
#if UPSAMPLED
constexpr bool BRANCHES = false;
#include <upsample.cuh>
constexpr int BEHIND = LOW_ROWS * LOW_ROW;
#else
constexpr int BEHIND = 0;
#endif
constexpr int WORKER = LOW_AT + BEHIND - RING_AT;  // bytes of each
static_assert(SHARED == RING_AT + WORKERS * WORKER, "window.py counts shared memory otherwise");

#include <wgmma_rows.cuh>
#include <wgmma_store.cuh>

// Where the step lies that is `later` ones behind the one in `slot`.
DEV u32 step_at(u32 base, int slot, int later) {
  const int at = slot + later;
  return base + RING_AT + (at >= STAGES ? at - STAGES : at) * STEP;
}

KERNEL(window_wgmma_sparse, THREADS * WORKERS, RESIDENT)(const Arguments a) {
  SHARED_BASE(block);
  const int lane = threadIdx.x & 31, worker = threadIdx.x >> 7, warp = threadIdx.x >> 5 & 3, g = lane >> 2, t = lane & 3;
  const Strip s = strip_of_block(a, TILE, WORKERS, worker);
  copy_region<THREADS * WORKERS>(block, a.weights, RING_AT);
  copy_commit();
  copy_wait<0>();
  fence_async();
  __syncthreads();
  if (s.rows <= 0) return;
  const u32 base = block + worker * WORKER;
  const int steps = (s.rows + ROWS - 1) / ROWS, all = steps + AHEAD;
  Loader rows_of = loader(a, s);
  auto load_step = [&](u32 to, bool wanted) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i) load_row(a, rows_of, to + i * ROW, wanted);
  };
#if UPSAMPLED
  Low low = low_rows(a, s);
  load_low<LOW_ROWS>(a, low, base, low.next, true);
  Mixer mixed = mixer(a, s, low.left);
  const Right right = right_of(a, s, mixed, 0);
  auto upsample = [&](int step, u32 to) {
    const int y = s.y0 - PAD + step * ROWS;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) mix_row<16, PLANE>(a, s, right, mixed, base, to + i * ROW, y + i, rows_between(a, y + i));
  };
#endif
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    load_step(base + RING_AT + i * STEP, i < all);
    copy_commit();
  }
  Then then;
  if constexpr (THEN) load_then(a, then);
  u32 metadata[WORDS];
#pragma unroll
  for (int i = 0; i < WORDS; ++i) metadata[i] = a.metadata[i * 128 + (threadIdx.x & 127)];
  // Of its warp's 16 rows of a product a thread has rows g and g + 8: two neighbouring channels of one output row.
  const int first = warp % 2 * 16 + 2 * g, made = 1 - warp / 2;
  const float bias[2] = {a.bias[first], a.bias[first + 1]};
  float sums[SUMS];
#pragma unroll
  for (int i = 0; i < SUMS; ++i) sums[i] = bias[i >> 1 & 1];
  const u32 results = base + RESULTS_AT, put = results + made * RESULTS + first / 8 * RESULTS_PLANE + first % 8 * 2 + 2 * t * 16;
  const u32 get = results + t * RESULTS_PLANE + (warp * 16 + g) * 16;
  const u64 weights = descriptor(block, HALF, 128);
  float image[ROWS * PARTS][2] = {};
  auto part_of = [&](int part) {  // the columns that a warp stores its 16 of; store_row counts 64 for each warpgroup
    Strip columns = s;
    columns.x0 += 64 * (part - worker);
    return columns;
  };
  auto load_images = [&](int step) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
        load_image(a, part_of(part), image[i * PARTS + part], s.y0 + step * ROWS + i, step >= 0 && step * ROWS + i < s.rows);
  };
  auto store_step = [&](int step) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        const int y = step * ROWS + i;
        u32 done[2][Q];
#pragma unroll
        for (int h = 0; h < 2; ++h) load_shared(done[h], get + i * RESULTS + (64 * part + 8 * h) * 16);
        store_row(a, part_of(part), done, then, image[i * PARTS + part], s.y0 + y, y >= 0 && y < s.rows);
      }
  };
#if UPSAMPLED
  copy_wait<STAGES - 2>();
  worker_wait(worker);
  mix_first(a, right, mixed, base, s.y0 - PAD);
#pragma unroll 1
  for (int i = 0; i <= AHEAD; ++i) upsample(i, base + RING_AT + i * STEP);
#endif
  int slot = 0;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if constexpr (RESIDUAL) load_images(step - 1);
    copy_wait<STAGES - 2 - AHEAD>();
    fence_async();
    worker_wait(worker);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < SIDE + ROWS - 1; ++i) {
      const u64 pixels = descriptor(step_at(base, slot, i / ROWS) + i % ROWS * ROW, PLANE, 128);
#pragma unroll
      for (int dx = 0; dx < SIDE; ++dx)
#pragma unroll
        for (int k = 0; k < KS; ++k) {
          const int at = (i * SIDE + dx) * KS + k;
          const u64 of_taps = weights + ((dx * KS + k) * 2 * HALF + i * COUT * 16) / 16, of_pixels = pixels + (4 * k * PLANE + dx * 16) / 16;
          if (at % 2) WgmmaSparse<COLUMNS>::multiply<1>(sums, of_taps, of_pixels, metadata[at / 2]);
          else WgmmaSparse<COLUMNS>::multiply<0>(sums, of_taps, of_pixels, metadata[at / 2]);
        }
    }
    wgmma_commit();
    load_step(step_at(base, slot, STAGES - 1), step + STAGES - 1 < all);
#if UPSAMPLED
    load_low<NEW_ROWS>(a, low, base, rows_between(a, s.y0 - PAD + (step + AHEAD + 1) * ROWS).first, step + STAGES - 1 < all);
#endif
    copy_commit();
    store_step(step - 1);
#if UPSAMPLED
    upsample(step + AHEAD + 1, step_at(base, slot, AHEAD + 1));
#endif
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < SUMS; ++i) wgmma_arrived(sums[i]);
    worker_wait(worker);  // the results of the step before have been read
#pragma unroll
    for (int q = 0; q < COLUMNS / 8; ++q)
#pragma unroll
      for (int i = 0; i < 2; ++i) store_shared(put + (8 * q + i) * 16, leaky_pair(sums[4 * q + i], sums[4 * q + 2 + i]));
#pragma unroll
    for (int i = 0; i < SUMS; ++i) sums[i] = bias[i >> 1 & 1];
    slot = slot == STAGES - 1 ? 0 : slot + 1;
  }
  if constexpr (RESIDUAL) load_images(steps - 1);
  worker_wait(worker);
  store_step(steps - 1);
}
