"""What commands of this program import in the end: the server that `forked` starts has it."""

import importlib
import warnings

NAMES = (
    "compress.run.pipeline", "compress.cli.main", "compress.reporting", "modelopt.torch.sparsity",
    "matplotlib.pyplot", "onnx", "onnxruntime", "onnxscript", "scipy.ndimage", "torch.onnx",
    "pytest",  # forked processes import the script that runs here
)  # fmt: skip

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in NAMES:
        importlib.import_module(name)
