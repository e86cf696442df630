"""Fails where the image lacks a part that the reference recipe needs; run while it is built.

Every part is imported in a process of its own, as steps do it: Apex O1 changes torch for good.
"""

import subprocess
import sys

PARTS = {
    "apex.amp": "from apex import amp; amp.initialize, amp.scale_loss",
    "Apex ASP": "from apex.contrib.sparsity import ASP; ASP.init_model_for_pruning",
    "ModelOpt": "import modelopt.torch.sparsity as mts; mts.sparsify",
    "Torch-TensorRT": "import torch_tensorrt; torch_tensorrt.dynamo.compile",
    "compress": "from compress.cli.main import main",
}
"""Name -> the statement that must not fail."""


def lacking(statement: str) -> str:
    """The last line of what Python says of a statement; empty where it works."""
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    said = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    return said[-1] if done.returncode else ""


def main(names: list[str]) -> int:
    """Print a line for each part; 1 if any is missing."""
    wanted = names or list(PARTS)
    found = {name: lacking(PARTS[name]) for name in wanted}
    for name, reason in found.items():
        print(f"{name}: {reason or 'imports'}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
