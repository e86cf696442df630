"""Engines: a network compiled for one place, in a file, with a sidecar that says which place.

torch_tensorrt.py  TensorRT through Torch-TensorRT, 2:4 weights included
tensorrt_plan.py   a TensorRT plan, run
tensorrt_log.py    which layers of a TensorRT engine run sparse kernels, by its own words
aot_inductor.py    a compiled .pt2 package of PyTorch's own, for Python and C++
layer_times.py     times of single layers on this machine, for `prune` with target latency
fused.py           DDnet on Triton kernels of our own, see kernels/
onnx.py            a portable model for trtexec and ONNX Runtime
subject.py         the module that is compiled: half precision inside, float32 at its borders
triton_server.py   engines as a model repository of Triton Inference Server
formats.py         the table of the formats
precision.py       the table of the precisions
base.py            what a format is, and what its parts have in common
sidecar.py         what an engine was built from and for; checked before it is loaded
build.py           one engine: rewritten, compiled, described, compared
records.py         what sidecars, parity and rows of an export hold
parity.py          how far it is from the network, in HU
subprocess_run.py  an engine run once in a process of its own: what parity is measured on
inspection.py      `compress inspect`: the layers of a checkpoint or an engine

Every format computes (N, 1, H, W) float32 in network range -> the same shape, whatever its
precision inside.
"""
