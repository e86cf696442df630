"""Kernels of our own for DDnet at its channel counts, and what drives them.

plan.py         a network as a list of operations on a few buffers; what an engine file stores
served.py       which convolutions the kernels compute
packing.py      weights as the kernels read them, BatchNorm folded with exact borders
rounding.py     weights in float16 whose errors cancel
tiling.py       how a convolution is cut into programs, and which cuts are tried
memory.py       buffers with a frame around each slice, made once per shape
plain.py        every operation in PyTorch: the fall-back, and what the kernels are compared with
conv.py         convolution, also followed by a 1x1                                       (Triton)
chain.py        a convolution and the 1x1 that reads what it adds, in one kernel          (Triton)
moves.py        max-pool and bilinear x2 between slices of buffers                        (Triton)
launch.py       from operations and buffers to the arguments of kernels                   (Triton)
session.py      a plan bound to one shape: buffers, chosen tilings, one CUDA graph
jobs.py         what is to be cut: each shape of a convolution or chain once
tune.py         which tiling is fastest, measured
search.py       the search for the fastest cut of one kernel
choose.py       which of the measured kernels compute a network, as measured in the whole network
timed.py        times of a kernel, and of ways through a whole network in turns
single.py       single convolutions, tuned and timed
ahead.py        kernels compiled by worker processes before they are measured
remembered.py   tilings of earlier builds
plan_json.py    a plan as JSON and back
report.py       kernel, microseconds and floor of each layer
route.py        which operations one kernel computes
two_of_four.py  2:4 weights in compressed form

Layout: N slices, H rows, W columns, C channels last ("NHWC"), float16 in memory, float32 sums.
Files marked (Triton) are imported late: torch for the CPU comes without Triton.
"""
