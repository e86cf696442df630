// The instructions of compress/engines/kernels/cuda on a CPU: for g++ in the place of the header of the same name.
// What takes long to compile or to run lies in emulator.cpp, which is compiled once and not with every kernel.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;
struct alignas(16) Quad {
  u32 v[4];
};

#define DEV inline
#define __restrict__
#define KERNEL(name, most, resident)                                                                     \
  void name(const Arguments a);                                                                          \
  extern "C" void emulate(unsigned blocks, unsigned count, unsigned bytes, const Arguments* a) {         \
    emulator::launch(blocks, count, bytes, [](const void* a) { name(*(const Arguments*)a); }, a);        \
  }                                                                                                      \
  void name
#define SHARED_BASE(name) const u32 name = 0

namespace emulator {
struct Index {
  unsigned x = 0;
};
extern Index block;
const Index& thread();
void launch(unsigned blocks, unsigned count, size_t bytes, void (*kernel)(const void*), const void* arguments);
[[noreturn]] void fail(const char* what, u32 address = 0);
void* checked(const void* pointer, int bytes);  // in global memory that `allow` was told of
uint8_t* read(u32 address, int bytes);          // of shared memory, as `written`
uint8_t* written(u32 address, int bytes);
void copy_wait(int pending);
void load_matrices(u32* r, u32 address, int count);
void mma(float* d, const u32* a, const u32* b, int k, bool sparse, u32 metadata, int select);
void mma_int8(int* d, const u32* a, const u32* b, bool sparse, u32 metadata);
void wgmma(float* d, u64 a, u64 b, int n);
void wgmma_commit();
void wgmma_wait(int pending);
void fence_async();
void wgmma_sparse(float* d, u64 a, u64 b, u32 metadata, int select, int n);
}  // namespace emulator

#define threadIdx (emulator::thread())
#define blockIdx (emulator::block)
void __syncthreads();
void worker_wait(int warpgroup);
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }

void copy16(u32 to, const void* from, int bytes, bool wanted);
template <class T> void store_global(void* to, T value, bool wanted) {
  if (wanted) *(T*)emulator::checked(to, sizeof(T)) = value;
}
inline float load_global(const float* from, bool wanted) { return wanted ? *(const float*)emulator::checked(from, 4) : 0; }
u32 load_word(const u16* from, bool wanted);
inline u32 load_word(const u16* from) { return load_word(from, true); }
inline Quad load_global(const u16* from) { return *(const Quad*)emulator::checked(from, 16); }
inline void store_global(u16* to, const Quad& value) { *(Quad*)emulator::checked(to, 16) = value; }
inline void store_global(u16* to, u64 value) { *(u64*)emulator::checked(to, 8) = value; }
void copy_commit();
template <int PENDING> void copy_wait() { emulator::copy_wait(PENDING); }

inline void load_matrices(u32 (&r)[4], u32 address) { emulator::load_matrices(r, address, 4); }
inline void load_matrices(u32 (&r)[2], u32 address) { emulator::load_matrices(r, address, 2); }
inline void load_shared(u32 (&r)[4], u32 address) { memcpy(r, emulator::read(address, 16), 16); }
inline void load_shared(float (&r)[2], u32 address) { memcpy(r, emulator::read(address, 8), 8); }
inline u32 load_shared(u32 address) {
  u32 value;
  memcpy(&value, emulator::read(address, 4), 4);
  return value;
}
inline void store_shared(u32 address, u32 value) { memcpy(emulator::written(address, 4), &value, 4); }
inline void store_shared(u32 address, u32 value, bool wanted) {
  if (wanted) store_shared(address, value);
}
inline void store_shared(u32 address, const Quad& value, bool wanted) {
  if (wanted) memcpy(emulator::written(address, 16), &value, 16);
}
inline void store_shared(u32 address, u16 value, bool wanted) {
  if (wanted) memcpy(emulator::written(address, 2), &value, 2);
}
inline void store_shared_pair(u32 address, u32 low, u32 high) {
  const u32 both[2] = {low, high};
  memcpy(emulator::written(address, 8), both, 8);
}
inline u32 either(bool first, u32 a, u32 b) { return first ? a : b; }
inline float product(float a, float b) { return a * b; }
u32 transposed(u32 value);
u32 shuffle(u32 value, int from);
float shuffle_xor(float value, int lanes);
u32 halves(float low, float high);
float low_half(u32 pair);
float high_half(u32 pair);
inline float as_float(u32 bits) {
  float found;
  memcpy(&found, &bits, 4);
  return found;
}
u32 nearest(float v, float scale, float shift);
inline u32 low_bytes(u32 a, u32 b, u32 c, u32 d) { return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24; }
u32 leaky_halves(u32 v, u32 slope);
u32 larger_halves(u32 a, u32 b);

inline void mma_dense(float (&d)[4], const u32 (&a)[4], const u32* b) { emulator::mma(d, a, b, 16, false, 0, 0); }
inline void mma_dense8(float (&d)[4], const u32* a, u32 b) { emulator::mma(d, a, &b, 8, false, 0, 0); }
inline void mma_dense(float (&d)[4], const u32 (&a)[4], const u32* b, const float (&c)[2]) {
  d[0] = d[1] = c[0], d[2] = d[3] = c[1];
  mma_dense(d, a, b);
}
inline void mma_columns(float (&d)[4], const u32 (&a)[4], const u32* b, const float (&c)[2]) {
  d[0] = d[2] = c[0], d[1] = d[3] = c[1];
  mma_dense(d, a, b);
}
template <int SELECT> void mma_sparse(float (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
  emulator::mma(d, a, b, 32, true, metadata, SELECT);
}
inline void mma_int8(int (&d)[4], const u32 (&a)[4], const u32* b) { emulator::mma_int8(d, a, b, false, 0); }
inline void mma_int8_sparse(int (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
  emulator::mma_int8(d, a, b, true, metadata);
}

inline void fence_async() { emulator::fence_async(); }
inline void wgmma_arrived(float&) {}
inline void wgmma_fence() {}
inline void wgmma_commit() { emulator::wgmma_commit(); }
template <int PENDING> void wgmma_wait() { emulator::wgmma_wait(PENDING); }
template <int N> struct Wgmma {
  static void multiply(float* d, u64 a, u64 b) { emulator::wgmma(d, a, b, N); }
};
template <int N> struct WgmmaSparse {
  template <int SELECT> static void multiply(float* d, u64 a, u64 b, u32 metadata) { emulator::wgmma_sparse(d, a, b, metadata, SELECT, N); }
};
