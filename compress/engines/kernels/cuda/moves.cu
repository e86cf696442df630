// Max-pool 3x3 / 2 and bilinear x2 of NHWC float16. A thread owns eight channels of one output column and slides
// down a strip of rows, so that what two output rows share is read and combined once.
#include <parameters.cuh>
#include <bilinear.cuh>

constexpr int THREADS = 256, PIECES = CHANNELS / 8;

struct Arguments {
  const u16* x;                // channel 0 of pixel (0, 0) of slice 0; X values a pixel
  u16* y;                      // likewise; Y values a pixel
  long long x_slice, y_slice;  // values from slice to slice
  int x_row, y_row;            // and from row to row
  int height, width, high, wide;  // of x and of y
  int strip;                   // rows of y that a block computes
  float ratio_y, ratio_x;      // rows of x per row of y, columns of x per column of y
};

// Where a thread works: eight channels from c on, column x, rows y0 .. y1 - 1 of slice n.
struct Place {
  int n, c, x, y0, y1;
};
DEV Place place(const Arguments& a) {
  const int across = (a.wide * PIECES + THREADS - 1) / THREADS, down = (a.high + a.strip - 1) / a.strip, at = blockIdx.x;
  const int piece = at % across * THREADS + threadIdx.x, y0 = at / across % down * a.strip;
  return {at / (across * down), piece % PIECES * 8, piece / PIECES, y0, min(y0 + a.strip, a.high)};
}

#if POOL
constexpr u32 LOWEST = 0xFC00FC00;  // minus infinity, twice

DEV Quad larger(const Quad& p, const Quad& q) {
  Quad r;
#pragma unroll
  for (int i = 0; i < 4; ++i) r.v[i] = larger_halves(p.v[i], q.v[i]);
  return r;
}

// The largest of three columns of input row y; what lies outside of the image is no candidate.
DEV Quad row_maximum(const Arguments& a, const Place& p, const u16* column, int y) {
  Quad best = {LOWEST, LOWEST, LOWEST, LOWEST};
  const bool known = (u32)y < (u32)a.height;
#pragma unroll
  for (int i = -1; i < 2; ++i)
    if (known && (u32)(2 * p.x + i) < (u32)a.width) best = larger(best, load_global(column + (long long)y * a.x_row + i * X));
  return best;
}

KERNEL(move, THREADS, 1)(const Arguments a) {
  const Place p = place(a);
  if (p.x >= a.wide) return;
  const u16* column = a.x + p.n * a.x_slice + 2 * p.x * X + p.c;
  u16* to = a.y + p.n * a.y_slice + p.x * Y + p.c;
  Quad above = row_maximum(a, p, column, 2 * p.y0 - 1);
#pragma unroll 2
  for (int y = p.y0; y < p.y1; ++y) {
    const Quad middle = row_maximum(a, p, column, 2 * y), below = row_maximum(a, p, column, 2 * y + 1);
    store_global(to + (long long)y * a.y_row, larger(larger(above, middle), below));
    above = below;
  }
}
#else
// Eight channels of input row y, mixed between two columns.
DEV void mix_columns(float (&mixed)[8], const u16* left, const u16* right, float part) {
  const Quad p = load_global(left), q = load_global(right);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float a = low_half(p.v[i]), b = high_half(p.v[i]);
    mixed[2 * i] = mix(a, low_half(q.v[i]), part), mixed[2 * i + 1] = mix(b, high_half(q.v[i]), part);
  }
}

KERNEL(move, THREADS, 1)(const Arguments a) {
  const Place p = place(a);
  if (p.x >= a.wide) return;
  const Between columns = between(p.x, a.ratio_x, a.width);
  const int left = columns.first * X, right = columns.second * X;
  const u16* from = a.x + p.n * a.x_slice + p.c;
  u16* to = a.y + p.n * a.y_slice + p.x * Y + p.c;
  float upper[8], lower[8];
  int held = -2;  // the input row in `upper`
  for (int y = p.y0; y < p.y1; ++y) {
    const Between rows = between(y, a.ratio_y, a.height);
    if (rows.first != held) {
      const u16 *row = from + (long long)rows.first * a.x_row, *next = from + (long long)rows.second * a.x_row;
      if (rows.first == held + 1)
#pragma unroll
        for (int i = 0; i < 8; ++i) upper[i] = lower[i];
      else mix_columns(upper, row + left, row + right, columns.part);
      mix_columns(lower, next + left, next + right, columns.part);
      held = rows.first;
    }
    Quad mixed;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      mixed.v[i] = halves(mix(upper[2 * i], lower[2 * i], rows.part), mix(upper[2 * i + 1], lower[2 * i + 1], rows.part));
    store_global(to + (long long)y * a.y_row, mixed);
  }
}
#endif
