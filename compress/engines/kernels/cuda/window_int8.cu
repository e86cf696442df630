// Convolution, SIDE x SIDE = 5x5 or 3x3, stride 1, of INT8: mma.sync (dense) or mma.sp (2:4) of int8, compute capability 8.0 and newer.
//
// As window_mma.cu, whose rows, steps and stores it has. What arrives in shared memory is float16; before the products a
// row is rounded to int8 there (int8_rows.cuh): x -> scale x + shift by channel, which is BatchNorm over the step of the
// input, -> the nearest integer in -128 .. 127. Outside of the image it is 0, as the padding of the network is. Sums are
// integers, exact; what is stored is step_in step_out sum + bias, and what follows that.
//
//   product: (16 output channels x K bytes) (K bytes x 8 pixels); K = 32, or 64 if 2:4: K channels of one tap, or
//            2 or 4 taps of 16 or 32 channels
//   shared memory: | weights | metadata | 1x1 before | its bias | scale, shift | 1x1 behind | ring | middle |
//   ring: as in window_mma.cu, float16; no 16 bytes more for a pixel where no matrix is read and nothing mixed
//   middle: the same rows in int8, twice: one step is written while the other is read. A pixel takes an odd number of 16
//           bytes, so that ldmatrix, of 16 channels of 8 pixels a matrix, meets each bank once
#include <parameters.cuh>
#include <arguments.cuh>

constexpr int PAD = SIDE / 2, MORE = SIDE - 1;  // as in window_mma.cu
constexpr int THREADS = 32 * WARPS, TILE = WARPS * BLOCKS * 8, PIXELS = TILE + MORE;
constexpr int K = SPARSE ? 64 : 32, TAPS = CIN < K ? K / CIN : 1, KS = CIN < K ? 1 : CIN / K, MS = COUT / 16;
constexpr int PIECES_K = K / 16, PIECES_IN = CIN / 16;  // of 16 bytes: in a product, of a pixel
// Taps beside each other are one product; of the last column, if TAPS divide the others, taps below each other are.
constexpr bool LAST = TAPS > 1 && MORE % TAPS == 0;
constexpr int ACROSS = LAST ? MORE / TAPS : (SIDE + TAPS - 1) / TAPS, DOWN = LAST ? MORE / TAPS + 1 : 0;
constexpr int SPARE = LAST || TAPS == 1 ? 0 : ACROSS * TAPS - SIDE;  // pixels to the right that are read and multiplied by zeros
constexpr int FRAGMENTS = (ACROSS * KS * SIDE + DOWN) * MS, WORDS = FRAGMENTS;
constexpr int PITCH = CIN + (PIECES_IN % 2 == 0 ? 16 : 0), MIDDLE_ROW = (PIXELS + SPARE) * PITCH, MIDDLE = ROWS * MIDDLE_ROW;
constexpr int SOURCE = BOTTLENECK ? BOTTLENECK : CIN, SOURCE_PITCH = 2 * SOURCE + (BOTTLENECK || UPSAMPLED ? 16 : 0);
constexpr int STAGE = ROWS * PIXELS * SOURCE_PITCH;
constexpr int METADATA_AT = IN_REGISTERS ? 0 : FRAGMENTS * 512;
constexpr int BEFORE_AT = METADATA_AT + (IN_REGISTERS || !SPARSE ? 0 : FRAGMENTS * 128);
constexpr int BEFORE_KS = SOURCE / 16, BEFORE_MS = CIN / 16;
constexpr bool FOURS = CIN > 16;
constexpr int BIAS_AT = BEFORE_AT + (BOTTLENECK ? BEFORE_KS * BEFORE_MS * 512 : 0);
constexpr int AFFINE_AT = BIAS_AT + (BOTTLENECK ? CIN * 4 : 0), THEN_AT = AFFINE_AT + CIN * (BOTTLENECK ? 16 : 8);
constexpr int RING_AT = THEN_AT + (THEN == 16 ? MS * 512 : 0), MIDDLE_AT = RING_AT + STAGES * STAGE;
#if UPSAMPLED
constexpr int LOW_AT = MIDDLE_AT + 2 * MIDDLE;
constexpr bool BRANCHES = true;
#include <upsample.cuh>
constexpr int BEHIND = LOW_ROWS * LOW_ROW;
#else
constexpr int BEHIND = 0;
#endif
static_assert(SHARED == MIDDLE_AT + 2 * MIDDLE + BEHIND, "window.py counts shared memory otherwise");
static_assert(BLOCKS % 2 == 0 && MORE % ROWS == 0, "");

struct Window {
  int sums[ROWS + MORE][BLOCKS][MS][4];           // [e]: output row e - MORE below the first input row of the step
  u32 before[BLOCKS][LAST ? TAPS - 1 : 1][PIECES_IN];  // the last column of the rows before, the oldest first
};

#include <mma_rows.cuh>
#include <mma_store.cuh>
#include <mma_steps.cuh>
#include <mma_bottleneck.cuh>
#include <int8_rows.cuh>
#include <int8_products.cuh>

KERNEL(window_int8, THREADS, RESIDENT)(const Arguments a) {
  SHARED_BASE(base);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2;
  const Strip s = strip_of_block(a, TILE);
  const int steps = (s.rows + MORE + ROWS - 1) / ROWS;
  copy_weights(a, base);
  Ring r = ring(a, s, steps);
#if UPSAMPLED
  Low low = low_rows(a, s);
  load_low<LOW_ROWS>(a, low, base, low.next, true);
  Mixer mixed = mixer(a, s, low.left);
#endif
  fill(a, base, r);
  Weights weights;
  load_weights(a, weights);
  float bias[MS][2], steps_of[MS][2];
#pragma unroll
  for (int m = 0; m < MS; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i) bias[m][i] = a.bias[m * 16 + 2 * g + i], steps_of[m][i] = a.steps[m * 16 + 2 * g + i];
  const Then then = load_then(a);
  Window w = {};
  const u32 mine = (warp * BLOCKS * 8 + pixel_of_row(lane)) * PITCH + piece_of_row(lane) * 16;
  const u32 mine_last = (warp * BLOCKS * 8 + pixel_of_last(lane) + MORE) * PITCH + piece_of_last(lane) * 16;
  const bool late = LATE && (warp & 1);  // rounds behind its products, when the tensor cores are another warp's
  int step = 0;
  auto next = [&] {
#if UPSAMPLED
    arrive(a, s, base, r, low, mixed);
#else
    arrive(a, s, base, r);
#endif
  };
  auto round = [&] {  // the rows that arrived, for the next step's products
    if (r.arrived < r.steps) {
      const u32 from = base + RING_AT + r.slot * STAGE, to = base + MIDDLE_AT + (r.arrived & 1) * MIDDLE;
      if constexpr (BOTTLENECK) bottleneck_int8(a, s, base, from, to, s.y0 - PAD + r.arrived * ROWS);
      else round_rows(a, s, base, from, to, r.arrived);
    }
  };
  auto body = [&](auto all, int low, int high) {
    constexpr bool ALL = decltype(all)::value;
    float image[ROWS] = {};
    load_images(a, s, step, image);
    next();
    if (!late) round();
    products<ALL>(w, weights, base, base + MIDDLE_AT + (step & 1) * MIDDLE, mine, mine_last, low, high);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int y = step * ROWS - MORE + i;
      if (!(ALL || low == 0) || y >= s.rows) continue;
      float sums[BLOCKS][MS][4];
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
        for (int m = 0; m < MS; ++m)
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[block][m][j] = fmaf((float)w.sums[i][block][m][j], steps_of[m][j >> 1], bias[m][j >> 1]);
      store_row(a, s, sums, then, image[i], base, s.y0 + y);
    }
    move_down(w.sums);
    if (late) round();
    leave(r);
    ++step;
  };
#if UPSAMPLED
  copy_wait<STAGES - 2>();
  __syncthreads();
  upsample(a, s, base, mixed, 0, 0);
#endif
  next(), round(), leave(r);
  all_steps(s, step, body);
}
