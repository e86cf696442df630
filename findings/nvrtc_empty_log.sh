#!/usr/bin/env bash
# An empty log of NVRTC changes Python's byte b" " for the whole process.
#
# nvrtcGetProgramLog of cuda-bindings writes into the bytes object that it is given, as large as
# nvrtcGetProgramLogSize says. The idiom is  log = b" " * size.  Where the compiler said nothing the
# size is 1, and b" " * 1 is the constant b" " itself; in code that Python compiles when it runs, that is
# the one object that CPython keeps for this byte. The log's final zero becomes its value: a slice of one
# byte, bytes([32]) and blanks that other modules pad with are zeros from then on. A constant that came
# from a .pyc file is an object of its own, so whether it happens depends on __pycache__. A buffer of at
# least two bytes helps.
#
# Versions: Python 3.11, cuda-bindings 13.5.0, nvidia-cuda-nvrtc 13.5.37. No GPU. 2026-11-28.
# Output seen: "size of the log 1; the blank in b'a b' as a slice: before 32, after 0"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cuda-bindings==13.5.0 nvidia-cuda-nvrtc==13.5.37
cat >"$folder/log.py" <<'PYTHON'
import sys

from cuda.bindings import nvrtc

text = b'extern "C" __global__ void add(float* x) { x[threadIdx.x] += 1; }'
words = bytearray(b"a b")
before = bytes(words)[1:2][0]
_, program = nvrtc.nvrtcCreateProgram(text, b"add.cu", 0, [], [])
(done,) = nvrtc.nvrtcCompileProgram(program, 1, [b"--gpu-architecture=sm_80"])
_, size = nvrtc.nvrtcGetProgramLogSize(program)
log = b" " * size
nvrtc.nvrtcGetProgramLog(program, log)
after = bytes(words)[1:2][0]
print(f"size of the log {size}; the blank in b'a b' as a slice: before {before}, after {after}")
sys.exit((int(done), size, before, after) != (0, 1, 32, 0))
PYTHON
"$folder/venv/bin/python" "$folder/log.py"
