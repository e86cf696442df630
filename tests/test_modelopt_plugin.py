"""Our pruning as a ModelOpt mode: save and restore are bit for bit, also through 2:4 sparsity."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from networks import Plain

from compress import checkpoint
from compress.base.errors import UsageError
from compress.graph import cost
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.pruning import modelopt_mode, plan
from compress.pruning.options import PruneOptions
from compress.sparsity.pattern import is_2to4

EXAMPLE = Path(__file__).parents[1] / "docs" / "modelopt_example.py"

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's own, on import and in torch


@pytest.fixture(scope="module")
def modelopt():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.opt as mto
        import modelopt.torch.sparsity as mts
    modelopt_mode.register()
    return mto, mts


def network(seed: int) -> DDnet:
    torch.manual_seed(seed)
    return DDnet(trunk=16, bottleneck=32, decoder=32).eval()


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(t, right[n]) for n, t in left.items())


def test_registering_twice_is_once() -> None:
    assert modelopt_mode.register() == modelopt_mode.register() == "compress_channels"
    assert len(modelopt_mode._registries) == 1


def test_prune_sparsify_export_save_restore(modelopt, tmp_path: Path) -> None:
    mto, mts = modelopt
    net = network(0)
    dense = cost.cost(net).macs
    pruned = mto.apply_mode(net, [("compress_channels", {"amount": 0.4})])
    assert pruned is net
    assert 1 - cost.cost(net).macs / dense >= 0.4
    sparse = mts.sparsify(pruned, "sparse_magnitude")
    mto.save(sparse, tmp_path / "sparse.pth")
    unfinished = mto.restore(network(1), tmp_path / "sparse.pth")
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(unfinished.eval()(x), sparse.eval()(x))
    exported = mts.export(sparse)
    mto.save(exported, tmp_path / "exported.pth")
    fresh = network(2)
    again = mto.restore(fresh, tmp_path / "exported.pth")
    assert equal(again, exported)
    assert is_2to4(again.decoders[3].wide.conv.weight)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), exported.eval()(x))
    from_class = mto.restore((DDnet, (), {"bottleneck": 32}), tmp_path / "exported.pth")
    assert equal(from_class, exported)


def test_the_same_channels_go_as_without_modelopt(modelopt) -> None:
    mto, _ = modelopt
    plain = deconv_to_conv(network(0))
    ours = plan.plan(plain, PruneOptions(amount=0.5, round_to=4, criterion="l1")).apply(plain)
    options = {"amount": 0.5, "round_to": 4, "criterion": "l1"}
    theirs = mto.apply_mode(network(0), [("compress_channels", options)])
    assert equal(ours, theirs)


@pytest.mark.parametrize("word", ["weigh", "cut"])
def test_smaller_kernels_are_restored(modelopt, word: str, tmp_path: Path) -> None:
    mto, mts = modelopt
    options = {"amount": 0.75, "criterion": "variance", "kernels": word}
    net = mto.apply_mode(network(0), [("compress_channels", options)])
    sides = checkpoint.kernels(net)
    assert [3, 3] in sides.values()
    sparse = mts.sparsify(net, "sparse_magnitude")
    mto.save(sparse, tmp_path / "sparse.pth")
    again = mto.restore(network(1), tmp_path / "sparse.pth")
    assert checkpoint.kernels(again) == sides
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), sparse.eval()(x))


def test_training_mode_stays(modelopt) -> None:
    mto, _ = modelopt
    net = mto.apply_mode(
        Plain(16).train(), [("compress_channels", {"threshold": 0.0, "round_to": 1})]
    )
    assert net.training
    assert net.middle.training


def test_amount_and_threshold_exclude_each_other(modelopt) -> None:
    mto, _ = modelopt
    with pytest.raises(UsageError, match="compress_channels: give either amount or threshold"):
        mto.apply_mode(Plain(16), [("compress_channels", {})])


def test_the_example_runs(tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 20
    command = [sys.executable, "-W", "ignore", str(EXAMPLE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_quantised_behind_pruning_and_2to4_restores_to_the_bit(modelopt, tmp_path: Path) -> None:
    """Also where masks held through a step of training with the rounding."""
    mto, mts = modelopt
    import modelopt.torch.quantization as mtq

    x = torch.rand(1, 1, 64, 64)
    net = mto.apply_mode(network(0), [("compress_channels", {"amount": 0.4})])
    net = mts.sparsify(net, "sparse_magnitude")
    net = mtq.quantize(net, mtq.INT8_DEFAULT_CFG, lambda model: model(x))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    net.train()(x).square().mean().backward()
    optimizer.step()
    layer = net.get_submodule("blocks.0.0.growth.conv")
    assert is_2to4(layer.weight)
    assert is_2to4(layer.weight_quantizer(layer.weight))
    mto.save(net, tmp_path / "int8.pth")
    back = mto.restore(network(1), tmp_path / "int8.pth")
    assert equal(back, net)
    assert torch.equal(back.eval()(x), net.eval()(x))
