// Bilinear x2 before a 5x5, for window_mma.cu and window_wgmma.cu: the first UPSAMPLED channels of its input, the upper
// ones of each pixel in the ring, come from a smaller image and never lie in global memory.
//
// Rows of the smaller image are copied once each, a step ahead of the other channels, into a ring of their own. Behind
// the barrier that says that they are there, all threads mix the rows of the next step, while this step's products run.
//
//   shared memory, from LOW_AT: [row % LOW_ROWS][plane of 8 channels][LOW_PIXELS][16 bytes]
#pragma once
#include <bilinear.cuh>

constexpr int LOW_PLANES = UPSAMPLED / 8, LOW_PIXELS = PIXELS / 2 + 2, LOW_ROWS = STAGES * ROWS / 2 + 2;
constexpr int LOW_PLANE = LOW_PIXELS * 16, LOW_ROW = LOW_PLANES * LOW_PLANE;
constexpr int LOW_EIGHTS = THREADS / 8 / LOW_PLANES, LOW_PIECES = (LOW_PIXELS + 8 * LOW_EIGHTS - 1) / (8 * LOW_EIGHTS);
constexpr int NEW_ROWS = (ROWS + 1) / 2;                // at most, of the smaller image for ROWS more of the larger one
constexpr int TOGETHER = THREADS / TILE, MIXED = (LOW_PLANES + TOGETHER - 1) / TOGETHER;
constexpr int WORDS_RIGHT = UPSAMPLED / 2;              // of a pixel
static_assert(THREADS % TILE == 0 && 4 * WORDS_RIGHT <= THREADS && 32 % WORDS_RIGHT == 0, "");

// What a thread copies of a row of the smaller image: eight threads write eight pixels of a plane.
struct Low {
  const u16* from;  // its first piece of the next row
  u32 to, inside;   // where that goes in a row; bit i: its piece i lies in the image
  int next;         // the next row
  int left;         // the first column in shared memory
};

DEV Low low_rows(const Arguments& a, const Strip& s) {
  const int eight = threadIdx.x >> 3, plane = eight % LOW_PLANES, pixel = (threadIdx.x & 7) + eight / LOW_PLANES * 8;
  const int left = between(max(s.x0 - 2, 0), a.ratio_x, a.low_width).first, next = between(max(s.y0 - 2, 0), a.ratio_y, a.low_height).first;
  Low l = {a.low + s.n * a.low_slice + (long long)next * a.low_row + (left + pixel) * LOW + plane * 8, (u32)(plane * LOW_PLANE + pixel * 16), 0, next, left};
#pragma unroll
  for (int i = 0; i < LOW_PIECES; ++i) {
    const int at = pixel + i * 8 * LOW_EIGHTS;
    if (eight < LOW_EIGHTS * LOW_PLANES && at < LOW_PIXELS && left + at < a.low_width) l.inside |= 1u << i;
  }
  return l;
}
DEV Between rows_between(const Arguments& a, int y) { return between(min(max(y, 0), a.height - 1), a.ratio_y, a.low_height); }
// Rows up to that for y, NEW_ROWS at most.
DEV void load_low(const Arguments& a, Low& l, u32 base, int y, bool wanted) {
  const int last = rows_between(a, y).second;
#pragma unroll
  for (int r = 0; r < NEW_ROWS; ++r) {
    const bool known = wanted && l.next <= last;
    const u32 to = base + LOW_AT + l.next % LOW_ROWS * LOW_ROW + l.to;
#pragma unroll
    for (int i = 0; i < LOW_PIECES; ++i) copy16(to + i * 8 * LOW_EIGHTS * 16, l.from + i * 8 * LOW_EIGHTS * LOW, 16, known && (l.inside >> i & 1));
    l.from += known ? a.low_row : 0;
    l.next += known;
  }
}
// All rows up to that for y, before the first step.
DEV void load_first_low(const Arguments& a, Low& l, u32 base, int y) {
  while (l.next <= rows_between(a, y).second) load_low(a, l, base, y, true);
}

// A column of the larger image between two of the smaller one.
struct Column {
  u32 left, right;  // their bytes in a plane in shared memory
  float part;
  bool inside;      // whether it lies in the image
};
DEV Column column(const Arguments& a, const Strip& s, int left, int pixel) {
  const int x = s.x0 - 2 + pixel;
  const Between b = between(min(max(x, 0), a.width - 1), a.ratio_x, a.low_width);
  return {(u32)(b.first - left) * 16, (u32)(b.second - left) * 16, b.part, (u32)x < (u32)a.width};
}

DEV int mixed_plane(int i) { return threadIdx.x / TILE + i * TOGETHER; }
// What a thread mixes of a row: eight channels of a pixel, MIXED times; of the four pixels to the right two channels.
struct Mixer {
  Column column;
  Quad border[BRANCHES ? 1 : MIXED];  // what lies outside of the image; with BRANCHES it is read where it is needed
  u32 border_right;
  int left;                           // as in Low
};
// The frame's values, by channel.
DEV const u16* frame(const Arguments& a, const Strip& s) { return a.x + s.n * a.x_slice - a.x_row - X; }
DEV Mixer mixer(const Arguments& a, const Strip& s, int left) {
  Mixer m = {column(a, s, left, threadIdx.x % TILE)};
  m.left = left;
  if constexpr (!BRANCHES) {
#pragma unroll
    for (int i = 0; i < MIXED; ++i) m.border[i] = load_global(frame(a, s) + min(mixed_plane(i), LOW_PLANES - 1) * 8);
    m.border_right = load_word(frame(a, s) + threadIdx.x % WORDS_RIGHT * 2, true);
  }
  return m;
}

// Eight channels of a pixel of MIXED planes, mixed between two columns: of the two rows of the smaller image that a row
// of the larger one lies between, the first one being row `first`. The next row of the larger one lies between the same
// two, or between the lower one and one more.
struct Held {
  float upper[MIXED][8], lower[MIXED][8];
  int first;
};

// Eight channels of the row of the smaller image at `row`.
DEV void mix_columns(float (&mixed)[8], u32 row, const Column& c) {
  u32 p[4], q[4];
  load_shared(p, row + c.left);
  load_shared(q, row + c.right);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    mixed[2 * i] = mix(low_half(p[i]), low_half(q[i]), c.part), mixed[2 * i + 1] = mix(high_half(p[i]), high_half(q[i]), c.part);
}
// Two channels between four pixels: upper left, upper right, lower left, lower right.
DEV u32 mix_pair(u32 p, u32 q, u32 r, u32 s, float x, float y) {
  return halves(mix(mix(low_half(p), low_half(q), x), mix(low_half(r), low_half(s), x), y),
                mix(mix(high_half(p), high_half(q), x), mix(high_half(r), high_half(s), x), y));
}

DEV u32 low_row(u32 base, int row) { return base + LOW_AT + row % LOW_ROWS * LOW_ROW; }

// The upper one, before row y.
DEV void hold(const Arguments& a, const Mixer& m, Held& held, u32 base, int y) {
  held.first = rows_between(a, y).first;
#pragma unroll
  for (int i = 0; i < MIXED; ++i) {
    mix_columns(held.upper[i], low_row(base, held.first) + min(mixed_plane(i), LOW_PLANES - 1) * LOW_PLANE, m.column);
#pragma unroll
    for (int j = 0; j < 8; ++j) held.lower[i][j] = held.upper[i][j];
  }
}

// Row y of the larger image into the row of the ring at `to`; `turn`: which warp begins with the pixels to the right.
template <int PIXEL_BYTES, int PLANE_BYTES> DEV void mix_row(const Arguments& a, const Strip& s, const Mixer& m, Held& held, u32 base, u32 to, int y, int turn) {
  const bool known = (u32)y < (u32)a.height;
  const Between b = rows_between(a, y);
  const bool moved = b.first != held.first;
  const u32 upper = low_row(base, b.first), lower = low_row(base, b.second);
  held.first = b.first;
#pragma unroll
  for (int i = 0; i < MIXED; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) held.upper[i][j] = moved ? held.lower[i][j] : held.upper[i][j];
    mix_columns(held.lower[i], lower + min(mixed_plane(i), LOW_PLANES - 1) * LOW_PLANE, m.column);
    Quad mixed;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float(&up)[8] = held.upper[i], (&low)[8] = held.lower[i];
      mixed.v[j] = halves(mix(up[2 * j], low[2 * j], b.part), mix(up[2 * j + 1], low[2 * j + 1], b.part));
      if constexpr (!BRANCHES) mixed.v[j] = known && m.column.inside ? mixed.v[j] : m.border[i].v[j];
    }
    if (BRANCHES && !(known && m.column.inside)) mixed = load_global(frame(a, s) + min(mixed_plane(i), LOW_PLANES - 1) * 8);
    store_shared(to + mixed_plane(i) * PLANE_BYTES + threadIdx.x % TILE * PIXEL_BYTES, mixed, mixed_plane(i) < LOW_PLANES);
  }
  const int at = (threadIdx.x + THREADS - 32 * turn) % THREADS, word = at % WORDS_RIGHT, pixel = TILE + at / WORDS_RIGHT;
  auto right = [&](bool wanted) {
    const Column c = column(a, s, m.left, wanted ? pixel : TILE);
    const u32 here = word / 4 * LOW_PLANE + word % 4 * 4;
    const u32 p = load_shared(upper + here + c.left), q = load_shared(upper + here + c.right);
    const u32 r = load_shared(lower + here + c.left), t = load_shared(lower + here + c.right);
    u32 mixed = mix_pair(p, q, r, t, c.part, b.part);
    if (!(known && c.inside)) mixed = BRANCHES ? load_word(frame(a, s) + word * 2, true) : m.border_right;
    store_shared(to + word / 4 * PLANE_BYTES + word % 4 * 4 + pixel * PIXEL_BYTES, mixed, wanted);
  };
  if constexpr (BRANCHES) {
    if (at < 4 * WORDS_RIGHT) right(true);
  } else right(at < 4 * WORDS_RIGHT);
}
