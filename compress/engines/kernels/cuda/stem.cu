// 7x7 convolution of one channel, stride 1, 16 output channels, by mma.sync (compute capability 8.0 and newer); and where
// POOL the max-pool 3x3 / 2 of what it stores, which lies in registers and need not be read again.
//
//   product: (16 pixels x 16: eight taps of two rows) (16 x 8 output channels), twice for 16 channels, and one of a single
//            row; the eighth tap has a weight of zero
//   pixels:  rows g and g + 8 of a product are the neighbours 2 g and 2 g + 1, so a thread holds both pixels, with four
//            neighbouring channels of each
//   rows:    in pairs, which are the same for both output rows of a step, so that nothing is moved between registers:
//            the upper one has the products 0 1 | 2 3 | 4 5 | 6, the lower one 0 | 1 2 | 3 4 | 5 6
//
// A warp computes BLOCKS x 16 columns and slides down a strip, two output rows a step: four pairs of rows lie in registers,
// each read once, and the next ones while this step's products run, in a ring of RING pairs. With POOL a warp's first two
// columns are the last ones of the warp to its left: computed again, because the pooled column behind them needs the
// second one, and not stored. Likewise the row above a strip.
#include <parameters.cuh>
#include <arguments.cuh>

constexpr int THREADS = 32 * WARPS, AGAIN = POOL ? 2 : 0, COLUMNS = BLOCKS * 16 - AGAIN, HELD = 4, RING = HELD + ROWS / 2;

struct Channels {  // four of one pixel
  u32 v[2];
};
DEV u64 joined(const Channels& c) { return c.v[0] | (u64)c.v[1] << 32; }

struct Weights {
  u32 upper[3][2][2], lower[3][2][2];  // by product, half of the channels, row; lower begins with row 1
  float bias[2][2];
};

// LeakyReLU of the sums of 16 pixels, by pixel.
DEV void store_sums(Channels (&found)[2], const float (&d)[2][4]) {
#pragma unroll
  for (int j = 0; j < 2; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) found[j].v[half] = leaky_pair(d[half][2 * j], d[half][2 * j + 1]);
}
// An output row from four pairs of rows: from their first row on, or from their second one.
DEV void convolve_upper(Channels (&found)[2], const Weights& w, const Quad& p, const Quad& q, const Quad& r, const Quad& s) {
  float d[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mma_columns(d[half], p.v, w.upper[0][half], w.bias[half]);
    mma_dense(d[half], q.v, w.upper[1][half]);
    mma_dense(d[half], r.v, w.upper[2][half]);
    mma_dense8(d[half], s.v, w.lower[2][half][1]);
  }
  store_sums(found, d);
}
DEV void convolve_lower(Channels (&found)[2], const Weights& w, const Quad& p, const Quad& q, const Quad& r, const Quad& s) {
  float d[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mma_columns(d[half], q.v, w.lower[0][half], w.bias[half]);
    mma_dense(d[half], r.v, w.lower[1][half]);
    mma_dense(d[half], s.v, w.lower[2][half]);
    mma_dense8(d[half], p.v + 2, w.upper[0][half][0]);
  }
  store_sums(found, d);
}

// Lanes t and t + 1 share two pixels: the even one's eight channels of the first pixel, the odd one's of the second.
DEV Quad exchanged(const Channels (&c)[2], int lane) {
  const bool odd = lane & 1;
  Quad found;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const u32 got = shuffle(odd ? c[0].v[half] : c[1].v[half], lane ^ 1);
    found.v[half] = odd ? got : c[0].v[half], found.v[2 + half] = odd ? c[1].v[half] : got;
  }
  return found;
}

#if POOL
constexpr u32 LOWEST = 0xFC00FC00;  // minus infinity, twice

DEV Channels larger(const Channels& p, const Channels& q) {
  return {larger_halves(p.v[0], q.v[0]), larger_halves(p.v[1], q.v[1])};
}
#endif

template <int AT> struct Place {
  static constexpr int at = AT;
};
// The steps of one turn of the ring, until one of them ends the strip; a loop is not always unrolled.
template <int AT, class Step> DEV bool turn(Step& step) {
  if constexpr (AT == RING) return true;
  else return step(Place<AT>{}) && turn<AT + 1>(step);
}

KERNEL(stem, THREADS, RESIDENT)(const Arguments a) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const Strip s = strip_of_block(a, WARPS * COLUMNS);
  const int left = s.x0 + (threadIdx.x >> 5) * COLUMNS;
  if (left > 0 && left + AGAIN >= a.width) return;
  Weights w;
#pragma unroll
  for (int p = 0; p < 3; ++p) {
    const Quad upper = a.weights[p * 32 + lane], lower = a.weights[(3 + p) * 32 + lane];
#pragma unroll
    for (int i = 0; i < 4; ++i) w.upper[p][i & 1][i >> 1] = upper.v[i], w.lower[p][i & 1][i >> 1] = lower.v[i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) w.bias[i >> 1][i & 1] = a.bias[4 * t + i];

  // The image's first pixel is the upper half of a word, see memory.py. Behind its last one come three columns and three
  // rows of the frame that count; what is read beyond is memory of the same slice's frame, and of no pixel that is stored.
  const u16* from = a.x + s.n * a.x_slice + (long long)(s.y0 - 3) * a.x_row + left + 2 * (g + t) - 3;
  auto load = [&](Quad& pair, int block, int row) {
    const u16* at = from + row * a.x_row + block * 16;
    const u32 first = load_word(at), second = load_word(at + 2);
    pair.v[row & 1 ? 2 : 0] = first, pair.v[row & 1 ? 3 : 1] = first >> 16 | second << 16;
  };
  auto load_pair = [&](Quad (&pair)[BLOCKS]) {
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) load(pair[block], block, row);
    from += 2 * a.x_row;
  };
  Quad rows[RING][BLOCKS];
#if POOL
  Channels best[BLOCKS][2];  // the largest of each column, of the rows that belong to the next pooled row
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) load(rows[HELD][block], block, -1);
#endif
#pragma unroll
  for (int i = 0; i < HELD; ++i) load_pair(rows[i]);
#if POOL
#pragma unroll
  for (int block = 0; block < BLOCKS; ++block) {
    convolve_lower(best[block], w, rows[HELD][block], rows[0][block], rows[1][block], rows[2][block]);
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (s.y0 == 0) best[block][j] = {LOWEST, LOWEST};
  }
  u16* pooled = (u16*)a.pooled + s.n * a.pooled_slice + (long long)(s.y0 / 2) * a.pooled_row + (left / 2 + g) * POOL_PIXEL + 4 * t;
#endif
#pragma unroll
  for (int i = HELD; i < RING - 1; ++i) load_pair(rows[i]);
  const int pixel = WIDE ? t & 1 : 0, channel = WIDE ? t / 2 * 8 : 4 * t;
  u16* to = (u16*)a.y + s.n * a.y_slice + (long long)s.y0 * a.y_row + (left + 2 * g + pixel) * Y + channel;
  int y = 0;
  auto step = [&](auto place) {
    constexpr int at = decltype(place)::at;
    if (y >= s.rows) return false;
    load_pair(rows[(at + RING - 1) % RING]);
    auto pair = [&](int i, int block) -> const Quad& { return rows[(at + i) % RING][block]; };
    const bool both = y + 1 < s.rows;  // the image may end between them
#if POOL
    Channels before = {LOWEST, LOWEST};  // of the 16 columns to the left
#endif
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const int x = left + block * 16 + 2 * g;
      const bool own = !POOL || block > 0 || g > 0 || left == 0, stored[2] = {own && x < a.width, own && x + 1 < a.width};
      Channels upper[2], lower[2];
      convolve_upper(upper, w, pair(0, block), pair(1, block), pair(2, block), pair(3, block));
      convolve_lower(lower, w, pair(0, block), pair(1, block), pair(2, block), pair(3, block));
      if constexpr (WIDE) {
        const Quad first = exchanged(upper, lane), second = exchanged(lower, lane);
        const bool mine = own && x + pixel < a.width;
        if (mine) store_global(to + block * 16 * Y, first);
        if (mine && both) store_global(to + a.y_row + block * 16 * Y, second);
      } else {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (stored[j]) store_global(to + (block * 16 + j) * Y, joined(upper[j]));
          if (stored[j] && both) store_global(to + a.y_row + (block * 16 + j) * Y, joined(lower[j]));
        }
      }
#if POOL
      Channels largest[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        largest[j] = larger(best[block][j], upper[j]);
        if (both) largest[j] = larger(largest[j], lower[j]);
        best[block][j] = lower[j];
      }
      Channels beside;  // the odd column to the left
#pragma unroll
      for (int half = 0; half < 2; ++half) beside.v[half] = shuffle(g == 7 ? before.v[half] : largest[1].v[half], lane - 4);
      before = largest[1];
      Channels result = larger(largest[0], beside);
      if (x + 1 < a.width) result = larger(result, largest[1]);
      if (stored[0]) store_global(pooled + block * 8 * POOL_PIXEL, joined(result));
#endif
    }
    to += 2 * a.y_row, y += 2;
#if POOL
    pooled += a.pooled_row;
#endif
    return true;
  };
  while (turn<0>(step)) {
  }
}
