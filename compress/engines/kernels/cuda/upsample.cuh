// Bilinear x2 before a 5x5 or 3x3, for window_mma.cu, window_int8.cu, window_wgmma.cu and window_wgmma_sparse.cu: the first
// UPSAMPLED channels of its input come from a smaller image, and lie nowhere but in the ring.
//
// Rows of the smaller image are copied once each, ahead of the other channels of what needs them, into a ring of their
// own. Behind the barrier that says that they are there, all threads of the strip mix the rows of the next step, while this
// step's products run: by columns when a row of the smaller image is new, by rows always.
//
//   shared memory, from LOW_AT: [row % LOW_ROWS][plane of 8 channels][LOW_PIXELS][16 bytes]
#pragma once
#include <bilinear.cuh>

constexpr int LOW_PLANES = UPSAMPLED / 8, LOW_PIXELS = PIXELS / 2 + 2, LOW_PLANE = LOW_PIXELS * 16, LOW_ROW = LOW_PLANES * LOW_PLANE;
constexpr int LOW_ROWS = STAGES * ROWS / 2 + 2;         // what the rows of STAGES steps lie between
constexpr int LOW_EIGHTS = THREADS / 8 / LOW_PLANES, LOW_PIECES = (LOW_PIXELS + 8 * LOW_EIGHTS - 1) / (8 * LOW_EIGHTS);
constexpr int NEW_ROWS = (ROWS + 1) / 2;                // of the smaller image in a step, at most
constexpr int TOGETHER = THREADS / TILE, MIXED = (LOW_PLANES + TOGETHER - 1) / TOGETHER;
constexpr int WORDS_RIGHT = UPSAMPLED / 2;              // of a pixel
static_assert(THREADS % TILE == 0 && MORE * WORDS_RIGHT <= THREADS && 32 % WORDS_RIGHT == 0, "");

DEV Between rows_between(const Arguments& a, int y) { return between(min(max(y, 0), a.height - 1), a.ratio_y, a.low_height); }
DEV u32 low_row(u32 base, int row) { return base + LOW_AT + row % LOW_ROWS * LOW_ROW; }

// What a thread copies of a row of the smaller image: eight threads write eight pixels of a plane.
struct Low {
  const u16* from;  // its first piece of the next row
  u32 to, inside;   // where that goes in a row; bit i: its piece i lies in the image
  int next;         // the next row
  int left;         // the first column in shared memory
};
DEV Low low_rows(const Arguments& a, const Strip& s) {
  const int eight = TILE_THREAD >> 3, plane = eight % LOW_PLANES, pixel = (TILE_THREAD & 7) + eight / LOW_PLANES * 8;
  const int left = between(max(s.x0 - PAD, 0), a.ratio_x, a.low_width).first, next = rows_between(a, s.y0 - PAD).first;
  Low l = {a.low + s.n * a.low_slice + (long long)next * a.low_row + (left + pixel) * LOW + plane * 8, (u32)(plane * LOW_PLANE + pixel * 16), 0, next, left};
#pragma unroll
  for (int i = 0; i < LOW_PIECES; ++i) {
    const int at = pixel + i * 8 * LOW_EIGHTS;
    if (eight < LOW_EIGHTS * LOW_PLANES && at < LOW_PIXELS && left + at < a.low_width) l.inside |= 1u << i;
  }
  return l;
}
// At most COUNT rows, as long as the ring holds row `first` and what is behind it.
template <int COUNT> DEV void load_low(const Arguments& a, Low& l, u32 base, int first, bool wanted) {
#pragma unroll
  for (int r = 0; r < COUNT; ++r) {
    const bool known = wanted && l.next < min(first + LOW_ROWS, a.low_height);
    const u32 to = low_row(base, l.next) + l.to;
#pragma unroll
    for (int i = 0; i < LOW_PIECES; ++i) copy16(to + i * 8 * LOW_EIGHTS * 16, l.from + i * 8 * LOW_EIGHTS * LOW, 16, known && (l.inside >> i & 1));
    l.from += known ? a.low_row : 0;
    l.next += known;
  }
}

// A column of the larger image between two of the smaller one.
struct Column {
  u32 left, right;  // their bytes in a plane in shared memory
  float part;
  bool inside;      // whether it lies in the image
};
DEV Column column(const Arguments& a, const Strip& s, int left, int pixel) {
  const int x = s.x0 - PAD + pixel;
  const Between b = between(min(max(x, 0), a.width - 1), a.ratio_x, a.low_width);
  return {(u32)(b.first - left) * 16, (u32)(b.second - left) * 16, b.part, (u32)x < (u32)a.width};
}

// What a thread mixes of a row: eight channels of a pixel, MIXED times, and two channels of a pixel to the right. The
// next row lies between the same two rows of the smaller image, or between the lower one and one more.
struct Mixer {
  Column column;
  Quad border[BRANCHES ? 1 : MIXED];  // what lies outside of the image; with BRANCHES it is read where it is needed
  u32 border_right;
  float upper[MIXED][8], lower[MIXED][8], upper_right[2], lower_right[2];  // mixed by columns
  int left, first;                    // as in Low; the upper row
};
DEV int mixed_plane(int i) { return min((int)TILE_THREAD / TILE + i * TOGETHER, LOW_PLANES - 1); }
// The frame's values, by channel.
DEV const u16* frame(const Arguments& a, const Strip& s) { return a.x + s.n * a.x_slice - a.x_row - X; }
DEV Mixer mixer(const Arguments& a, const Strip& s, int left) {
  Mixer m = {column(a, s, left, TILE_THREAD % TILE)};
  m.left = left;
  if constexpr (!BRANCHES) {
#pragma unroll
    for (int i = 0; i < MIXED; ++i) m.border[i] = load_global(frame(a, s) + mixed_plane(i) * 8);
    m.border_right = load_word(frame(a, s) + TILE_THREAD % WORDS_RIGHT * 2, true);
  }
  return m;
}

DEV void mix_pair(float& low, float& high, u32 left, u32 right, float part) {
  low = mix(low_half(left), low_half(right), part), high = mix(high_half(left), high_half(right), part);
}
// Eight channels, or two, of a row of the smaller image at `row`.
DEV void mix_columns(float (&mixed)[8], u32 row, const Column& c) {
  u32 left[4], right[4];
  load_shared(left, row + c.left);
  load_shared(right, row + c.right);
#pragma unroll
  for (int i = 0; i < 4; ++i) mix_pair(mixed[2 * i], mixed[2 * i + 1], left[i], right[i], c.part);
}
DEV void mix_columns(float (&mixed)[2], u32 row, const Column& c) {
  mix_pair(mixed[0], mixed[1], load_shared(row + c.left), load_shared(row + c.right), c.part);
}
// The lower row becomes the upper one where `moved`.
template <int N> DEV void move_down(float (&upper)[N], const float (&lower)[N], bool moved) {
#pragma unroll
  for (int i = 0; i < N; ++i) upper[i] = moved ? lower[i] : upper[i];
}

// Two channels of one of the pixels to the right; the warps take turns.
struct Right {
  int pixel, word;
  bool wanted;
  u32 from;  // in a row of the smaller image
  Column column;
};
DEV Right right_of(const Arguments& a, const Strip& s, const Mixer& m, int turn) {
  const int at = (TILE_THREAD + THREADS - 32 * turn) % THREADS, word = at % WORDS_RIGHT;
  const bool wanted = at < MORE * WORDS_RIGHT;
  const int pixel = TILE + (wanted ? at / WORDS_RIGHT : 0);
  return {pixel, word, wanted, (u32)(word / 4 * LOW_PLANE + word % 4 * 4), column(a, s, m.left, pixel)};
}

// Before the rows of a step, or of all steps: the upper row.
DEV void mix_first(const Arguments& a, const Right& right, Mixer& m, u32 base, int y) {
  m.first = rows_between(a, y).first;
#pragma unroll
  for (int i = 0; i < MIXED; ++i) {
    mix_columns(m.upper[i], low_row(base, m.first) + mixed_plane(i) * LOW_PLANE, m.column);
    move_down(m.lower[i], m.upper[i], true);
  }
  if (BRANCHES && !right.wanted) return;
  mix_columns(m.upper_right, low_row(base, m.first) + right.from, right.column);
  move_down(m.lower_right, m.upper_right, true);
}
// Row y of the larger image, which lies between rows `b`, into the row of the ring at `to`.
template <int PIXEL_BYTES, int PLANE_BYTES>
DEV void mix_row(const Arguments& a, const Strip& s, const Right& right, Mixer& m, u32 base, u32 to, int y, const Between& b) {
  const bool known = (u32)y < (u32)a.height, moved = b.first != m.first;
  const u32 lower = low_row(base, b.second);
  m.first = b.first;
#pragma unroll
  for (int i = 0; i < MIXED; ++i) {
    float(&up)[8] = m.upper[i], (&low)[8] = m.lower[i];
    move_down(up, low, moved);
    mix_columns(low, lower + mixed_plane(i) * LOW_PLANE, m.column);
    const bool inside = known && m.column.inside;
    Quad mixed;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      mixed.v[j] = halves(mix(up[2 * j], low[2 * j], b.part), mix(up[2 * j + 1], low[2 * j + 1], b.part));
      if constexpr (!BRANCHES) mixed.v[j] = either(inside, mixed.v[j], m.border[i].v[j]);
    }
    if (BRANCHES && !inside) mixed = load_global(frame(a, s) + mixed_plane(i) * 8);
    const int plane = TILE_THREAD / TILE + i * TOGETHER;
    store_shared(to + plane * PLANE_BYTES + TILE_THREAD % TILE * PIXEL_BYTES, mixed, plane < LOW_PLANES);
  }
  if (BRANCHES && !right.wanted) return;
  move_down(m.upper_right, m.lower_right, moved);
  mix_columns(m.lower_right, lower + right.from, right.column);
  const u32 mixed = halves(mix(m.upper_right[0], m.lower_right[0], b.part), mix(m.upper_right[1], m.lower_right[1], b.part));
  const bool inside = known && right.column.inside;
  u32 value;
  if constexpr (BRANCHES) value = inside ? mixed : load_word(frame(a, s) + right.word * 2, true);
  else value = either(inside, mixed, m.border_right);
  store_shared(to + right.word / 4 * PLANE_BYTES + right.word % 4 * 4 + right.pixel * PIXEL_BYTES, value, right.wanted);
}
