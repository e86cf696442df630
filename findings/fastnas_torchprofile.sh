#!/usr/bin/env bash
# ModelOpt's FastNAS counts nothing with the torchprofile that its own message asks for.
#
# Without torchprofile, modelopt.torch.prune in mode "fastnas" says: run `pip install torchprofile`. That installs 0.1.0, whose
# module torchprofile.profile no longer holds the name `handlers` that ModelOpt looks up, so the search for an architecture
# ends in an AttributeError before it begins. ModelOpt declares torchprofile in no extra for users; only its extra for its own
# tests pins 0.0.4, with which the same call works.
#
# Versions: Python 3.11, nvidia-modelopt 0.47.0, torch 2.13.0 (CPU), torchprofile 0.0.4 and 0.1.0. 2026-11-29.
# Output seen: "none: ImportError; 0.0.4: pruned; 0.1.0: AttributeError"
# Ends with status 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 nvidia-modelopt==0.47.0 numpy==2.4.6 \
    huggingface_hub==2.4.0 requests==2.34.2
cat >"$folder/fastnas.py" <<'PYTHON'
import modelopt.torch.prune as mtp
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
    nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 1, 3, padding=1),
)
x = torch.rand(2, 1, 16, 16)
config = {
    "data_loader": [x], "collect_func": lambda batch: batch,
    "score_func": lambda model: -float(model(x).square().mean()), "max_iter_data_loader": 1,
}
try:
    net, _ = mtp.prune(
        net, mode="fastnas", constraints={"flops": "60%"}, dummy_input=x[:1], config=config
    )
    print("pruned")
except Exception as error:
    print(type(error).__name__)
PYTHON
run() { "$folder/venv/bin/python" -W ignore "$folder/fastnas.py" 2>/dev/null | tail -n 1; }
said="none: $(run)"
for version in 0.0.4 0.1.0; do
    "$folder/venv/bin/pip" install --quiet "torchprofile==$version"
    said+="; $version: $(run)"
done
echo "$said"
[ "$said" = "none: ImportError; 0.0.4: pruned; 0.1.0: AttributeError" ]
