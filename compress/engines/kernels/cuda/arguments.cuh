// What the kernels are given; launch.py has the same structure.
#pragma once
struct Arguments {
  const u16* x;                     // float16; channel 0 of pixel (0, 0) of slice 0; X values a pixel, a frame around
  void* y;                          // its output channel 0; Y values a pixel; float16, float32 where THEN is 1
  const Quad* weights;              // of the convolution, see fragments.py
  const u32* metadata;              // of 2:4 weights
  const float* bias;                // (COUT,)
  const Quad* bottleneck_weights;   // of the 1x1 before it
  const float* bottleneck_bias;     // (CIN,)
  const u32* bottleneck_border;     // (CIN,) float16: what is read outside of the image
  const Quad* then_weights;         // of the 1x1 behind it; float32 (COUT,) for mma where THEN is 1
  const float* then_bias;           // (THEN,)
  const float* image;               // (N, H, W): added to what is stored where RESIDUAL
  long long x_slice, y_slice;       // values from slice to slice
  int x_row, y_row;                 // and from row to row
  int height, width;
  int strip;                        // rows that a block computes
#if UPSAMPLED || POOL || INT8       // a longer structure is other code, even where nobody reads the rest
  const u16* low;                   // what is upsampled: channel 0 of pixel (0, 0) of slice 0; LOW values a pixel
  long long low_slice;              // values from slice to slice
  int low_row, low_height, low_width;
  float ratio_y, ratio_x;           // its rows per row of x, its columns per column of x
#endif
#if POOL || INT8
  void* pooled;                     // where the stem's results are pooled, too: as y, POOL_PIXEL values a pixel
  long long pooled_slice;
  int pooled_row;
#endif
#if INT8
  const float* steps;               // (COUT,): step of the input times step of the weights
  const float* affine;              // (CIN, 2): scale and shift of an input, -128 .. 127 steps to 0 .. 1; (CIN, 4) with BOTTLENECK:
                                    // scales of its output v and of |v|, shift, 0, likewise
#endif
};

DEV float leaky(float v) { return fmaxf(v, v * SLOPE); }
// LeakyReLU of two channels, as float16.
DEV u32 leaky_pair(float low, float high) { return leaky_halves(halves(low, high), SLOPE_HALVES); }

// A strip: columns x0.., rows y0 .. y0 + rows - 1 of slice n.
struct Strip {
  int n, x0, y0, rows;
};
// Those of a block lie below each other; of the last ones of a slice there may be no rows, and less.
DEV Strip strip_of_block(const Arguments& a, int tile, int strips = 1, int at = 0) {
  const int across = (a.width + tile - 1) / tile, rows = a.strip * strips, down = (a.height + rows - 1) / rows, block = blockIdx.x;
  const int y0 = block / across % down * rows + at * a.strip;
  return {block / (across * down), block % across * tile, y0, min(a.strip, a.height - y0)};
}

// A thread among those that compute a strip.
#ifndef TILE_THREAD
#define TILE_THREAD threadIdx.x
#endif
