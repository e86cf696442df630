"""Plans of TensorRT-RTX from ONNX files, for a GPU that need not be here: python THIS FILE.onnx...

    pip install --no-deps tensorrt-rtx-cu13-bindings==1.7.1.116
    pip download --no-deps onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0   # its libraries lie inside
    unzip -j onnxruntime_ep_nv_tensorrt_rtx_cu13-*.whl '*libtensorrt_*rtx.so.*' -d LIB
    python tests/bench/rtx_plans.py --lib LIB --capability 8.0 DIR/*.onnx

Prints a line of JSON for each file: the layers of the network, and bytes of the plan or TensorRT's
errors. Exit status: 0 where every plan was built, else 1.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import click

KINDS = ("QUANTIZE", "DEQUANTIZE", "CONVOLUTION")


def library(folder: Path) -> Any:
    """The module of TensorRT-RTX, with the libraries of a folder."""
    for pattern in ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
        found = sorted(folder.glob(pattern))
        if not found:
            raise click.UsageError(f"--lib {folder} holds no {pattern}")
        ctypes.CDLL(str(found[-1]), mode=ctypes.RTLD_GLOBAL)
    import tensorrt_rtx_bindings  # type: ignore[import-not-found]

    return tensorrt_rtx_bindings


def plan(trt: Any, path: Path, capability: str) -> dict[str, Any]:
    """Build one plan for a compute capability, such as 8.0."""

    class Said(trt.ILogger):  # type: ignore[misc, name-defined]
        errors: list[str]

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    said = Said()
    said.errors = []
    builder = trt.Builder(said)
    network = builder.create_network(0)
    parsed = trt.OnnxParser(network, said).parse_from_file(str(path))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    wanted = getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")
    config.set_compute_capability(wanted, 0)
    built = builder.build_serialized_network(network, config) if parsed else None
    names = [network.get_layer(k).type.name for k in range(network.num_layers)]
    return {
        "file": path.name,
        "tensorrt_rtx": trt.__version__,
        "capability": capability,
        "layers": len(names),
        **{kind.lower(): names.count(kind) for kind in KINDS},
        "bytes": built.nbytes if built else None,
        "errors": said.errors,
    }


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--lib", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--capability", default="8.0", help="Compute capability of the GPU to build for.")
def main(files: tuple[Path, ...], lib: Path, capability: str) -> None:
    """Build plans."""
    trt = library(lib)
    rows = [plan(trt, path, capability) for path in files]
    for row in rows:
        print(json.dumps(row))
    sys.exit(any(row["bytes"] is None for row in rows))


if __name__ == "__main__":
    main()
