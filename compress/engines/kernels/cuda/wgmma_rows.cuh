// Rows of pixels for wgmma: descriptors, and copies from global memory into a ring of planes of 8 channels.
#pragma once
// An operand in shared memory without swizzle: lbo bytes from one half of K to the other, sbo between groups of 8 rows.
DEV u64 descriptor(u32 address, u32 lbo, u32 sbo) {
  return (u64)((address & 0x3FFFF) >> 4) | (u64)(lbo >> 4) << 16 | (u64)(sbo >> 4) << 32;
}

// What a thread copies of a row: eight threads write eight pixels of a plane, which meets each bank once.
struct Loader {
  const u16* from;  // its first piece of the next row
  u32 to, inside;   // where that goes in a row; bit i: its piece i lies in the image or its frame
  int y;            // the next row
};
constexpr int PLANES = (SOURCE - UPSAMPLED) / 8, EIGHTS = THREADS / 8 / PLANES, PIECES = (PIXELS + 8 * EIGHTS - 1) / (8 * EIGHTS);

DEV Loader loader(const Arguments& a, const Strip& s) {
  const int eight = TILE_THREAD >> 3, c = eight % PLANES + UPSAMPLED / 8, pixel = (TILE_THREAD & 7) + eight / PLANES * 8;
  Loader l = {a.x + s.n * a.x_slice + (long long)(s.y0 - PAD) * a.x_row + (s.x0 - PAD + pixel) * X + c * 8, (u32)(c * PLANE + pixel * 16), 0, s.y0 - PAD};
#pragma unroll
  for (int i = 0; i < PIECES; ++i)
    if (eight < EIGHTS * PLANES && pixel + i * 8 * EIGHTS < PIXELS && s.x0 + pixel + i * 8 * EIGHTS < a.width + MORE) l.inside |= 1u << i;
  return l;
}
// The next row; zeros outside of the part of the frame that is read, PAD rows and columns.
DEV void load_row(const Arguments& a, Loader& l, u32 to, bool wanted) {
  const int pixel = (TILE_THREAD & 7) + (TILE_THREAD >> 3) / PLANES * 8;
  const u32 inside = l.y < a.height + PAD ? l.inside : 0;
  const bool known = wanted && (TILE_THREAD >> 3) < EIGHTS * PLANES;
#pragma unroll
  for (int i = 0; i < PIECES; ++i)
    copy16(to + l.to + i * 8 * EIGHTS * 16, l.from + i * 8 * EIGHTS * X, inside >> i & 1 ? 16 : 0, known && pixel + i * 8 * EIGHTS < PIXELS);
  l.from += a.x_row;
  ++l.y;
}

// By all threads of a block.
template <int COUNT> DEV void copy_region(u32 to, const void* from, int bytes) {
  for (int at = threadIdx.x * 16; at < bytes; at += COUNT * 16) copy16(to + at, (const char*)from + at, 16, true);
}
