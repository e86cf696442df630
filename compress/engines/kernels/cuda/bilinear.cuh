// Bilinear x2, corners on corners, for moves.cu and upsample.cuh: the same formula and rounding, so the same bits.
#pragma once
// Two rows, or columns, of the smaller image, and how far from the first one is what lies between them.
struct Between {
  int first, second;
  float part;
};
// `ratio`: rows of the smaller image, which has `count`, per row of the larger one.
DEV Between between(int at, float ratio, int count) {
  const float exact = product((float)at, ratio);
  const int first = min((int)exact, count - 1);
  return {first, min(first + 1, count - 1), exact - first};
}
DEV float mix(float a, float b, float part) { return fmaf(b - a, part, a); }
