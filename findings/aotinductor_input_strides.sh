#!/usr/bin/env bash
# An AOTInductor package computes a transposed input as if it were not transposed.
#
# The package is compiled for the strides of the example input. aoti_load_package takes a view of the
# same shape, such as a transpose or a tile cut from a larger slice, without a word, and reads its
# memory from the view's first element on in the compiled order. The numbers belong to other pixels.
# torch.compile guards strides and compiles again; the exported program itself is right, too.
# x.contiguous() before the call helps.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), g++ 12.2. 2026-11-28.
# Output seen: "the package's result is that of the contiguous input: plain yes, transpose no, tile no;
#               the exported program: plain yes, transpose yes, tile yes"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy setuptools
cat >"$folder/strides.py" <<'PYTHON'
import os
import sys

import torch


class Brighter(torch.nn.Module):
    def forward(self, x):
        return 2 * torch.relu(x) + 1


x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
large = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
views = {"plain": x, "transpose": x.transpose(2, 3), "tile": large[..., 8:40, 8:40]}
path = os.path.join(os.path.dirname(__file__), "brighter.pt2")
with torch.inference_mode():
    program = torch.export.export(Brighter(), (x,))
    torch._inductor.aoti_compile_and_package(program, package_path=path)
    package, exported = torch._inductor.aoti_load_package(path), program.module()
    right = {
        who: {name: torch.allclose(call(view), call(view.contiguous())) for name, view in views.items()}
        for who, call in (("package", package), ("program", exported))
    }


def words(found):
    return ", ".join(f"{name} {'yes' if same else 'no'}" for name, same in found.items())


print(
    f"the package's result is that of the contiguous input: {words(right['package'])}; "
    f"the exported program: {words(right['program'])}"
)
expected = {"plain": True, "transpose": False, "tile": False}
sys.exit(right != {"package": expected, "program": dict.fromkeys(expected, True)})
PYTHON
TORCHINDUCTOR_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" -W ignore "$folder/strides.py" 2>/dev/null
