// The instructions of compress/engines/kernels/cuda on a CPU, and one block at a time to run them: for g++ in
// the place of the header of the same name. Threads are fibres; ldmatrix, movmatrix, mma, mma.sp and wgmma
// follow the fragment layouts of the PTX manual, written from the manual and not from the kernels. cp.async is
// deferred until it is waited for, so that a missing wait shows; shared memory begins as NaN; warps run in random
// order from one barrier to the next, so that a missing barrier shows; global memory is what `allow` was told of.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;
struct alignas(16) Quad {
  u32 v[4];
};

#define DEV inline
#define __restrict__
#define KERNEL(name, most, resident)                                                       \
  void name(const Arguments a);                                                            \
  extern "C" void emulate(unsigned blocks, unsigned count, unsigned bytes, const Arguments* a) { \
    emulator::launch(blocks, count, bytes, [&] { name(*a); });                             \
  }                                                                                        \
  void name
#define SHARED_BASE(name) const u32 name = 0

namespace emulator {
struct Index {
  unsigned x = 0;
};
struct Copy {
  u32 to;
  const void* from;
  int bytes;
};
// Four bytes of shared memory: which warps read and wrote them since which barrier, and copies on their way there.
struct Cell {
  unsigned long read = -1, written = -1;
  int reader = 0, writer = 0, copies = 0;
};
constexpr int SEVERAL = -1;
struct Meeting {
  int count = 0;
  unsigned long turn = 0;
  const void* in[128][4];
  void* out[128];
};
struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  Index thread;
  bool done = false;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};
inline std::vector<Fibre> fibres;
inline Fibre* current;
inline ucontext_t outside;
inline std::vector<uint8_t> shared;
inline std::vector<Cell> cells;
inline int races;
inline u32 first_race;
inline Index block, threads;
inline std::vector<Meeting> warps, warpgroups;
inline Meeting all;
inline std::function<void()> body;

[[noreturn]] inline void fail(const char* what, u32 address = 0) {
  fprintf(stderr, "emulator: %s (address %u)\n", what, address);
  abort();
}
inline int self() { return (int)current->thread.x; }
inline u32 drawn = 1;
inline Fibre* other() {
  const int n = (int)fibres.size();
  drawn = drawn * 1664525 + 1013904223;
  for (int k = 0, at = (drawn >> 8) % n; k < n; ++k, at = (at + 1) % n)
    if (!fibres[at].done && &fibres[at] != current) return &fibres[at];
  return nullptr;
}
struct Range {
  uintptr_t from, to;
};
inline std::vector<Range> allowed;
template <class T> T* checked(T* pointer, int bytes) {
  const uintptr_t at = (uintptr_t)pointer;
  for (const Range& r : allowed)
    if (at >= r.from && at + bytes <= r.to) return pointer;
  fail("beyond global memory");
}
inline void yield() {
  Fibre *me = current, *f = other();
  if (f == nullptr) fail("threads wait for one that is gone");
  current = f;
  swapcontext(&me->context, &f->context);
}
inline void run() {
  body();
  current->done = true;
  Fibre* f = other();
  if (f == nullptr) setcontext(&outside);
  current = f;
  setcontext(&f->context);
}
inline void launch(unsigned blocks, unsigned count, size_t bytes, std::function<void()> what) {
  body = what, threads.x = count, races = 0;
  for (block.x = 0; block.x < blocks; ++block.x) {
    shared.assign(bytes, 0xFF);  // 0xFFFF is a NaN
    cells.assign(bytes / 4 + 1, Cell{});
    warps.assign(count / 32, Meeting{}), warpgroups.assign((count + 127) / 128, Meeting{}), all = Meeting{};
    fibres = std::vector<Fibre>(count);
    for (unsigned i = 0; i < count; ++i) {
      Fibre& f = fibres[i];
      f.stack.resize(256 << 10), f.thread.x = i;
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.data(), f.context.uc_stack.ss_size = f.stack.size();
      makecontext(&f.context, run, 0);
    }
    current = &fibres[0];
    swapcontext(&outside, &fibres[0].context);
  }
}
// Threads meet; the last one computes for all.
template <class F> void meet(Meeting& m, int size, F compute) {
  const unsigned long turn = m.turn;
  if (++m.count == size) {
    compute();
    m.count = 0, ++m.turn;
    return;
  }
  while (m.turn == turn) yield();
}
inline uint8_t* at(u32 address, int bytes) {
  if ((size_t)address + bytes > shared.size()) fail("beyond shared memory", address);
  if (address % bytes) fail("not aligned", address);
  return shared.data() + address;
}
inline void race(u32 address) {
  if (!races++) first_race = address;
}
// Warps that access the same bytes between two barriers, one of them writing, race; within a warp order is kept.
inline uint8_t* read(u32 address, int bytes) {
  uint8_t* p = at(address, bytes);
  for (u32 i = address / 4; i < (address + bytes + 3) / 4; ++i) {
    Cell& c = cells[i];
    const int warp = self() >> 5;
    if (c.copies || (c.written == all.turn && c.writer != warp)) race(address);
    c.reader = c.read == all.turn && c.reader != warp ? SEVERAL : warp, c.read = all.turn;
  }
  return p;
}
inline uint8_t* written(u32 address, int bytes, int copies = 0) {
  uint8_t* p = at(address, bytes);
  for (u32 i = address / 4; i < (address + bytes + 3) / 4; ++i) {
    Cell& c = cells[i];
    const int warp = self() >> 5;
    if ((c.read == all.turn && c.reader != warp) || (c.written == all.turn && c.writer != warp)) race(address);
    c.writer = warp, c.written = all.turn, c.copies += copies;
  }
  return p;
}
inline float number(u16 bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return (float)h;
}
inline float low(u32 pair) { return number((u16)pair); }
inline float high(u32 pair) { return number((u16)(pair >> 16)); }
inline Meeting& warp() { return warps[self() >> 5]; }
}  // namespace emulator

// What a launch may read and write, and nothing else from now on.
extern "C" __attribute__((used)) inline void allow(const uintptr_t* ranges, int count) {
  emulator::allowed.clear();
  for (int i = 0; i < count; ++i) emulator::allowed.push_back({ranges[2 * i], ranges[2 * i] + ranges[2 * i + 1]});
}
// Accesses of the last launch that raced, and where the first one was.
extern "C" __attribute__((used)) inline int races(unsigned* address) {
  *address = emulator::first_race;
  return emulator::races;
}
#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::block)
inline void __syncthreads() {
  emulator::meet(emulator::all, (int)emulator::threads.x, [] {});
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }

inline void copy16(u32 to, const void* from, int bytes, bool wanted) {
  if (!wanted) return;
  if (to % 16 || (uintptr_t)from % 16) emulator::fail("cp.async is not aligned", to);
  emulator::written(to, 16, 1);
  emulator::current->open.push_back({to, from, bytes});
}
template <class T> void store_global(void* to, T value, bool wanted) {
  if (wanted) *emulator::checked((T*)to, sizeof(T)) = value;
}
inline float load_global(const float* from, bool wanted) { return wanted ? *emulator::checked(from, 4) : 0; }
inline u32 load_word(const u16* from, bool wanted) {
  if ((uintptr_t)from % 4) emulator::fail("a word is not aligned");
  return wanted ? *(const u32*)emulator::checked(from, 4) : 0;
}
inline u32 load_word(const u16* from) { return load_word(from, true); }
inline Quad load_global(const u16* from) { return *(const Quad*)emulator::checked(from, 16); }
inline void store_global(u16* to, const Quad& value) { *emulator::checked((Quad*)to, 16) = value; }
inline void store_global(u16* to, u64 value) { *emulator::checked((u64*)to, 8) = value; }
inline void copy_commit() {
  emulator::current->groups.push_back(emulator::current->open);
  emulator::current->open.clear();
}
template <int PENDING> void copy_wait() {
  auto& groups = emulator::current->groups;
  while ((int)groups.size() > PENDING) {
    for (auto& copy : groups[0]) {
      uint8_t* p = emulator::written(copy.to, 16, -1);
      memset(p, 0, 16);
      if (copy.bytes) memcpy(p, emulator::checked(copy.from, copy.bytes), copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

inline void load_matrices(u32* r, u32 address, int count) {
  const int lane = emulator::self() & 31;
  emulator::Meeting& w = emulator::warp();
  w.in[lane][0] = (const void*)(uintptr_t)address, w.out[lane] = r;
  emulator::meet(w, 32, [&] {
    for (int m = 0; m < count; ++m)
      for (int l = 0; l < 32; ++l) {
        const u32 row = (u32)(uintptr_t)w.in[m * 8 + l / 4][0];
        memcpy((u32*)w.out[l] + m, emulator::read(row, 16) + l % 4 * 4, 4);
      }
  });
}
inline void load_matrices(u32 (&r)[4], u32 address) { load_matrices(r, address, 4); }
inline void load_matrices(u32 (&r)[2], u32 address) { load_matrices(r, address, 2); }
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
inline u32 transposed(u32 value) {
  const int lane = emulator::self() & 31;
  emulator::Meeting& w = emulator::warp();
  u32 found = 0;
  w.in[lane][0] = (const void*)(uintptr_t)value, w.out[lane] = &found;
  emulator::meet(w, 32, [&] {
    u16 matrix[8][8];
    for (int l = 0; l < 32; ++l) {
      const u32 pair = (u32)(uintptr_t)w.in[l][0];
      matrix[l / 4][2 * (l % 4)] = (u16)pair, matrix[l / 4][2 * (l % 4) + 1] = (u16)(pair >> 16);
    }
    for (int l = 0; l < 32; ++l) *(u32*)w.out[l] = matrix[2 * (l % 4)][l / 4] | (u32)matrix[2 * (l % 4) + 1][l / 4] << 16;
  });
  return found;
}
inline u32 shuffle(u32 value, int from) {
  const int lane = emulator::self() & 31;
  emulator::Meeting& w = emulator::warp();
  u32 found = 0;
  w.in[lane][0] = &value, w.in[lane][1] = (const void*)(uintptr_t)(from & 31), w.out[lane] = &found;
  emulator::meet(w, 32, [&] {
    for (int l = 0; l < 32; ++l) *(u32*)w.out[l] = *(const u32*)w.in[(uintptr_t)w.in[l][1]][0];
  });
  return found;
}
inline float shuffle_xor(float value, int lanes) {
  const int lane = emulator::self() & 31;
  emulator::Meeting& w = emulator::warp();
  float found = 0;
  w.in[lane][0] = &value, w.out[lane] = &found;
  emulator::meet(w, 32, [&] {
    for (int l = 0; l < 32; ++l) *(float*)w.out[l] = *(const float*)w.in[l ^ lanes][0];
  });
  return found;
}
inline u32 halves(float low, float high) {
  const _Float16 pair[2] = {(_Float16)low, (_Float16)high};
  u32 found;
  memcpy(&found, pair, 4);
  return found;
}
inline float low_half(u32 pair) { return emulator::low(pair); }
inline float high_half(u32 pair) { return emulator::high(pair); }
inline float as_float(u32 bits) {
  float found;
  memcpy(&found, &bits, 4);
  return found;
}
inline u32 nearest(float v, float scale, float shift) {
  const float part = fminf(fmaxf(fmaf(v, scale, shift), 0), 1);
  return (u32)((int)nearbyint((double)part * 255) - 128);
}
inline u32 low_bytes(u32 a, u32 b, u32 c, u32 d) { return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24; }
inline u32 leaky_halves(u32 v, u32 slope) {
  auto one = [&](float f) { return f > 0 ? f : (float)(_Float16)(f * low_half(slope)); };
  return halves(one(low_half(v)), one(high_half(v)));
}
inline u32 larger_halves(u32 a, u32 b) {
  auto larger = [](float p, float q) { return p != p || p > q ? p : q; };
  return halves(larger(low_half(a), low_half(b)), larger(high_half(a), high_half(b)));
}

inline void mma(float* d, const u32* a, const u32* b, int k, bool sparse, u32 metadata, int select) {
  const int lane = emulator::self() & 31;
  emulator::Meeting& w = emulator::warp();
  w.in[lane][0] = a, w.in[lane][1] = b, w.in[lane][2] = &metadata, w.out[lane] = d;
  emulator::meet(w, 32, [&] {
    static float A[16][32], B[32][8], D[16][8];
    static bool kept[16][32];
    memset(kept, !sparse, sizeof kept);
    for (int l = 0; l < 32; ++l) {
      const int g = l >> 2, t = l & 3;
      const u32 *ar = (const u32*)w.in[l][0], *br = (const u32*)w.in[l][1];
      for (int i = 0; i < k / 8; ++i) B[i * 8 + 2 * t][g] = emulator::low(br[i]), B[i * 8 + 2 * t + 1][g] = emulator::high(br[i]);
      for (int i = 0; i < (k == 8 ? 2 : 4); ++i) {
        const int row = g + (i & 1) * 8;
        if (!sparse) {
          const int column = 2 * t + (i >> 1) * 8;
          A[row][column] = emulator::low(ar[i]), A[row][column + 1] = emulator::high(ar[i]);
          continue;
        }
        const int group = t + (i >> 1) * 4;  // of four values, in a row of 32
        const u32 word = *(const u32*)w.in[g * 4 + 2 * select + (group >> 2)][2];
        const u32 bits = word >> (16 * (i & 1) + 4 * (group & 3)) & 15;
        if ((bits & 3) >= bits >> 2) emulator::fail("metadata is not ordered");
        const int first = group * 4 + (bits & 3), second = group * 4 + (bits >> 2);
        A[row][first] = emulator::low(ar[i]), A[row][second] = emulator::high(ar[i]);
        kept[row][first] = kept[row][second] = true;
      }
    }
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 8; ++n) {
        D[m][n] = 0;
        for (int i = 0; i < k; ++i)
          if (kept[m][i]) D[m][n] += A[m][i] * B[i][n];
      }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) ((float*)w.out[l])[i] += D[(l >> 2) + (i >> 1) * 8][2 * (l & 3) + (i & 1)];
  });
}
inline void mma_dense(float (&d)[4], const u32 (&a)[4], const u32* b) { mma(d, a, b, 16, false, 0, 0); }
inline void mma_dense8(float (&d)[4], const u32* a, u32 b) { mma(d, a, &b, 8, false, 0, 0); }
inline void mma_dense(float (&d)[4], const u32 (&a)[4], const u32* b, const float (&c)[2]) {
  d[0] = d[1] = c[0], d[2] = d[3] = c[1];
  mma_dense(d, a, b);
}
inline void mma_columns(float (&d)[4], const u32 (&a)[4], const u32* b, const float (&c)[2]) {
  d[0] = d[2] = c[0], d[1] = d[3] = c[1];
  mma_dense(d, a, b);
}
template <int SELECT> void mma_sparse(float (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
  mma(d, a, b, 32, true, metadata, SELECT);
}

// Of int8: four neighbouring columns of a row, or rows of a column, in a word. Of a 2:4 matrix 32 of 64 columns are stored; a
// lane's metadata are of one row, g or g + 8, and of 32 columns (lane 4 g: row g, columns 0 .. 31; 4 g + 1: row g + 8; 4 g + 2
// and 4 g + 3: columns 32 .. 63).
inline void mma_int8(int* d, const u32* a, const u32* b, bool sparse, u32 metadata) {
  const int lane = emulator::self() & 31;
  emulator::Meeting& w = emulator::warp();
  w.in[lane][0] = a, w.in[lane][1] = b, w.in[lane][2] = &metadata, w.out[lane] = d;
  emulator::meet(w, 32, [&] {
    static int A[16][64], B[64][8];
    memset(A, 0, sizeof A);
    auto byte = [](u32 word, int i) { return (int)(int8_t)(word >> 8 * i); };
    for (int l = 0; l < 32; ++l) {
      const int g = l >> 2, t = l & 3;
      const u32 *ar = (const u32*)w.in[l][0], *br = (const u32*)w.in[l][1];
      for (int n = 0; n < (sparse ? 4 : 2); ++n)
        for (int i = 0; i < 4; ++i) B[16 * n + 4 * t + i][g] = byte(br[n], i);
      for (int n = 0; n < 4; ++n)
        for (int i = 0; i < 4; ++i) {
          const int row = g + 8 * (n & 1), stored = 4 * t + 16 * (n >> 1) + i;
          int column = stored;
          if (sparse) {
            const int group = stored / 2;  // of four columns
            const u32 word = *(const u32*)w.in[4 * g + 2 * (group / 8) + (n & 1)][2], bits = word >> 4 * (group % 8) & 15;
            if ((bits & 3) >= bits >> 2) emulator::fail("metadata is not ordered");
            column = 4 * group + (stored % 2 ? bits >> 2 : bits & 3);
          }
          A[row][column] = byte(ar[n], i);
        }
    }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) {
        const int row = (l >> 2) + (i >> 1) * 8, column = 2 * (l & 3) + (i & 1);
        for (int k = 0; k < (sparse ? 64 : 32); ++k) ((int*)w.out[l])[i] += A[row][k] * B[k][column];
      }
  });
}
inline void mma_int8(int (&d)[4], const u32 (&a)[4], const u32* b) { mma_int8(d, a, b, false, 0); }
inline void mma_int8_sparse(int (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) { mma_int8(d, a, b, true, metadata); }

inline void fence_async() {}
inline void wgmma_arrived(float&) {}
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int PENDING> void wgmma_wait() {}
template <int N> struct Wgmma {
  static void multiply(float* d, u64 a, u64 b) {
    const int lane = emulator::self() & 127;
    emulator::Meeting& w = emulator::warpgroups[emulator::self() >> 7];
    w.out[lane] = d;
    emulator::meet(w, 128, [&] {
      auto value = [](u64 descriptor, int row, int k) {
        const u32 base = (u32)(descriptor & 0x3FFF) << 4, lbo = (u32)(descriptor >> 16 & 0x3FFF) << 4, sbo = (u32)(descriptor >> 32 & 0x3FFF) << 4;
        u16 bits;
        memcpy(&bits, emulator::read(base + row / 8 * sbo + row % 8 * 16 + k / 8 * lbo + k % 8 * 2, 2), 2);
        return emulator::number(bits);
      };
      static float A[64][16], B[N][16], D[64][N];
      for (int k = 0; k < 16; ++k) {
        for (int m = 0; m < 64; ++m) A[m][k] = value(a, m, k);
        for (int n = 0; n < N; ++n) B[n][k] = value(b, n, k);
      }
      for (int m = 0; m < 64; ++m)
        for (int n = 0; n < N; ++n) {
          D[m][n] = 0;
          for (int k = 0; k < 16; ++k) D[m][n] += A[m][k] * B[n][k];
        }
      for (int q = 0; q < 128; ++q)
        for (int j = 0; j < N / 8; ++j)
          for (int i = 0; i < 4; ++i)
            ((float*)w.out[q])[j * 4 + i] += D[(q >> 5) * 16 + ((q & 31) >> 2) + (i >> 1) * 8][j * 8 + 2 * (q & 3) + (i & 1)];
    });
  }
};
