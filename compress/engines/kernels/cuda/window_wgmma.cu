// Convolution, SIDE x SIDE = 5x5 or 3x3, stride 1, dense, by wgmma (compute capability 9.0a); perhaps a 1x1 before and behind it.
//
// A warpgroup computes 64 neighbouring columns and slides down a strip of rows. The SIDE vertical taps lie
// side by side: 64 pixels of one input row x K = 16 channels, times 16 x SIDE COUT weights, adds to SIDE output
// rows at once. The sums stay in registers and move on by one row per input row: no zero is multiplied.
//
//   shared memory: | weights | weights of the 1x1 before | its bias | ring | middle |
//   ring: STAGES rows, each as planes of 8 channels: [SOURCE / 8][PIXELS = 64 GROUPS + SIDE - 1][16 bytes]. Eight
//         pixels of a plane are a core matrix wherever they begin, so the shift dx is an address.
//   low: with UPSAMPLED, behind the ring, rows of the smaller image, see upsample.cuh
//   weights: [dx][k][half of 16 channels][column = COUT dy + j][8 channels]
//   middle: with BOTTLENECK, rows behind the 1x1 and LeakyReLU, in such planes, twice
//
// Columns 8 q + 2 t and the next are channels COUT / 4 t + 2 q and the next (fragments.py orders weights so):
// a thread's COUT / 4 values for a pixel are neighbours in memory.
#include <parameters.cuh>
#include <wgmma.cuh>
#include <arguments.cuh>

constexpr int PAD = SIDE / 2, MORE = SIDE - 1;  // rows and columns around a pixel; of the input beyond those of the output
constexpr int THREADS = 128 * GROUPS, TILE = 64 * GROUPS, PIXELS = TILE + MORE, PLANE = PIXELS * 16;
constexpr int SOURCE = BOTTLENECK ? BOTTLENECK : CIN, KS = CIN / 16, BEFORE_KS = SOURCE / 16, COLUMNS = SIDE * COUT;
constexpr int ROW = SOURCE / 8 * PLANE, MIDDLE = CIN / 8 * PLANE;
constexpr int BEFORE_AT = SIDE * KS * 2 * COLUMNS * 16, BIAS_AT = BEFORE_AT + (BOTTLENECK ? BEFORE_KS * 2 * CIN * 16 : 0);
constexpr int RING_AT = BIAS_AT + (BOTTLENECK ? CIN * 4 : 0), MIDDLE_AT = RING_AT + STAGES * ROW;
constexpr int WARPS = 4 * GROUPS, RIGHT = (CIN / 8 + WARPS - 1) / WARPS;
constexpr int Q = COUT / 8, SUMS = 4 * Q;  // blocks of 8 columns, and sums of a thread, of one dy
constexpr int THEN_BLOCKS = THEN == 16 ? 2 : 1;
#if UPSAMPLED
constexpr int LOW_AT = MIDDLE_AT, ROWS = 1;
constexpr bool BRANCHES = false;
#include <upsample.cuh>
constexpr int BEHIND = LOW_ROWS * LOW_ROW;
#else
constexpr int BEHIND = BOTTLENECK ? 2 * MIDDLE : 0;
#endif
static_assert(SHARED == MIDDLE_AT + BEHIND, "window.py counts shared memory otherwise");

#include <wgmma_rows.cuh>

// ---- the 1x1 before it ---------------------------------------------------------------------------------

// Two channels of a pixel of the bottleneck, in block `block` of 8; outside of the image, its border.
DEV void store_middle(u32 to, int block, int pixel, bool inside, float low, float high, u32 border) {
  store_shared(to + block * PLANE + pixel * 16 + (threadIdx.x & 3) * 4, inside ? leaky_pair(low, high) : border);
}

// The MORE pixels to the right of all warpgroups, by mma.sync; each warp some blocks of 8 channels.
DEV void bottleneck_right(const Arguments& a, const Strip& s, u32 base, u32 from, u32 to, bool known, const u32 (&border)[RIGHT]) {
  constexpr int FIRST = TILE + MORE - 8;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int i = 0; i < RIGHT; ++i) {
    const int block = (threadIdx.x >> 5) + i * WARPS;
    if (block >= CIN / 8) break;
    float d[4] = {0, 0, 0, 0}, bias[2];
    load_shared(bias, base + BIAS_AT + block * 32 + t * 8);
    d[0] = bias[0], d[1] = bias[1];
#pragma unroll
    for (int k = 0; k < BEFORE_KS; ++k) {
      u32 p[2], b[2];
      // Rows 0 .. 7 of the product are pixels FIRST .. TILE + MORE - 1; rows 8 .. 15 are not used.
      load_matrices(p, from + (2 * k + (lane >> 3 & 1)) * PLANE + (FIRST + (lane & 7)) * 16);
      load_matrices(b, base + BEFORE_AT + ((2 * k + (lane >> 3 & 1)) * CIN + block * 8 + (lane & 7)) * 16);
      const u32 pixels[4] = {p[0], 0, p[1], 0};
      mma_dense(d, pixels, b);
    }
    const int pixel = FIRST + g;
    if (pixel >= TILE) store_middle(to, block, pixel, known && s.x0 - PAD + pixel < a.width, d[0], d[1], border[i]);
  }
}

#include <wgmma_store.cuh>

KERNEL(window_wgmma, THREADS, RESIDENT)(const Arguments a) {
  SHARED_BASE(base);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = threadIdx.x >> 7, g = lane >> 2, t = lane & 3;
  const Strip s = strip_of_block(a, TILE);
  const int rows = s.rows + MORE;
  copy_region<THREADS>(base, a.weights, BEFORE_AT);
  if constexpr (BOTTLENECK) {
    copy_region<THREADS>(base + BEFORE_AT, a.bottleneck_weights, BIAS_AT - BEFORE_AT);
    copy_region<THREADS>(base + BIAS_AT, a.bottleneck_bias, CIN * 4);
  }
  Loader rows_of = loader(a, s);
#if UPSAMPLED
  Low low = low_rows(a, s);
  load_low<LOW_ROWS>(a, low, base, low.next, true);
  Mixer mixed = mixer(a, s, low.left);
  const Right right = right_of(a, s, mixed, 0);
  Between rows_of_next;
  auto upsample = [&](int r, int slot) { mix_row<16, PLANE>(a, s, right, mixed, base, base + RING_AT + slot * ROW, s.y0 - PAD + r, rows_of_next); };
#endif
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    load_row(a, rows_of, base + RING_AT + i * ROW, i < rows);
    copy_commit();
  }
  Then then;
  if constexpr (THEN) load_then(a, then);
  u32 border[BOTTLENECK ? CIN / 8 : 1] = {}, border_right[RIGHT] = {};
  if constexpr (BOTTLENECK) {
#pragma unroll
    for (int block = 0; block < CIN / 8; ++block) border[block] = a.bottleneck_border[block * 4 + t];
#pragma unroll
    for (int i = 0; i < RIGHT; ++i)
      if (warp + i * WARPS < CIN / 8) border_right[i] = a.bottleneck_border[(warp + i * WARPS) * 4 + t];
  }
  float bias[2 * Q], sums[SIDE * SUMS], middle[BOTTLENECK ? CIN / 2 : 1];
#pragma unroll
  for (int i = 0; i < 2 * Q; ++i) bias[i] = a.bias[2 * Q * t + i];
#pragma unroll
  for (int i = 0; i < SIDE * SUMS; ++i) sums[i] = bias[i % SUMS / 4 * 2 + (i & 1)];
  const u64 weights = descriptor(base, COLUMNS * 16, 128), before = descriptor(base + BEFORE_AT, CIN * 16, 128);
  float image[2] = {0, 0};
  u32 done[2][Q] = {};  // a finished row, stored while the next one's products run
  int arrived = 0, slot = 0;
  // Of the bottleneck's products, pixels g and g + 8 of this warp's 16.
  const int left = warp * 16 + g;
  auto put = [&](int r) {
#pragma unroll
    for (int i = 0; i < CIN / 2; ++i) wgmma_arrived(middle[BOTTLENECK ? i : 0]);
    const bool known = (u32)(s.y0 - PAD + r) < (u32)a.height;
    const u32 to = base + MIDDLE_AT + (r & 1) * MIDDLE;
    const bool first = known && (u32)(s.x0 - PAD + left) < (u32)a.width, second = known && (u32)(s.x0 - PAD + 8 + left) < (u32)a.width;
#pragma unroll
    for (int block = 0; block < CIN / 8; ++block) {
      store_middle(to, block, left, first, middle[4 * block], middle[4 * block + 1], border[block]);
      store_middle(to, block, left + 8, second, middle[4 * block + 2], middle[4 * block + 3], border[block]);
    }
  };
  auto arrive = [&] {  // row `arrived` is there, and the middle row before it
    copy_wait<STAGES - 2>();
    fence_async();
    __syncthreads();
    if constexpr (BOTTLENECK) {
#pragma unroll
      for (int block = 0; block < CIN / 8; ++block) {
        float b[2];
        load_shared(b, base + BIAS_AT + block * 32 + t * 8);
        middle[4 * block] = middle[4 * block + 2] = b[0], middle[4 * block + 1] = middle[4 * block + 3] = b[1];
      }
    }
  };
  auto bottleneck = [&] {
    const u64 pixels = descriptor(base + RING_AT + slot * ROW + group * 1024, PLANE, 128);
#pragma unroll
    for (int k = 0; k < BEFORE_KS; ++k) Wgmma<CIN>::multiply(middle, pixels + 2 * k * PLANE / 16, before + 2 * k * CIN);
    wgmma_commit();
  };
  auto fetch = [&] {  // while products run
    const int later = arrived + STAGES - 1, free_slot = slot == 0 ? STAGES - 1 : slot - 1;
    load_row(a, rows_of, base + RING_AT + free_slot * ROW, later < rows);
#if UPSAMPLED
    rows_of_next = rows_between(a, s.y0 - PAD + 1 + arrived);
    load_low<NEW_ROWS>(a, low, base, rows_of_next.first, later < rows);
#endif
    copy_commit();
    if constexpr (BOTTLENECK)
      bottleneck_right(a, s, base, base + RING_AT + slot * ROW, base + MIDDLE_AT + (arrived & 1) * MIDDLE, (u32)(s.y0 - PAD + arrived) < (u32)a.height, border_right);
    slot = slot == STAGES - 1 ? 0 : slot + 1;
    ++arrived;
  };
#if UPSAMPLED
  copy_wait<STAGES - 2>();
  __syncthreads();
  rows_of_next = rows_between(a, s.y0 - PAD);
  mix_first(a, right, mixed, base, s.y0 - PAD);
  upsample(0, 0);
#endif
  if constexpr (BOTTLENECK) {
    arrive();
    wgmma_fence();
    bottleneck();
    fetch();
    wgmma_wait<0>();
    put(0);
  }
#pragma unroll 1
  for (int r = 0; r < rows; ++r) {  // one input row into SIDE output rows; with a bottleneck, that of the next row
    if constexpr (RESIDUAL) load_image(a, s, image, s.y0 + r - SIDE, r >= SIDE);
    arrive();
    const u32 from = BOTTLENECK ? base + MIDDLE_AT + (r & 1) * MIDDLE : base + RING_AT + slot * ROW;
    const u64 pixels = descriptor(from + group * 1024, PLANE, 128);
    wgmma_fence();
    if constexpr (BOTTLENECK) bottleneck();
#pragma unroll
    for (int dx = 0; dx < SIDE; ++dx)
#pragma unroll
      for (int k = 0; k < KS; ++k)
        Wgmma<COLUMNS>::multiply(sums, pixels + (2 * k * PLANE + dx * 16) / 16, weights + (dx * KS + k) * 2 * COLUMNS);
    wgmma_commit();
    const int next = arrived;
    fetch();
    store_row(a, s, done, then, image, s.y0 + r - SIDE, r >= SIDE);
#if UPSAMPLED
    upsample(arrived, slot);
#endif
    if constexpr (BOTTLENECK) {
      wgmma_wait<1>();
      put(next);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < SIDE * SUMS; ++i) wgmma_arrived(sums[i]);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int q = 0; q < Q; ++q) done[h][q] = leaky_pair(sums[MORE * SUMS + 4 * q + 2 * h], sums[MORE * SUMS + 4 * q + 2 * h + 1]);
#pragma unroll
    for (int i = SIDE * SUMS - 1; i >= SUMS; --i) sums[i] = sums[i - SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) sums[i] = bias[i / 4 * 2 + (i & 1)];
  }
  if constexpr (RESIDUAL) load_image(a, s, image, s.y0 + s.rows - 1, true);
  store_row(a, s, done, then, image, s.y0 + s.rows - 1, true);
}
