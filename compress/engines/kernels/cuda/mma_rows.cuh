// From global to shared memory: the input rows of a step, for window_mma.cu and window_int8.cu.
#pragma once
template <bool B> struct Bool {
  static constexpr bool value = B;
};

DEV void copy_region(u32 to, const void* from, int bytes) {
  for (int at = threadIdx.x * 16; at < bytes; at += THREADS * 16) copy16(to + at, (const char*)from + at, 16, true);
}

// What a thread copies of each input row: eight channels of some pixels.
struct Loader {
  const u16* from;  // its first piece of the next row
  u32 to, inside;   // where that goes in a row; bit i: its piece i lies in the image or its frame
  int y;            // the next row
};
constexpr int PIECES = (SOURCE - UPSAMPLED) / 8, APART = THREADS / PIECES, COPIES = (PIXELS + APART - 1) / APART;

DEV Loader loader(const Arguments& a, const Strip& s) {
  const int pixel = threadIdx.x / PIECES, c = threadIdx.x % PIECES + UPSAMPLED / 8;
  Loader l = {a.x + s.n * a.x_slice + (long long)(s.y0 - PAD) * a.x_row + (s.x0 - PAD + pixel) * X + c * 8, (u32)(pixel * SOURCE_PITCH + c * 16), 0, s.y0 - PAD};
#pragma unroll
  for (int i = 0; i < COPIES; ++i)
    if (s.x0 + pixel + i * APART < a.width + MORE) l.inside |= 1u << i;
  return l;
}
// The rows of one step; zeros outside of the part of the frame that is read, PAD rows and columns.
DEV void load_rows(const Arguments& a, Loader& l, u32 to) {
  const int pixel = threadIdx.x / PIECES;
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const u32 inside = l.y < a.height + PAD ? l.inside : 0;
#pragma unroll
    for (int i = 0; i < COPIES; ++i)
      copy16(to + l.to + (r * PIXELS + i * APART) * SOURCE_PITCH, l.from + i * APART * X, inside >> i & 1 ? 16 : 0,
             pixel < APART && pixel + i * APART < PIXELS);
    l.from += a.x_row;
    ++l.y;
  }
}
