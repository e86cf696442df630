// The PTX instructions that the kernels are made of, one function each. Addresses in shared memory are
// 32-bit; float16 values travel as bits, two in a u32, the lower channel in the lower half.
#pragma once
#define DEV __device__ __forceinline__
#define KERNEL(name, threads, resident) extern "C" __global__ void __launch_bounds__(threads, resident) name
#define SHARED_BASE(name)                            \
  extern __shared__ __align__(1024) char dynamic[]; \
  const u32 name = (u32)__cvta_generic_to_shared(dynamic)

using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;
struct alignas(16) Quad {
  u32 v[4];
};

// Where `wanted`: 16 bytes from global to shared memory, asynchronously; zeros where bytes is 0. A predicate, and no
// branch: between the start of wgmma and the wait for it a branch makes ptxas wait earlier (C7517).
DEV void copy16(u32 to, const void* from, int bytes, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %3, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %2;}\n"
               ::"r"(to), "l"(from), "r"(bytes), "r"((int)wanted) : "memory");
}
// Likewise stores and a load of float32, which is 0 where not wanted.
DEV void store_global(void* to, u32 value, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p st.global.u32 [%0], %1;}\n" ::"l"(to), "r"(value), "r"((int)wanted) : "memory");
}
DEV void store_global(void* to, u64 value, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p st.global.u64 [%0], %1;}\n" ::"l"(to), "l"(value), "r"((int)wanted) : "memory");
}
DEV void store_global(void* to, float value, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p st.global.f32 [%0], %1;}\n" ::"l"(to), "f"(value), "r"((int)wanted) : "memory");
}
DEV u32 load_word(const u16* from, bool wanted) {  // likewise of two float16, 4-byte aligned, from memory that is only read
  u32 value;
  asm volatile("{.reg .pred p; mov.u32 %0, 0; setp.ne.b32 p, %2, 0; @p ld.global.nc.u32 %0, [%1];}\n" : "=r"(value) : "l"(from), "r"((int)wanted));
  return value;
}
DEV u32 load_word(const u16* from) { return __ldg((const u32*)from); }
DEV Quad load_global(const u16* from) { return *(const Quad*)from; }
DEV void store_global(u16* to, const Quad& value) { *(Quad*)to = value; }
DEV void store_global(u16* to, u64 value) { *(u64*)to = value; }
DEV float load_global(const float* from, bool wanted) {
  float value;
  asm volatile("{.reg .pred p; mov.f32 %0, 0f00000000; setp.ne.b32 p, %2, 0; @p ld.global.f32 %0, [%1];}\n"
               : "=f"(value) : "l"(from), "r"((int)wanted) : "memory");
  return value;
}
DEV void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Until at most PENDING groups of copies are under way.
template <int PENDING> DEV void copy_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory"); }

// Four 8x8 matrices: lane 8 m + r gives the address of row r of matrix m; a thread receives two
// neighbouring values of row lane / 4 of each.
DEV void load_matrices(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
DEV void load_matrices(u32 (&r)[2], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
DEV void load_shared(u32 (&r)[4], u32 address) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
DEV void load_shared(float (&r)[2], u32 address) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n" : "=f"(r[0]), "=f"(r[1]) : "r"(address) : "memory");
}
DEV u32 load_shared(u32 address) {
  u32 value;
  asm volatile("ld.shared.u32 %0, [%1];\n" : "=r"(value) : "r"(address) : "memory");
  return value;
}
DEV void store_shared(u32 address, const Quad& value, bool wanted) {  // predicated, as above
  asm volatile("{.reg .pred p; setp.ne.b32 p, %5, 0; @p st.shared.v4.u32 [%0], {%1, %2, %3, %4};}\n"
               ::"r"(address), "r"(value.v[0]), "r"(value.v[1]), "r"(value.v[2]), "r"(value.v[3]), "r"((int)wanted) : "memory");
}
DEV void store_shared(u32 address, u32 value, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p st.shared.u32 [%0], %1;}\n" ::"r"(address), "r"(value), "r"((int)wanted) : "memory");
}
DEV void store_shared(u32 address, u16 value, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p st.shared.u16 [%0], %1;}\n" ::"r"(address), "h"(value), "r"((int)wanted) : "memory");
}
DEV void store_shared_pair(u32 address, u32 low, u32 high) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};\n" ::"r"(address), "r"(low), "r"(high) : "memory");
}
DEV void store_shared(u32 address, u32 value) {
  asm volatile("st.shared.u32 [%0], %1;\n" ::"r"(address), "r"(value) : "memory");
}
// The transposed 8x8 matrix whose rows lie as load_matrices returns them.
DEV u32 transposed(u32 value) {
  u32 found;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(found) : "r"(value));
  return found;
}
// The value of another lane, modulo 32.
DEV u32 shuffle(u32 value, int lane) { return __shfl_sync(0xFFFFFFFF, value, lane); }
DEV float shuffle_xor(float value, int lanes) { return __shfl_xor_sync(0xFFFFFFFF, value, lanes); }
// a where `first`, without a branch.
DEV u32 either(bool first, u32 a, u32 b) {
  u32 found;
  asm("{.reg .pred p; setp.ne.b32 p, %3, 0; selp.b32 %0, %1, %2, p;}\n" : "=r"(found) : "r"(a), "r"(b), "r"((int)first));
  return found;
}
// Rounded by itself, never as a part of a fused multiply-add.
DEV float product(float a, float b) {
  float found;
  asm("mul.rn.f32 %0, %1, %2;\n" : "=f"(found) : "f"(a), "f"(b));
  return found;
}
DEV u32 halves(float low, float high) {
  u32 found;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(found) : "f"(high), "f"(low));
  return found;
}
DEV float low_half(u32 pair) {
  float found;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}\n" : "=f"(found) : "r"(pair));
  return found;
}
DEV float high_half(u32 pair) {
  float found;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}\n" : "=f"(found) : "r"(pair));
  return found;
}
DEV float as_float(u32 bits) { return __uint_as_float(bits); }
// v scale + shift, 0 and 1 where it would be less and more, in units of 1 / 255: the nearest one, minus 128, in the low byte. The
// unit in the last place of 2^23 3/2 is 1. Where two integers are as near, rounding before decides.
DEV u32 nearest(float v, float scale, float shift) {
  u32 found;
  asm("{.reg .f32 t; fma.rn.sat.f32 t, %1, %2, %3; fma.rn.f32 t, t, 0f437F0000, 0f4B3FFF80; mov.b32 %0, t;}\n"
      : "=r"(found) : "f"(v), "f"(scale), "f"(shift));
  return found;
}
// The low bytes of four words, the first one lowest.
DEV u32 low_bytes(u32 a, u32 b, u32 c, u32 d) {
  u32 found;
  asm("{.reg .b32 l, h; prmt.b32 l, %1, %2, 0x0040; prmt.b32 h, %3, %4, 0x0040; prmt.b32 %0, l, h, 0x5410;}\n" : "=r"(found) : "r"(a), "r"(b), "r"(c), "r"(d));
  return found;
}
// v where it is positive, else v times `slope` (twice the same float16), of both halves.
DEV u32 leaky_halves(u32 v, u32 slope) {
  u32 found;
  asm("{.reg .b32 t; mul.f16x2 t, %1, %2; max.f16x2 %0, %1, t;}\n" : "=r"(found) : "r"(v), "r"(slope));
  return found;
}
// NaN where one is.
DEV u32 larger_halves(u32 a, u32 b) {
  u32 found;
  asm("max.NaN.f16x2 %0, %1, %2;\n" : "=r"(found) : "r"(a), "r"(b));
  return found;
}

// d (16 x 8) += a (16 x 16) b (16 x 8)
DEV void mma_dense(float (&d)[4], const u32 (&a)[4], const u32* b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d (16 x 8) += a (16 x 8) b (8 x 8)
DEV void mma_dense8(float (&d)[4], const u32* a, u32 b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b));
}
// d (16 x 8) = a (16 x 16) b (16 x 8) + c, c[0] in rows 0 .. 7 and c[1] in rows 8 .. 15 of this thread.
DEV void mma_dense(float (&d)[4], const u32 (&a)[4], const u32* b, const float (&c)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %11, %11};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]));
}
// Likewise, c[0] in this thread's even column and c[1] in its odd one.
DEV void mma_columns(float (&d)[4], const u32 (&a)[4], const u32* b, const float (&c)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %10, %11};\n"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]));
}
// d (16 x 8) += a (16 x 32, two of four, 16 x 16 stored) b (32 x 8); metadata of lanes 2 SELECT, 2 SELECT + 1.
template <int SELECT> DEV void mma_sparse(float (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
  asm("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata), "n"(SELECT));
}
// Likewise of int8, four in a u32: d (16 x 8) += a (16 x 32) b (32 x 8), exact.
DEV void mma_int8(int (&d)[4], const u32 (&a)[4], const u32* b) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d (16 x 8) += a (16 x 64, two of four, 16 x 32 stored) b (64 x 8); metadata of all lanes.
DEV void mma_int8_sparse(int (&d)[4], const u32 (&a)[4], const u32* b, u32 metadata) {
  asm("mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, 0;\n"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(metadata));
}

// All 128 threads of a warpgroup, and no others.
DEV void worker_wait(int warpgroup) { asm volatile("bar.sync %0, 128;\n" ::"r"(warpgroup + 1) : "memory"); }
// What ordinary stores and copies left in shared memory becomes visible to wgmma.
DEV void fence_async() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
// Keeps the compiler from using a register of wgmma before the wait that stands above this.
DEV void wgmma_arrived(float& value) { asm volatile("" : "+f"(value)::"memory"); }
DEV void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int PENDING> DEV void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(PENDING) : "memory"); }
