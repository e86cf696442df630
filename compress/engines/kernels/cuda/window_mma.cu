// Convolution, SIDE x SIDE = 5x5 or 3x3, stride 1, by mma.sync (dense) or mma.sp (2:4), compute capability 8.0 and newer.
//
// A warp computes BLOCKS x 8 neighbouring columns and slides down a strip of rows: the products of an
// input row belong to SIDE output rows, whose sums stay in registers and move on by one row per input
// row. So each fragment of pixels is read once per dx and used for all dy, and no zero is multiplied.
//
//   product: (16 output channels x K input channels of one tap) (K channels x 8 pixels), K = 16; 32 if 2:4
//   shared memory: | weights | metadata | 1x1 before | its bias | 1x1 behind | ring | middle |
//   ring: STAGES steps of ROWS input rows of PIXELS = TILE + SIDE - 1 pixels; a pixel takes its channels and 16
//         bytes more, an odd number of 16 bytes, so that ldmatrix meets each bank once
//   low: with UPSAMPLED, behind the ring, rows of the smaller image, see upsample.cuh
//   middle: with BOTTLENECK, the same rows behind the 1x1 and LeakyReLU, twice: one row is written
//         while the other is read
//
// Rows g and g + 8 of a product are channels 2 g and 2 g + 1 (fragments.py orders weights so): a thread's
// two values for a pixel are neighbours in memory.
#include <parameters.cuh>
#include <arguments.cuh>

constexpr int PAD = SIDE / 2, MORE = SIDE - 1;  // rows and columns around a pixel; of the input beyond those of the output
constexpr int THREADS = 32 * WARPS, TILE = WARPS * BLOCKS * 8, PIXELS = TILE + MORE;
constexpr bool PAIRED = SPARSE && CIN == 16;  // K = 32 is two taps of 16 channels
constexpr int K = SPARSE && !PAIRED ? 32 : 16, KS = CIN / K, MS = COUT / 16;
constexpr int PITCH = 2 * CIN + 16, SOURCE = BOTTLENECK ? BOTTLENECK : CIN, SOURCE_PITCH = 2 * SOURCE + 16;
constexpr int FRAGMENTS = PAIRED ? (SIDE * SIDE + 1) / 2 : SIDE * SIDE * KS * MS, WORDS_DX = (SIDE * KS * MS + 1) / 2;
constexpr int WORDS = !SPARSE ? 0 : PAIRED ? (FRAGMENTS + 1) / 2 : SIDE * WORDS_DX;
constexpr int STAGE = ROWS * PIXELS * SOURCE_PITCH, MIDDLE = ROWS * PIXELS * PITCH;
constexpr int METADATA_AT = IN_REGISTERS ? 0 : FRAGMENTS * 512;
constexpr int BEFORE_AT = METADATA_AT + (IN_REGISTERS ? 0 : WORDS * 128);
constexpr int BEFORE_KS = SOURCE / 16, BEFORE_MS = CIN / 16;
constexpr bool FOURS = false;
constexpr int BIAS_AT = BEFORE_AT + (BOTTLENECK ? BEFORE_KS * BEFORE_MS * 512 : 0);
constexpr int THEN_AT = BIAS_AT + (BOTTLENECK ? CIN * 4 : 0);
constexpr int RING_AT = THEN_AT + (THEN == 16 ? MS * 512 : 0), MIDDLE_AT = RING_AT + STAGES * STAGE;
#if UPSAMPLED
constexpr int LOW_AT = MIDDLE_AT;
constexpr bool BRANCHES = true;
#include <upsample.cuh>
constexpr int BEHIND = LOW_ROWS * LOW_ROW;
#else
constexpr int BEHIND = BOTTLENECK ? 2 * MIDDLE : 0;
#endif
static_assert(SHARED == MIDDLE_AT + BEHIND, "window.py counts shared memory otherwise");
static_assert(!IN_REGISTERS || (ROWS == 1 && MS == 1), "weights in registers: one row, 16 output channels");
static_assert(!PAIRED || IN_REGISTERS, "");
static_assert(BLOCKS % 2 == 0 && MORE % ROWS == 0, "");

struct Window {
  float sums[ROWS + MORE][BLOCKS][MS][4];  // [e]: output row e - MORE below the first input row of the step
  float bias[MS][2];
  u32 before[BLOCKS][2];                // PAIRED: fragments of the last dx of the row before
};

DEV void multiply(float (&d)[4], const u32 (&w)[4], const u32* b, u32 metadata, int select) {
  if constexpr (!SPARSE) mma_dense(d, w, b);
  else if (select) mma_sparse<1>(d, w, b, metadata);
  else mma_sparse<0>(d, w, b, metadata);
}

#include <mma_rows.cuh>
#include <mma_store.cuh>
#include <mma_steps.cuh>
#include <mma_bottleneck.cuh>
#include <mma_products.cuh>

KERNEL(window_mma, THREADS, RESIDENT)(const Arguments a) {
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
  Window w;
#pragma unroll
  for (int m = 0; m < MS; ++m) w.bias[m][0] = a.bias[m * 16 + 2 * g], w.bias[m][1] = a.bias[m * 16 + 2 * g + 1];
  const Then then = load_then(a);
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) {
    w.before[block][0] = w.before[block][1] = 0;
#pragma unroll
    for (int e = 0; e < MORE; ++e)
#pragma unroll
      for (int m = 0; m < MS; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) w.sums[e][block][m][i] = w.bias[m][i >> 1];
  }
  // Where this lane's row of an 8x8 matrix lies: two blocks of pixels and two pieces of 8 channels; K = 32: one
  // block and four pieces; PAIRED: one block, two pieces, and the same one pixel to the right.
  const int pixel = PAIRED ? (lane & 7) + (lane >> 4) : K == 32 ? lane & 7 : (lane & 7) + (lane >> 4) * 8;
  const u32 mine = (warp * BLOCKS * 8 + pixel) * PITCH + (K == 32 ? lane >> 3 : lane >> 3 & 1) * 16;
  u32 border[BEFORE_MS] = {};
  if constexpr (BOTTLENECK) {
#pragma unroll
    for (int m = 0; m < BEFORE_MS; ++m) border[m] = a.bottleneck_border[m * 8 + g];
  }
  int step = 0;
  auto next = [&] {  // rows arrive; before a 1x1, the middle ones are computed
#if UPSAMPLED
    arrive(a, s, base, r, low, mixed);
#else
    arrive(a, s, base, r);
#endif
    if (BOTTLENECK && r.arrived < r.steps) bottleneck(a, s, border, base, r.slot, r.arrived);
  };
  auto body = [&](auto all, int low, int high) {
    constexpr bool ALL = decltype(all)::value;
    float image[ROWS] = {};
    load_images(a, s, step, image);
    next();
    const u32 rows = base + mine + (BOTTLENECK ? MIDDLE_AT + (step & 1) * MIDDLE : RING_AT + r.slot * STAGE);
    products<ALL>(w, weights, base, rows, low, high);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int y = step * ROWS - MORE + i;
      if ((ALL || low == 0) && y < s.rows) store_row(a, s, w.sums[i], then, image[i], base, s.y0 + y);
    }
    move_down(w.sums);
    leave(r);
    ++step;
  };
  if constexpr (BOTTLENECK) next(), leave(r);
#if UPSAMPLED
  copy_wait<STAGES - 2>();
  __syncthreads();
  upsample(a, s, base, mixed, 0, 0);
#endif
  all_steps(s, step, body);
}
