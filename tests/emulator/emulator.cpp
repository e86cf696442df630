// One block at a time on a CPU, with the instructions of instructions.cuh. Threads are fibres; ldmatrix, movmatrix, mma,
// mma.sp and wgmma follow the fragment layouts of the PTX manual, written from the manual and not from the kernels.
// cp.async is deferred until it is waited for, so that a missing wait shows; shared memory begins as NaN; warps run in
// random order from one barrier to the next, so that a missing barrier shows; global memory is what `allow` was told of.
// Results of wgmma come when they are waited for, and until then nobody may write what it reads; what it reads must have been
// written before the writer's fence.
#include <instructions.cuh>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <memory>
#include <vector>

namespace emulator {
struct Copy {
  u32 to;
  const void* from;
  int bytes;
};
// When shared memory is accessed: after which barrier of the block, and of the block or the warpgroup.
struct Time {
  unsigned long block = -1, warpgroup = -1;
};
// Four bytes of shared memory: which warps read and wrote them when, and copies on their way there.
struct Cell {
  Time read, written;
  int reader = 0, writer = 0, copies = 0;
  int thread = -1;                      // who wrote last
  unsigned long fences = 0;             // of that thread until then
  int multiplier = -1;                  // the warpgroup whose wgmma reads them
  unsigned long group = 0;              // and the group of that
};
// Sums of a wgmma that nobody waited for yet.
struct Product {
  unsigned long group;
  float* to;
  std::vector<float> values;
};
constexpr int SEVERAL = -100;  // warps; -1, -2, ...: several of warpgroup 0, 1, ...
struct Meeting {
  int count = 0;
  unsigned long turn = 0;
  const void* in[128][4];
  void* out[128];
};
constexpr size_t STACK = 256 << 10;
struct Fibre {
  Index index;
  bool begun = false, done = false;
  ucontext_t first;
  jmp_buf later;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  unsigned long fences = 0, commits = 0;  // of what it wrote, and of its wgmma
  std::vector<Product> products;
};
std::vector<Fibre> fibres;
Fibre* current;
ucontext_t outside;
std::vector<std::unique_ptr<char[]>> stacks;  // kept from launch to launch
std::vector<uint8_t> shared;
std::vector<Cell> cells;
int racing;
u32 first_race;
Index block;
unsigned threads;
std::vector<Meeting> warps, warpgroups, workers;
std::vector<unsigned long> multiplied;  // groups of wgmma that are done, by warpgroup
Meeting all;
void (*body)(const void*);
const void* given;

const Index& thread() { return current->index; }
void fail(const char* what, u32 address) {
  fprintf(stderr, "emulator: %s (address %u)\n", what, address);
  abort();
}
int self() { return (int)current->index.x; }
u32 drawn = 1;
Fibre* other() {
  const int n = (int)fibres.size();
  drawn = drawn * 1664525 + 1013904223;
  for (int k = 0, at = (drawn >> 8) % n; k < n; ++k, at = at + 1 == n ? 0 : at + 1)
    if (!fibres[at].done && &fibres[at] != current) return &fibres[at];
  return nullptr;
}
struct Range {
  uintptr_t from, to;
};
std::vector<Range> allowed;
void* checked(const void* pointer, int bytes) {
  const uintptr_t at = (uintptr_t)pointer;
  for (const Range& r : allowed)
    if (at >= r.from && at + bytes <= r.to) return (void*)pointer;
  fail("beyond global memory");
}
// swapcontext asks the kernel for the signal mask every time; a jump does not.
[[noreturn]] void go(Fibre* f) {
  current = f;
  if (f->begun) _longjmp(f->later, 1);
  f->begun = true;
  setcontext(&f->first);
  abort();
}
void yield() {
  Fibre* f = other();
  if (f == nullptr) fail("threads wait for one that is gone");
  if (!_setjmp(current->later)) go(f);
}
void run() {
  body(given);
  current->done = true;
  Fibre* f = other();
  if (f == nullptr) setcontext(&outside);
  go(f);
}
void run_block(unsigned count, size_t bytes) {
  shared.assign(bytes, 0xFF);  // 0xFFFF is a NaN
  cells.assign(bytes / 4 + 1, Cell{});
  warps.assign(count / 32, Meeting{}), warpgroups.assign((count + 127) / 128, Meeting{}), workers = warpgroups, multiplied.assign(warpgroups.size(), 0), all = Meeting{};
  fibres = std::vector<Fibre>(count);
  while (stacks.size() < count) stacks.emplace_back(new char[STACK]);
  for (unsigned i = 0; i < count; ++i) {
    ucontext_t& first = fibres[i].first;
    fibres[i].index.x = i;
    getcontext(&first);
    first.uc_stack.ss_sp = stacks[i].get(), first.uc_stack.ss_size = STACK;
    makecontext(&first, run, 0);
  }
  current = &fibres[0];
  current->begun = true;
  swapcontext(&outside, &current->first);
}
void launch(unsigned blocks, unsigned count, size_t bytes, void (*kernel)(const void*), const void* arguments) {
  body = kernel, given = arguments, threads = count, racing = 0;
  for (block.x = 0; block.x < blocks; ++block.x) run_block(count, bytes);
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
uint8_t* at(u32 address, int bytes) {
  if ((size_t)address + bytes > shared.size()) fail("beyond shared memory", address);
  if (address % bytes) fail("not aligned", address);
  return shared.data() + address;
}
void race(u32 address) {
  if (!racing++) first_race = address;
}
Time now() { return {all.turn, all.turn + workers[self() >> 7].turn}; }
int warpgroup_of(int warp) { return warp == SEVERAL ? SEVERAL : warp < 0 ? -1 - warp : warp >> 2; }
// Whether nothing made this warp wait for what another one, or several, did then.
bool beside(const Time& then, int warp) {
  const int mine = self() >> 5;
  if (warp == mine) return false;
  return warpgroup_of(warp) == mine >> 2 ? then.warpgroup == now().warpgroup : then.block == all.turn;
}
int with(int warp) {
  const int mine = self() >> 7;
  return warpgroup_of(warp) == mine ? -1 - mine : SEVERAL;
}
uint8_t* read(u32 address, int bytes) {
  uint8_t* p = at(address, bytes);
  for (u32 i = address / 4; i < (address + bytes + 3) / 4; ++i) {
    Cell& c = cells[i];
    if (c.copies || beside(c.written, c.writer)) race(address);
    c.reader = beside(c.read, c.reader) ? with(c.reader) : self() >> 5, c.read = now();
  }
  return p;
}
uint8_t* written(u32 address, int bytes, int copies) {
  uint8_t* p = at(address, bytes);
  for (u32 i = address / 4; i < (address + bytes + 3) / 4; ++i) {
    Cell& c = cells[i];
    const bool multiplying = c.multiplier >= 0 && c.group >= multiplied[c.multiplier];
    if (multiplying || beside(c.read, c.reader) || beside(c.written, c.writer)) race(address);
    c.thread = self(), c.fences = current->fences;
    c.writer = self() >> 5, c.written = now(), c.copies += copies;
  }
  return p;
}
uint8_t* written(u32 address, int bytes) { return written(address, bytes, 0); }
float number(u16 bits) {
  _Float16 h;
  memcpy(&h, &bits, 2);
  return (float)h;
}
float low(u32 pair) { return number((u16)pair); }
float high(u32 pair) { return number((u16)(pair >> 16)); }
Meeting& warp() { return warps[self() >> 5]; }
void copy_wait(int pending) {
  auto& groups = current->groups;
  while ((int)groups.size() > pending) {
    for (auto& copy : groups[0]) {
      uint8_t* p = written(copy.to, 16, -1);
      memset(p, 0, 16);
      if (copy.bytes) memcpy(p, checked(copy.from, copy.bytes), copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

void load_matrices(u32* r, u32 address, int count) {
  const int lane = self() & 31;
  Meeting& w = warp();
  w.in[lane][0] = (const void*)(uintptr_t)address, w.out[lane] = r;
  meet(w, 32, [&] {
    for (int m = 0; m < count; ++m)
      for (int l = 0; l < 32; ++l) {
        const u32 row = (u32)(uintptr_t)w.in[m * 8 + l / 4][0];
        memcpy((u32*)w.out[l] + m, read(row, 16) + l % 4 * 4, 4);
      }
  });
}
void mma(float* d, const u32* a, const u32* b, int k, bool sparse, u32 metadata, int select) {
  const int lane = self() & 31;
  Meeting& w = warp();
  w.in[lane][0] = a, w.in[lane][1] = b, w.in[lane][2] = &metadata, w.out[lane] = d;
  meet(w, 32, [&] {
    static float A[16][32], B[32][8], D[16][8];
    static bool kept[16][32];
    memset(kept, !sparse, sizeof kept);
    for (int l = 0; l < 32; ++l) {
      const int g = l >> 2, t = l & 3;
      const u32 *ar = (const u32*)w.in[l][0], *br = (const u32*)w.in[l][1];
      for (int i = 0; i < k / 8; ++i) B[i * 8 + 2 * t][g] = low(br[i]), B[i * 8 + 2 * t + 1][g] = high(br[i]);
      for (int i = 0; i < (k == 8 ? 2 : 4); ++i) {
        const int row = g + (i & 1) * 8;
        if (!sparse) {
          const int column = 2 * t + (i >> 1) * 8;
          A[row][column] = low(ar[i]), A[row][column + 1] = high(ar[i]);
          continue;
        }
        const int group = t + (i >> 1) * 4;  // of four values, in a row of 32
        const u32 word = *(const u32*)w.in[g * 4 + 2 * select + (group >> 2)][2];
        const u32 bits = word >> (16 * (i & 1) + 4 * (group & 3)) & 15;
        if ((bits & 3) >= bits >> 2) fail("metadata is not ordered");
        const int first = group * 4 + (bits & 3), second = group * 4 + (bits >> 2);
        A[row][first] = low(ar[i]), A[row][second] = high(ar[i]);
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

// Of int8: four neighbouring columns of a row, or rows of a column, in a word. Of a 2:4 matrix 32 of 64 columns are stored; a
// lane's metadata are of one row, g or g + 8, and of 32 columns (lane 4 g: row g, columns 0 .. 31; 4 g + 1: row g + 8; 4 g + 2
// and 4 g + 3: columns 32 .. 63).
void mma_int8(int* d, const u32* a, const u32* b, bool sparse, u32 metadata) {
  const int lane = self() & 31;
  Meeting& w = warp();
  w.in[lane][0] = a, w.in[lane][1] = b, w.in[lane][2] = &metadata, w.out[lane] = d;
  meet(w, 32, [&] {
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
            if ((bits & 3) >= bits >> 2) fail("metadata is not ordered");
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
// An element of an operand of wgmma in shared memory.
float element(u64 descriptor, int row, int k) {
  const u32 base = (u32)(descriptor & 0x3FFF) << 4, lbo = (u32)(descriptor >> 16 & 0x3FFF) << 4, sbo = (u32)(descriptor >> 32 & 0x3FFF) << 4;
  const u32 address = base + row / 8 * sbo + row % 8 * 16 + k / 8 * lbo + k % 8 * 2;
  u16 bits;
  memcpy(&bits, read(address, 2), 2);
  Cell& c = cells[address / 4];
  if (c.thread >= 0 && c.fences == fibres[c.thread].fences) race(address);
  c.multiplier = self() >> 7, c.group = current->commits;
  return number(bits);
}
void multiply(Meeting& w, const float (&A)[64][32], u64 b, int n, int count) {
  static float B[256][32];
  for (int k = 0; k < count; ++k)
    for (int column = 0; column < n; ++column) B[column][k] = element(b, column, k);
  static float D[64][256];
  for (int m = 0; m < 64; ++m)
    for (int column = 0; column < n; ++column) {
      D[m][column] = 0;
      for (int k = 0; k < count; ++k) D[m][column] += A[m][k] * B[column][k];
    }
  for (int q = 0; q < 128; ++q) {
    Product product = {current->commits, (float*)w.out[q], {}};
    for (int j = 0; j < n / 8; ++j)
      for (int i = 0; i < 4; ++i) product.values.push_back(D[(q >> 5) * 16 + ((q & 31) >> 2) + (i >> 1) * 8][j * 8 + 2 * (q & 3) + (i & 1)]);
    fibres[(self() & ~127) + q].products.push_back(std::move(product));
  }
}
void wgmma_commit() { ++current->commits; }
void wgmma_wait(int pending) {
  const unsigned long done = current->commits - min((int)current->commits, pending);
  unsigned long& all_done = multiplied[self() >> 7];
  if (done > all_done) all_done = done;
  auto& products = current->products;
  while (!products.empty() && products[0].group < done) {
    for (size_t i = 0; i < products[0].values.size(); ++i) products[0].to[i] += products[0].values[i];
    products.erase(products.begin());
  }
}
void fence_async() { ++current->fences; }
void wgmma(float* d, u64 a, u64 b, int n) {
  Meeting& w = warpgroups[self() >> 7];
  w.out[self() & 127] = d;
  meet(w, 128, [&] {
    static float A[64][32];
    for (int m = 0; m < 64; ++m)
      for (int k = 0; k < 16; ++k) A[m][k] = element(a, m, k);
    multiply(w, A, b, n, 16);
  });
}
// Of 64 x 32 values 64 x 16 are stored; metadata of a warp's 16 rows as for mma.
void wgmma_sparse(float* d, u64 a, u64 b, u32 metadata, int select, int n) {
  Meeting& w = warpgroups[self() >> 7];
  w.out[self() & 127] = d, w.in[self() & 127][2] = &metadata;
  meet(w, 128, [&] {
    static float A[64][32];
    memset(A, 0, sizeof A);
    for (int m = 0; m < 64; ++m)
      for (int k = 0; k < 16; ++k) {
        const int group = k / 2, lane = m % 8 * 4 + 2 * select + group / 4;
        const u32 word = *(const u32*)w.in[m / 16 * 32 + lane][2], bits = word >> (16 * (m / 8 % 2) + 4 * (group % 4)) & 15;
        if ((bits & 3) >= bits >> 2) fail("metadata is not ordered");
        A[m][4 * group + (k % 2 ? bits >> 2 : bits & 3)] = element(a, m, k);
      }
    multiply(w, A, b, n, 32);
  });
}
}  // namespace emulator

using namespace emulator;

// What a launch may read and write, and nothing else from now on.
extern "C" void allow(const uintptr_t* ranges, int count) {
  allowed.clear();
  for (int i = 0; i < count; ++i) allowed.push_back({ranges[2 * i], ranges[2 * i] + ranges[2 * i + 1]});
}
// Accesses of the last launch that raced, and where the first one was.
extern "C" int races(unsigned* address) {
  *address = first_race;
  return racing;
}
void __syncthreads() {
  meet(all, (int)threads, [] {});
}
void worker_wait(int warpgroup) {
  if (warpgroup != self() >> 7) fail("the barrier of another warpgroup");
  meet(workers[warpgroup], 128, [] {});
}

void copy16(u32 to, const void* from, int bytes, bool wanted) {
  if (!wanted) return;
  if (to % 16 || (uintptr_t)from % 16) fail("cp.async is not aligned", to);
  written(to, 16, 1);
  current->open.push_back({to, from, bytes});
}
u32 load_word(const u16* from, bool wanted) {
  if ((uintptr_t)from % 4) fail("a word is not aligned");
  return wanted ? *(const u32*)checked(from, 4) : 0;
}
void copy_commit() {
  current->groups.push_back(current->open);
  current->open.clear();
}
u32 transposed(u32 value) {
  const int lane = self() & 31;
  Meeting& w = warp();
  u32 found = 0;
  w.in[lane][0] = (const void*)(uintptr_t)value, w.out[lane] = &found;
  meet(w, 32, [&] {
    u16 matrix[8][8];
    for (int l = 0; l < 32; ++l) {
      const u32 pair = (u32)(uintptr_t)w.in[l][0];
      matrix[l / 4][2 * (l % 4)] = (u16)pair, matrix[l / 4][2 * (l % 4) + 1] = (u16)(pair >> 16);
    }
    for (int l = 0; l < 32; ++l) *(u32*)w.out[l] = matrix[2 * (l % 4)][l / 4] | (u32)matrix[2 * (l % 4) + 1][l / 4] << 16;
  });
  return found;
}
u32 shuffle(u32 value, int from) {
  const int lane = self() & 31;
  Meeting& w = warp();
  u32 found = 0;
  w.in[lane][0] = &value, w.in[lane][1] = (const void*)(uintptr_t)(from & 31), w.out[lane] = &found;
  meet(w, 32, [&] {
    for (int l = 0; l < 32; ++l) *(u32*)w.out[l] = *(const u32*)w.in[(uintptr_t)w.in[l][1]][0];
  });
  return found;
}
float shuffle_xor(float value, int lanes) {
  const int lane = self() & 31;
  Meeting& w = warp();
  float found = 0;
  w.in[lane][0] = &value, w.out[lane] = &found;
  meet(w, 32, [&] {
    for (int l = 0; l < 32; ++l) *(float*)w.out[l] = *(const float*)w.in[l ^ lanes][0];
  });
  return found;
}
u32 halves(float low, float high) {
  const _Float16 pair[2] = {(_Float16)low, (_Float16)high};
  u32 found;
  memcpy(&found, pair, 4);
  return found;
}
float low_half(u32 pair) { return low(pair); }
float high_half(u32 pair) { return high(pair); }
u32 nearest(float v, float scale, float shift) {
  const float part = fminf(fmaxf(fmaf(v, scale, shift), 0), 1);
  return (u32)((int)nearbyint((double)part * 255) - 128);
}
u32 leaky_halves(u32 v, u32 slope) {
  auto one = [&](float f) { return f > 0 ? f : (float)(_Float16)(f * low_half(slope)); };
  return halves(one(low_half(v)), one(high_half(v)));
}
u32 larger_halves(u32 a, u32 b) {
  auto larger = [](float p, float q) { return p != p || p > q ? p : q; };
  return halves(larger(low_half(a), low_half(b)), larger(high_half(a), high_half(b)));
}
