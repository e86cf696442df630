"""The Python entry: its examples run, it leaves networks as they are, and it is light at import."""

import copy
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compress
from compress import api, checkpoint
from compress.base.errors import CompressError, QualityError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.graph.cost import cost
from compress.graph.layout import by_output
from compress.graph.padding import AnySize
from compress.imaging import arrays
from compress.models.ddnet import DDnet
from compress.quantization import quantisers
from compress.sparsity import pattern

SMALL = {"residual": True, "trunk": 16, "bottleneck": 32, "decoder": 32}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return DDnet(**SMALL).eval()


def test_examples_run() -> None:
    for module, least in ((api, 20), (arrays, 3)):
        found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert found.attempted > least
        assert not found.failed


def test_the_package_imports_no_torch_until_it_is_used() -> None:
    code = "import compress, sys; print('torch' in sys.modules, len(compress.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(len(compress.__all__))]


def test_every_name_is_that_of_the_entry() -> None:
    assert {name: getattr(compress, name) for name in compress.__all__} == {
        name: getattr(api, name) for name in compress.__all__
    }
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        compress.prun  # noqa: B018


def test_functions_have_types_and_examples() -> None:
    for name in compress.__all__:
        function = getattr(api, name)
        if inspect.isfunction(function) and function.__module__ in (api.__name__, arrays.__name__):
            assert ">>>" in (function.__doc__ or ""), name
            assert "return" in function.__annotations__, name


def test_networks_are_left_as_they_are(net: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    compress.sparsify(compress.prune(net, amount=0.3))
    compress.evaluate(net, np.zeros((1, 32, 32)), np.zeros((1, 32, 32)))
    assert net.training
    net.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_enhance_is_the_same_in_training(net: nn.Module) -> None:
    """BatchNorm would follow each slice, and remember it."""
    net = copy.deepcopy(net)
    image = np.random.default_rng(0).normal(0, 300, (2, 32, 32))
    expected = compress.enhance(net, image)
    before = copy.deepcopy(net.train().state_dict())
    assert np.array_equal(compress.enhance(net, image), expected)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("image", [np.ones((4, 6))[::-1], np.ones((6, 4), "i2").T, [[1, 1]] * 4])
def test_arrays_of_any_kind_are_enhanced(image) -> None:
    assert np.all(compress.enhance(nn.Identity(), image) == pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ([[0, np.nan, np.inf]], "holds values that are not finite"),
        (np.zeros((0, 4, 4)), r"holds no pixel: its shape is \(0, 4, 4\)"),
        (np.zeros((4, 4), complex), "must be numbers in HU, got complex128"),
        ([["a"]], "must be numbers in HU, got <U1"),
        ([[1], [1, 2]], "is no array: "),
    ],
)
def test_what_is_no_image_is_one_sentence(image, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"^image {sentence}"):
        compress.enhance(nn.Identity(), image)
    with pytest.raises(UsageError, match=f"^full {sentence}"):
        compress.evaluate(nn.Identity(), np.zeros((1, 32, 32)), image)


def test_a_network_that_gives_infinity_is_refused() -> None:
    """Clipped, it would be white."""

    class Overflows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x > 0.5, torch.inf, x)

    with pytest.raises(QualityError, match="gives NaN or infinity"):
        compress.enhance(Overflows(), [[0, 1800]])


def test_values_beyond_int16_do_not_come_out_at_the_other_end() -> None:
    full = np.zeros((1, 16, 16))
    full[0, 4:12, 4:12] = 40_000
    quality = compress.evaluate(nn.Identity(), full.clip(None, 1900), full)
    assert quality.input["rmse_hu"] == pytest.approx(0)


def test_prune_does_what_the_step_does(net: nn.Module) -> None:
    pruned = compress.prune(net, amount=0.4)
    assert cost(pruned).macs <= 0.6 * cost(net).macs
    with pytest.raises(UsageError, match="amount"):
        compress.prune(net, amount=0.999)
    with pytest.raises(ValueError, match="amount"):
        compress.prune(net, amount=2)


def test_quantize_does_what_the_step_does(net: nn.Module, tmp_path: Path) -> None:
    low = np.random.default_rng(0).normal(0, 200, (2, 48, 32))
    net = copy.deepcopy(net)
    nn.init.normal_(net.decoders[-1].narrow.conv.weight, std=0.1)  # a layer of zeros has no range
    sparse = compress.sparsify(net)
    int8 = compress.quantize(sparse, low, calibrate=4, keep=("stem.conv",))
    able = {name for name, layer in sparse.named_modules() if isinstance(layer, nn.Conv2d)}
    assert {*quantisers.quantised(int8)} == able - {"stem.conv"}
    x = torch.rand(1, 1, 32, 32)
    assert not torch.equal(int8(x), sparse(x))
    engine = compress.export(int8, tmp_path, size=32)
    assert engine.max_hu < 10
    with pytest.raises(UsageError, match="quantised already"):
        compress.quantize(int8, low)
    with pytest.raises(UsageError, match=r"must be \(N, H, W\)"):
        compress.quantize(net, low[0])
    with pytest.raises(ValueError, match="budget must be positive"):
        compress.quantize(net, low, budget=0)


def test_zeros_hold_under_training_of_the_user_s_own(net: nn.Module) -> None:
    sparse = compress.sparsify(net).train()
    optimizer = torch.optim.Adam(sparse.parameters(), lr=0.1)
    held = compress.hold_sparsity(sparse, optimizer)
    assert len(held) == sum(pattern.is_2to4(by_output(sparse.get_submodule(n))) for n in held)
    for _ in range(2):
        sparse(torch.rand(1, 1, 32, 32)).square().mean().backward()
        optimizer.step()
    assert all(pattern.is_2to4(by_output(sparse.get_submodule(name))) for name in held)


def test_a_last_layer_that_starts_at_zero_learns_beside_zeros_that_hold() -> None:
    sparse = compress.sparsify(DDnet(**SMALL)).train()
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    held = compress.hold_sparsity(sparse, optimizer)
    last = sparse.decoders[-1].narrow.conv.weight
    assert not last.any()
    sparse(torch.rand(1, 1, 32, 32)).square().mean().backward()
    optimizer.step()
    assert held
    assert last.any()


def test_checkpoints_and_engines_load(net: nn.Module, tmp_path: Path) -> None:
    origin = ModelOptions(name="ddnet", options=SMALL)
    (tmp_path / "model").mkdir()
    checkpoint.save(Model(net=net, origin=origin), tmp_path / "model")
    back = compress.load(tmp_path / "model")
    engine = compress.export(back, tmp_path / "engines", size=32)
    x = torch.rand(3, 1, 20, 30)
    expected = net(nn.functional.pad(x, (0, 2, 0, 12), mode="reflect"))[..., :20, :30]
    image = np.random.default_rng(0).integers(-1000, 1000, (2, 20, 30))
    for path in (engine.path, engine.sidecar):
        loaded = compress.load(path)
        x.requires_grad_(path == engine.path)
        torch.testing.assert_close(loaded(x), expected, atol=1e-5, rtol=0)
        assert np.abs(compress.enhance(loaded, image) - compress.enhance(back, image)).max() < 0.1


def test_enhancing_leaves_a_network_in_training_as_it_is(net: nn.Module) -> None:
    image = np.random.default_rng(0).integers(-1000, 1000, (32, 32))
    expected = compress.enhance(net, image)
    training = copy.deepcopy(net).train()
    before = copy.deepcopy(training.state_dict())
    assert np.array_equal(compress.enhance(training, image), expected)
    assert training.training
    after = training.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_values_that_int16_cannot_hold_are_not_measured_as_others() -> None:
    bright = np.full((1, 16, 16), 40_000)
    quality = compress.evaluate(nn.Identity(), bright, np.full((1, 16, 16), 1900))
    assert quality.input["rmse_hu"] == 0  # clipped as images are, not wrapped to -25536
    with pytest.raises(UsageError, match=r"^low holds values that are not finite"):
        compress.evaluate(nn.Identity(), np.full((1, 16, 16), np.nan), bright)


def test_what_cannot_be_done_is_one_sentence(net: nn.Module, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(CompressError, match=r"^fused was not built: fused kernels need a GPU"):
            compress.export(net, tmp_path, "fused", size=32)
    with pytest.raises(UsageError, match=r"must be \(N, H, W\) of one shape, got \(32, 32\)"):
        compress.evaluate(net, np.zeros((32, 32)), np.zeros((32, 32)))
    with pytest.raises(UsageError, match=r"must be \(H, W\) or \(N, H, W\), got \(4,\)"):
        compress.enhance(net, np.zeros(4))


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 8, 8), (0, 1, 8, 8), (1, 1, 0, 8)])
def test_engines_refuse_another_shape(shape: tuple[int, ...]) -> None:
    """AOTInductor computes with what lies behind in memory."""
    engine = AnySize(nn.Identity(), 16, 1)
    with pytest.raises(UsageError, match=r"^expected \(N, 1, H, W\), none of them 0, got \("):
        engine(torch.zeros(shape))


@pytest.mark.parametrize("name", ["at", "rounds"])
def test_what_divides_a_training_is_not_ignored(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} divides a training, so it is for recipes only"):
        compress.prune(DDnet(trunk=16, bottleneck=32, decoder=32), amount=0.3, **{name: 0.5})


class Pair(nn.Conv2d):
    """Gives a tuple."""

    def __init__(self) -> None:
        super().__init__(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), x


def normed() -> nn.Module:
    """A layer whose weight PyTorch cannot copy."""
    with pytest.warns(FutureWarning, match="deprecated"):
        return nn.utils.weight_norm(nn.Conv2d(1, 1, 3, padding=1))


LOW = np.zeros((1, 32, 32))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: compress.quantize(DDnet(**SMALL), LOW[:, :8, :8]), "crops to measure on: DDnet"),
        (lambda: compress.quantize(DDnet(**SMALL), LOW, method="most"), "one of max, mse, percent"),
        (lambda: compress.prune(DDnet(**SMALL), amount="half"), "prune: amount: expected a number"),
        (lambda: compress.prune(DDnet(**SMALL), amont=0.5), "no option 'amont'; did you mean 'amo"),
        (lambda: compress.prune(DDnet), "a network is a torch.nn.Module, got the class DDnet"),
        (lambda: compress.prune(nn.Conv2d(1, 1, 1, device="meta")), "no weights yet: they are on"),
        (lambda: compress.sparsify("net"), "a network is a torch.nn.Module, got 'net'"),
        (lambda: compress.sparsify(normed()), "take torch.nn.utils.parametrizations.weight_norm"),
        (lambda: compress.cost("net"), "a network is a torch.nn.Module, got 'net'"),
        (lambda: compress.enhance("net", LOW), "a network is a torch.nn.Module, got 'net'"),
        (lambda: compress.enhance(Pair(), LOW), "Pair gives a tuple, not a tensor"),
        (lambda: compress.enhance(nn.Conv2d(2, 1, 1), LOW), "Conv2d takes no slice of shape"),
        (lambda: compress.evaluate(Pair(), LOW, LOW), "Pair gives a tuple, not a tensor"),
        (lambda: compress.evaluate(nn.Identity(), LOW[:, :8], LOW[:, :8]), "SSIM needs 11 x 11"),
        (lambda: compress.export(DDnet(**SMALL), ".", "onxx"), "did you mean 'onnx'?"),
    ],
)
def test_what_cannot_work_is_one_sentence(call, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sparse_network_is_not_pruned() -> None:
    """It was, and its weights were 2:4 no more."""
    sparse = compress.sparsify(DDnet(**SMALL))
    with pytest.raises(UsageError, match="is 2:4 sparse, and removing channels would break"):
        compress.prune(sparse, amount=0.3)


def test_options_may_be_tuples_and_numbers_of_numpy() -> None:
    small = compress.prune(DDnet(**SMALL), amount=np.float64(0.3), ignore=("stem.*",))
    assert small.stem.conv.out_channels == 16
