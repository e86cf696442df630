// 7x7 convolution of one channel, stride 1, 16 output channels, by mma.sync (compute capability 8.0 and newer).
//
//   product: (16 output channels x 16: eight taps of two rows) (16 x 8 pixels); the eighth tap and the eighth row have
//            weights of zero
//   pixels:  of one row a thread holds the two neighbours at g + 2 t, which is its part of eight taps for eight pixels
//
// A warp computes BLOCKS x 8 columns and slides down a strip, four output rows a step: ten rows of pixels lie in
// registers, each read once, those of the next step while this one's products run.
#include <parameters.cuh>
#include <arguments.cuh>

constexpr int THREADS = 32 * WARPS, TILE = WARPS * BLOCKS * 8, STEP = 4, HELD = STEP + 6;

// Two neighbouring pixels from `at` on, of which the first may lie in the upper half of a word.
DEV u32 load_pair(const u16* at, bool wanted) {
  const bool odd = (u64)at & 2;
  const u16* word = at - odd;
  const u32 first = load_word(word, wanted), second = load_word(word + 2, wanted && odd);
  return odd ? first >> 16 | second << 16 : first;
}

KERNEL(stem, THREADS, RESIDENT)(const Arguments a) {
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const Strip s = strip_of_block(a, TILE);
  u32 w[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Quad v = a.weights[i * 32 + lane];
#pragma unroll
    for (int j = 0; j < 4; ++j) w[i][j] = v.v[j];
  }
  const float bias[2] = {a.bias[2 * g], a.bias[2 * g + 1]};
  const int left = s.x0 + (threadIdx.x >> 5) * BLOCKS * 8, column = left + g + 2 * t - 3;
  const u16* from = a.x + s.n * a.x_slice + (long long)(s.y0 - 3) * a.x_row + column;
  u16* to = (u16*)a.y + s.n * a.y_slice + (long long)s.y0 * a.y_row + 2 * g;
  u32 rows[HELD][BLOCKS], later[STEP][BLOCKS];
  // The frame holds three rows and four columns more than the image; what lies beyond is of no pixel that is stored.
  auto load = [&](u32 (&row)[BLOCKS], int y) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) row[block] = load_pair(from + block * 8, y < a.height + 3 && column + block * 8 < a.width + 3);
    from += a.x_row;
  };
#pragma unroll
  for (int i = 0; i < HELD; ++i) load(rows[i], s.y0 - 3 + i);
#pragma unroll 1
  for (int y = 0; y < s.rows; y += STEP) {
#pragma unroll
    for (int i = 0; i < STEP; ++i) load(later[i], s.y0 + y + HELD - 3 + i);
#pragma unroll
    for (int i = 0; i < STEP; ++i) {
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) {
        float d[4];
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const u32 pixels[2] = {rows[i + 2 * p][block], p < 3 ? rows[i + 2 * p + 1][block] : 0};
          if (p == 0) mma_dense(d, w[p], pixels, bias);
          else mma_dense(d, w[p], pixels);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int x = left + block * 8 + 2 * t + j;
          store_global(to + x * Y, leaky_pair(d[j], d[2 + j]), y + i < s.rows && x < a.width);
        }
      }
      to += a.y_row;
    }
#pragma unroll
    for (int i = 0; i < HELD; ++i)
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) rows[i][block] = i + STEP < HELD ? rows[i + STEP < HELD ? i + STEP : 0][block] : later[i + STEP - HELD < 0 ? 0 : i + STEP - HELD][block];
  }
}
