"""5x5 and 3x3 convolutions of 16 to 64 channels in CUDA C++: dense, 2:4, INT8.

They are compiled when an engine is built.

window_mma.cu      by mma.sync or mma.sp, compute capability 8.0 and newer
mma_*.cuh          its parts: rows copied, steps of a strip, the 1x1 before, products, what follows
window_int8.cu     by mma.sync or mma.sp of INT8, 8.0 and newer; parts of the above are in it
int8_*.cuh         its own parts: rows rounded, products
window_wgmma.cu    by wgmma, 9.0 only
window_wgmma_sparse.cu  by wgmma.sp, 9.0 only: 2:4, 32 output channels
wgmma_*.cuh        parts of both: rows copied, what follows
upsample.cuh       bilinear x2 of a part of the input of either
bilinear.cuh       its formula
stem.cu            the 7x7 of one channel, and the max-pool behind it
moves.cu           max-pool and bilinear x2
instructions.cuh   the PTX instructions of both, one function each
arguments.cuh      what both are given; which strip of the image a block computes
wgmma.py      wgmma for a number of columns, as C++
window.py     what a kernel computes, how it is cut, which cuts are tried
products.py   kinds of kernels; how those in INT8 share taps out
fragments.py  weights as the kernels read them, 2:4 ones with their metadata
compiler.py   NVRTC, a cache on disk, and the loaded kernel
launch.py     from operations and buffers to a call
moves.py      the same for moves.cu

Triton has no sparse product, and its tensor-core product wants a matrix; the window that slides
down a strip of rows multiplies no zeros, see docs/fused.md. NVIDIA's Python packages (cuda-bindings
and NVRTC) are imported late: without them Triton computes every layer.
"""
