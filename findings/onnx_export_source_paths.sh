#!/usr/bin/env bash
# torch.onnx.export writes source lines and absolute paths of the exporting machine into the file.
#
# With dynamo=True every node of the ONNX graph carries metadata: a stack trace with the absolute
# path and the text of each source line on the way, and the names of the Python classes. A model that
# is given away tells where and by whom it was written, and two exports of one network from two
# folders differ in their bytes. One expects weights and operators only.
#
# Versions: Python 3.11, torch 2.13.0 (CPU), onnx 1.23.2, onnxscript 0.7.2. 2026-11-28.
# Output seen: "nodes: 2, with a stack trace: 2, with the path of this script's folder: 2"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2
cat >"$folder/network.py" <<'PYTHON'
import os
import sys

import onnx
import torch


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return torch.relu(self.layer(x))


path = os.path.join(os.path.dirname(__file__), "small.onnx")
torch.onnx.export(Small(), (torch.zeros(1, 1, 8, 8),), path, dynamo=True, verbose=False)
nodes = onnx.load(path).graph.node
texts = [" ".join(entry.value for entry in node.metadata_props) for node in nodes]
traced = sum("in forward" in text for text in texts)
placed = sum(os.path.dirname(__file__) in text for text in texts)
print(f"nodes: {len(nodes)}, with a stack trace: {traced}, "
      f"with the path of this script's folder: {placed}")
sys.exit(not len(nodes) == traced == placed)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/network.py" 2>/dev/null
