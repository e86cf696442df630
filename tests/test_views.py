"""Views, such as tiles and transposes, go into engines and files as what they show."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import torch as safetensors
from torch import Tensor, nn

from compress.base import machine
from compress.base.tensors import to_bytes
from compress.engines import fused
from compress.engines.aot_inductor import AotInductor
from compress.engines.base import Runner, Shape
from compress.engines.kernels.plan import compiled
from compress.engines.onnx import Onnx
from compress.engines.torch_tensorrt import TorchTensorRT
from compress.models.ddnet import DDnet

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SIDE = 32
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "tile": lambda x: x[..., 8 : 8 + SIDE, 16 : 16 + SIDE],
    "transpose": lambda x: x[..., :SIDE, :SIDE].transpose(2, 3),
    "every second row": lambda x: x[..., ::2, :SIDE],
    "one row repeated": lambda x: x[..., :1, :SIDE].expand(-1, -1, SIDE, -1),
    "float64": lambda x: x[..., :SIDE, :SIDE].double(),
}


class Uneven(nn.Module):
    """Another result wherever two pixels are exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> the same shape."""
        return x + self.layer(x)


def aot_inductor(folder: Path) -> Runner:
    AotInductor().build(Uneven().eval(), Shape(batch=1, size=SIDE), folder / "e.pt2", CPU)
    return AotInductor().load(folder / "e.pt2", CPU)


def onnx(folder: Path) -> Runner:
    Onnx().build(Uneven().eval(), Shape(batch=1, size=SIDE), folder / "e.onnx", CPU)
    return Onnx().load(folder / "e.onnx", CPU)


def fused_(folder: Path) -> Runner:
    torch.manual_seed(0)
    net = DDnet(residual=True, bottleneck=16, decoder=16).eval()
    fused.save(*compiled(net), folder / "e.safetensors")
    return fused.load(folder / "e.safetensors", CPU, kernels=False)


@pytest.fixture(scope="module", params=[aot_inductor, onnx, fused_], ids=lambda f: f.__name__)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """An engine of each format that runs without a GPU."""
    if request.param is aot_inductor and not machine.compiler()["works"]:
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(0)
    made: Runner = request.param(tmp_path_factory.mktemp("engine"))
    return made


@pytest.mark.parametrize("view", VIEWS)
def test_an_engine_computes_what_a_view_shows(runner: Runner, view: str) -> None:
    x = VIEWS[view](torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    plain = torch.tensor(x.tolist())
    with torch.inference_mode():
        assert torch.equal(runner(x), runner(plain))
        assert not torch.equal(runner(plain), runner(plain.flip((2, 3))))  # places matter


def test_a_program_of_torch_tensorrt_is_given_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    program = SimpleNamespace(module=lambda: lambda x: seen.append(x) or x)
    module = SimpleNamespace(load=lambda _path: program)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", module)
    run = TorchTensorRT().load(Path("e.ep"), CPU)
    for view in VIEWS.values():
        run(view(torch.rand(1, 1, 64, 64)))
    assert len(seen) == len(VIEWS)
    assert all(x.is_contiguous() and x.dtype == torch.float32 for x in seen)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda a: a,
    "transposed": lambda a: a.T,
    "column by column": np.asfortranarray,
    "every second": lambda a: a[::2],
    "a tile": lambda a: a[1:, :-1],
    "axes exchanged": lambda a: np.moveaxis(a, 0, -1),
}


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    layouts=st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=3),
)
def test_a_file_holds_what_strided_arrays_show(shape: list[int], layouts: list[str]) -> None:
    array = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    for layout in layouts:
        array = LAYOUTS[layout](array)
    tensor = torch.from_numpy(array)
    turned = torch.from_numpy(array.T)
    read = safetensors.load(to_bytes({"view": tensor, "same": tensor, "other": turned}))
    for name, expected in {"view": array, "same": array, "other": array.T}.items():
        np.testing.assert_array_equal(read[name].numpy(), expected)


def test_files_are_written_in_one_place() -> None:
    """Whoever serialises by himself forgets strides."""
    writers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "compress").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("safetensors.save", "safetensors.save_file")
        )
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("safetensors")
            and any("save" in alias.name for alias in node.names)
        )
    ]
    assert writers == ["compress/base/tensors.py"]
