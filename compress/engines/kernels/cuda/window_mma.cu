// 5x5 convolution, stride 1, by mma.sync (dense) or mma.sp (2:4), compute capability 8.0 and newer.
//
// A warp computes BLOCKS x 8 neighbouring columns and slides down a strip of rows: the products of an
// input row belong to five output rows, whose sums stay in registers and move on by one row per input
// row. So each fragment of pixels is read once per dx and used for all five dy, and no zero is multiplied.
//
//   product: (16 output channels x K input channels of one tap) (K channels x 8 pixels), K = 16; 32 if 2:4
//   shared memory: | weights | metadata | 1x1 before | its bias | 1x1 behind | ring | middle |
//   ring: STAGES steps of ROWS input rows of PIXELS = TILE + 4 pixels; a pixel takes its channels and 16
//         bytes more, an odd number of 16 bytes, so that ldmatrix meets each bank once
//   middle: with BOTTLENECK, the same rows behind the 1x1 and LeakyReLU, twice: one row is written
//         while the other is read
//
// Rows g and g + 8 of a product are channels 2 g and 2 g + 1 (fragments.py orders weights so): a thread's
// two values for a pixel are neighbours in memory.
#include <parameters.cuh>
#include <arguments.cuh>

constexpr int THREADS = 32 * WARPS, TILE = WARPS * BLOCKS * 8, PIXELS = TILE + 4;
constexpr bool PAIRED = SPARSE && CIN == 16;  // K = 32 is two taps of 16 channels
constexpr int K = SPARSE && !PAIRED ? 32 : 16, KS = CIN / K, MS = COUT / 16;
constexpr int PITCH = 2 * CIN + 16, SOURCE = BOTTLENECK ? BOTTLENECK : CIN, SOURCE_PITCH = 2 * SOURCE + 16;
constexpr int FRAGMENTS = PAIRED ? 13 : 25 * KS * MS, WORDS_DX = (5 * KS * MS + 1) / 2;
constexpr int WORDS = !SPARSE ? 0 : PAIRED ? 7 : 5 * WORDS_DX;
constexpr int STAGE = ROWS * PIXELS * SOURCE_PITCH, MIDDLE = ROWS * PIXELS * PITCH;
constexpr int METADATA_AT = IN_REGISTERS ? 0 : FRAGMENTS * 512;
constexpr int BEFORE_AT = METADATA_AT + (IN_REGISTERS ? 0 : WORDS * 128);
constexpr int BEFORE_KS = SOURCE / 16, BEFORE_MS = CIN / 16;
constexpr int BIAS_AT = BEFORE_AT + (BOTTLENECK ? BEFORE_KS * BEFORE_MS * 512 : 0);
constexpr int THEN_AT = BIAS_AT + (BOTTLENECK ? CIN * 4 : 0);
constexpr int RING_AT = THEN_AT + (THEN == 16 ? MS * 512 : 0), MIDDLE_AT = RING_AT + STAGES * STAGE;
static_assert(SHARED == MIDDLE_AT + (BOTTLENECK ? 2 * MIDDLE : 0), "shapes.py counts shared memory otherwise");
static_assert(!IN_REGISTERS || (ROWS == 1 && MS == 1), "weights in registers: one row, 16 output channels");
static_assert(!PAIRED || IN_REGISTERS, "");
static_assert(BLOCKS % 2 == 0 && 4 % ROWS == 0, "");

struct Weights {
  u32 a[IN_REGISTERS ? FRAGMENTS : 1][4], metadata[IN_REGISTERS && SPARSE ? WORDS : 1];
};
struct Window {
  float sums[ROWS + 4][BLOCKS][MS][4];  // [e]: output row e - 4 below the first input row of the step
  float bias[MS][2];
  u32 before[BLOCKS][2];                // PAIRED: fragments of dx = 4 of the row before
};

struct Then {
  float weights[MS][2], bias[2];  // of channels 2 g and the next; the weights where there is one output channel
};

DEV void multiply(float (&d)[4], const u32 (&w)[4], const u32* b, u32 metadata, int select) {
  if constexpr (!SPARSE) mma_dense(d, w, b);
  else if (select) mma_sparse<1>(d, w, b, metadata);
  else mma_sparse<0>(d, w, b, metadata);
}

// What a thread copies of each input row: eight channels of some pixels.
struct Loader {
  const u16* from;  // its first piece of the next row
  u32 to, inside;   // where that goes in a row; bit i: its piece i lies in the image or its frame
  int y;            // the next row
};
constexpr int PIECES = SOURCE / 8, APART = THREADS / PIECES, COPIES = (PIXELS + APART - 1) / APART;

DEV Loader loader(const Arguments& a, const Strip& s) {
  const int pixel = threadIdx.x / PIECES, c = threadIdx.x % PIECES;
  Loader l = {a.x + s.n * a.x_slice + (long long)(s.y0 - 2) * a.x_row + (s.x0 - 2 + pixel) * X + c * 8, (u32)(pixel * SOURCE_PITCH + c * 16), 0, s.y0 - 2};
#pragma unroll
  for (int i = 0; i < COPIES; ++i)
    if (s.x0 + pixel + i * APART < a.width + 4) l.inside |= 1u << i;
  return l;
}
// The rows of one step; zeros outside of the frame, which holds two rows and columns more than the image.
DEV void load_rows(const Arguments& a, Loader& l, u32 to) {
  const int pixel = threadIdx.x / PIECES;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const u32 inside = l.y < a.height + 2 ? l.inside : 0;
#pragma unroll
    for (int i = 0; i < COPIES; ++i)
      copy16(to + l.to + (r * PIXELS + i * APART) * SOURCE_PITCH, l.from + i * APART * X, inside >> i & 1 ? 16 : 0,
             pixel < APART && pixel + i * APART < PIXELS);
    l.from += a.x_row;
    ++l.y;
  }
}

// ---- the 1x1 before the 5x5 ----------------------------------------------------------------------------

// COUNT blocks of 8 pixels from `first` on, of one row: 1x1, LeakyReLU, float16; the border outside of the image.
template <int COUNT> DEV void bottleneck_blocks(const Arguments& a, const Strip& s, const u32 (&border)[BEFORE_MS], u32 base, u32 from, u32 to, int first, int y) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  u32 b[BEFORE_KS][COUNT][2];
#pragma unroll
  for (int k = 0; k < BEFORE_KS; ++k) {
    if constexpr (COUNT == 1) load_matrices(b[k][0], from + (first + (lane & 7)) * SOURCE_PITCH + (lane >> 3 & 1) * 16 + k * 32);
    else
#pragma unroll
      for (int block = 0; block < COUNT; block += 2) {
        u32 r[4];
        load_matrices(r, from + (first + block * 8 + (lane >> 4) * 8 + (lane & 7)) * SOURCE_PITCH + (lane >> 3 & 1) * 16 + k * 32);
        b[k][block][0] = r[0], b[k][block][1] = r[1], b[k][block + 1][0] = r[2], b[k][block + 1][1] = r[3];
      }
  }
  float d[BEFORE_MS][COUNT][4];
#pragma unroll
  for (int m = 0; m < BEFORE_MS; ++m) {
    float bias[2];
    load_shared(bias, base + BIAS_AT + m * 64 + g * 8);
#pragma unroll
    for (int k = 0; k < BEFORE_KS; ++k) {
      u32 w[4];
      load_shared(w, base + BEFORE_AT + (m * BEFORE_KS + k) * 512 + lane * 16);
#pragma unroll
      for (int block = 0; block < COUNT; ++block)
        if (k == 0) mma_dense(d[m][block], w, b[k][block], bias);
        else mma_dense(d[m][block], w, b[k][block]);
    }
  }
  const bool known = (u32)y < (u32)a.height;  // stores come last: the compiler moves no load across them
#pragma unroll
  for (int block = 0; block < COUNT; ++block)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pixel = first + block * 8 + 2 * t + i;
      const bool inside = known && (u32)(s.x0 - 2 + pixel) < (u32)a.width;
#pragma unroll
      for (int m = 0; m < BEFORE_MS; ++m) {
        const u32 value = inside ? leaky_pair(d[m][block][i], d[m][block][2 + i]) : border[m];
        if (COUNT > 1 || pixel < PIXELS) store_shared(to + pixel * PITCH + m * 32 + g * 4, value);
      }
    }
}

DEV void bottleneck(const Arguments& a, const Strip& s, const u32 (&border)[BEFORE_MS], u32 base, int slot, int step) {
  const int warp = threadIdx.x >> 5;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const u32 from = base + RING_AT + slot * STAGE + i * PIXELS * SOURCE_PITCH;
    const u32 to = base + MIDDLE_AT + (step & 1) * MIDDLE + i * PIXELS * PITCH;
    const int y = s.y0 - 2 + step * ROWS + i;
    bottleneck_blocks<BLOCKS>(a, s, border, base, from, to, warp * BLOCKS * 8, y);
    if (warp == i % WARPS) bottleneck_blocks<1>(a, s, border, base, from, to, TILE, y);  // the four pixels to the right
  }
}

// ---- the 5x5 -------------------------------------------------------------------------------------------

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

// One input row into output rows low .. high, or ALL, where K = 32 is two taps: dx 0 and 1, dx 2 and 3; of dx 4 the
// rows dy 0 and 1, dy 2 and 3, and dy 4 alone.
template <bool ALL> DEV void products_paired(Window& w, const Weights& weights, u32 row, int low, int high) {
  u32 first[BLOCKS][4], second[BLOCKS][4], last[BLOCKS][4];
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) {
    u32 r[2];
    load_matrices(first[block], row + block * 8 * PITCH);
    load_matrices(second[block], row + (block * 8 + 2) * PITCH);
    load_matrices(r, row + (block * 8 + 4) * PITCH);
    last[block][0] = w.before[block][0], last[block][1] = w.before[block][1];
    last[block][2] = w.before[block][0] = r[0], last[block][3] = w.before[block][1] = r[1];
  }
#pragma unroll
  for (int e = 0; e < 5; ++e) {
    if (!ALL && (e < low || e > high)) continue;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const int dy = 4 - e;
      float(&d)[4] = w.sums[e][block][0];
      multiply(d, weights.a[2 * dy], first[block], weights.metadata[dy], 0);
      multiply(d, weights.a[2 * dy + 1], second[block], weights.metadata[dy], 1);
      if (dy == 1) multiply(d, weights.a[10], last[block], weights.metadata[5], 0);
      if (dy == 3) multiply(d, weights.a[11], last[block], weights.metadata[5], 1);
      if (dy == 4) multiply(d, weights.a[12], last[block], weights.metadata[6], 0);
    }
  }
}

// ROWS input rows, shift dx, into output rows low .. high, or ALL. The topmost output row comes first (dy = 4), so
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
    for (int dy = 4; dy >= 0; --dy)
#pragma unroll
      for (int m = 0; m < MS; ++m) {
        const int j = (k * 5 + dy) * MS + m;
        u32 a[4];
        if constexpr (IN_REGISTERS) {
          const u32(&kept)[4] = weights.a[dx * 5 * KS * MS + j];
          a[0] = kept[0], a[1] = kept[1], a[2] = kept[2], a[3] = kept[3];
        } else load_shared(a, base + (dx * 5 * KS * MS + j) * 512 + lane * 16);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const int e = i - dy + 4;
          if (!ALL && (e < low || e > high)) continue;
#pragma unroll
          for (int block = 0; block < BLOCKS; ++block) multiply(w.sums[e][block][m], a, b[i][block], metadata[SPARSE ? j / 2 : 0], j & 1);
        }
      }
  }
}

template <bool ALL> DEV void products(Window& w, const Weights& weights, u32 base, u32 rows, int low, int high) {
#pragma unroll
  for (int e = 4; e < ROWS + 4; ++e)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int m = 0; m < MS; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) w.sums[e][block][m][i] = w.bias[m][i >> 1];
  if constexpr (PAIRED) products_paired<ALL>(w, weights, rows, low, high);
  else if constexpr (IN_REGISTERS) {
#pragma unroll
    for (int dx = 0; dx < 5; ++dx) products_dx<ALL>(w, weights, base, rows, dx, low, high);
  } else {
#pragma unroll 1
    for (int dx = 0; dx < 4; ++dx) products_dx<ALL>(w, weights, base, rows, dx, low, high);
    products_dx<ALL>(w, weights, base, rows, 4, low, high);
  }
}

// ---- what follows --------------------------------------------------------------------------------------

// Two channels of a pixel: d[0], d[2] of column 2 t; d[1], d[3] of the next.
DEV void store_pixels(u16* row, int x, int width, const float (&d)[4], bool activate) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (x + i < width)
      *(u32*)(row + (long long)(x + i) * Y) = activate ? leaky_pair(d[i], d[2 + i]) : halves(d[i], d[2 + i]);
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

template <bool B> struct Bool {
  static constexpr bool value = B;
};

DEV void copy_region(u32 to, const void* from, int bytes) {
  for (int at = threadIdx.x * 16; at < bytes; at += THREADS * 16) copy16(to + at, (const char*)from + at, 16, true);
}

KERNEL(window_mma, THREADS, RESIDENT)(const Arguments a) {
  SHARED_BASE(base);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2;
  const Strip s = strip_of_block(a, TILE);
  const int steps = (s.rows + 4 + ROWS - 1) / ROWS;
  if constexpr (!IN_REGISTERS) {
    copy_region(base, a.weights, FRAGMENTS * 512);
    if constexpr (SPARSE) copy_region(base + METADATA_AT, a.metadata, WORDS * 128);
  }
  if constexpr (BOTTLENECK) {
    copy_region(base + BEFORE_AT, a.bottleneck_weights, BEFORE_KS * BEFORE_MS * 512);
    copy_region(base + BIAS_AT, a.bottleneck_bias, CIN * 4);
  }
  if constexpr (THEN == 16) copy_region(base + THEN_AT, a.then_weights, MS * 512);
  Loader rows_of = loader(a, s);
#pragma unroll
  for (int i = 0; i < STAGES - 1; ++i) {
    if (i < steps) load_rows(a, rows_of, base + RING_AT + i * STAGE);
    copy_commit();
  }
  Weights weights;
  if constexpr (IN_REGISTERS) {
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
  Window w;
#pragma unroll
  for (int m = 0; m < MS; ++m) w.bias[m][0] = a.bias[m * 16 + 2 * g], w.bias[m][1] = a.bias[m * 16 + 2 * g + 1];
  Then then = {};
  if constexpr (THEN == 16) then.bias[0] = a.then_bias[2 * g], then.bias[1] = a.then_bias[2 * g + 1];
  if constexpr (THEN == 1) {
    then.bias[0] = a.then_bias[0];
#pragma unroll
    for (int m = 0; m < MS; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) then.weights[m][i] = ((const float*)a.then_weights)[m * 16 + 2 * g + i];
  }
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) {
    w.before[block][0] = w.before[block][1] = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e)
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
  int step = 0, arrived = 0, slot = 0;
  auto arrive = [&] {  // the rows of step `arrived` are there; the fetch of later ones begins
    copy_wait<STAGES - 2>();
    __syncthreads();
    const int later = arrived + STAGES - 1, free_slot = slot == 0 ? STAGES - 1 : slot - 1;
    if (later < steps) load_rows(a, rows_of, base + RING_AT + free_slot * STAGE);
    copy_commit();
    if (BOTTLENECK && arrived < steps) bottleneck(a, s, border, base, slot, arrived);
  };
  auto leave = [&] {
    slot = slot == STAGES - 1 ? 0 : slot + 1;
    ++arrived;
  };
  auto body = [&](auto all, int low, int high) {
    constexpr bool ALL = decltype(all)::value;
    float image[ROWS] = {};
    if constexpr (RESIDUAL) {
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        const int y = step * ROWS - 4 + i;
        image[i] = load_image(a, s, s.y0 + y, y >= 0 && y < s.rows);
      }
    }
    arrive();
    const u32 rows = base + mine + (BOTTLENECK ? MIDDLE_AT + (step & 1) * MIDDLE : RING_AT + slot * STAGE);
    products<ALL>(w, weights, base, rows, low, high);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const int y = step * ROWS - 4 + i;
      if ((ALL || low == 0) && y < s.rows) store_row(a, s, w.sums[i], then, image[i], base, s.y0 + y);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e)
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
        for (int m = 0; m < MS; ++m)
#pragma unroll
          for (int i = 0; i < 4; ++i) w.sums[e][block][m][i] = w.sums[e + ROWS][block][m][i];
    leave();
    ++step;
  };
  if constexpr (BOTTLENECK) arrive(), leave();
  // The first and the last steps of a strip leave out the products of rows above and below it.
  const int full = (s.rows + ROWS - 1) / ROWS, last = full + 4 / ROWS;
  auto part = [&] { body(Bool<false>{}, max(4 - step * ROWS, 0), min(ROWS + 3, (last - step) * ROWS - 1)); };
#pragma unroll 1
  while (step * ROWS < 4) part();
#pragma unroll 1
  while (step < full) body(Bool<true>{}, 0, ROWS + 3);
#pragma unroll 1
  while (step < last) part();
}
