"""quantize: which layers become INT8, what that costs, and that it survives the checkpoint."""

import copy
import json
import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import UNet, randomise, shapes
from pairs import data
from safetensors.torch import load_file, save_file
from test_steps_export import polygraphy
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from compress import checkpoint
from compress.base.errors import QualityError, Stopped, UsageError
from compress.base.files import sha256
from compress.base.hu import DATA_RANGE
from compress.checkpoint import Model, ModelOptions
from compress.context import Work
from compress.engines import fused, inspection
from compress.engines.base import Shape
from compress.engines.formats import formats
from compress.engines.kernels import choose, tune
from compress.engines.kernels.session import Choices
from compress.engines.onnx import Onnx
from compress.engines.onnx import weights as onnx_weights
from compress.engines.subject import prepared
from compress.graph import cost
from compress.models.ddnet import Unit
from compress.quantization import error, quantisers
from compress.sparsity import masks
from compress.steps.export import Export
from compress.steps.prune import Prune
from compress.steps.quantize import Quantize
from compress.steps.sparsify import Sparsify
from compress.steps.train import Train

pytestmark = pytest.mark.filterwarnings("ignore")  # ModelOpt's own, on import

NARROW = {"trunk": 16, "bottleneck": 16, "decoder": 16, "residual": True}
ALL = Quantize(keep=(), calibrate=4)


def work(folder: Path, name: str = "00-step") -> Work:
    stage = folder / name
    stage.mkdir(exist_ok=True)
    return Work(stage=stage, device=torch.device("cpu"), data=data(), seed=0)


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A DDnet, pruned and 2:4."""
    origin = ModelOptions(name="ddnet", options=NARROW)
    model = Model(net=randomise(origin.build(), 1).float().eval(), origin=origin)
    place = work(tmp_path_factory.mktemp("sparse"))
    pruned = Prune(amount=0.2, target="macs", round_to=8).run(model, place)
    return Sparsify(backend="modelopt", eligibility="tensorrt").run(pruned, place)


@pytest.fixture(scope="module")
def small(sparse: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Work]:
    """The same in INT8, all that can be."""
    place = work(tmp_path_factory.mktemp("small"))
    return ALL.run(sparse, place), place


def own(*layers: nn.Module) -> Model:
    torch.manual_seed(0)
    return Model(net=nn.Sequential(*layers).eval(), origin=ModelOptions())


def test_every_layer_is_int8_and_keeps_masks_and_widths(
    sparse: Model, small: tuple[Model, Work]
) -> None:
    model, place = small
    rows = place.facts["layers"]
    assert len(rows) == len(model.quantised) == 45
    assert all(row["int8"] and not row["reason"] and row["error_hu"] > 0 for row in rows)
    assert quantisers.quantised(model.net) == list(model.quantised)
    assert checkpoint.channels(model.net) == checkpoint.channels(sparse.net)
    masks.check(model.net, model.masks)
    assert model.masks.keys() == sparse.masks.keys() != set()
    assert place.facts["error_hu"] == place.facts["error_all_hu"] > 0
    assert not quantisers.pairs(sparse.net)  # the model given is not changed


def test_it_has_the_macs_that_it_had(sparse: Model, small: tuple[Model, Work]) -> None:
    before, after = cost.cost(sparse.net), cost.cost(small[0].net)
    assert (after.macs, after.params) == (before.macs, before.params)
    assert quantisers.quantised(small[0].net)  # counting turned nothing off


def test_channels_of_one_range_are_rounded_less(sparse: Model, tmp_path: Path) -> None:
    net = copy.deepcopy(sparse.net)
    for unit in net.modules():  # the same function, as where a skip meets an upsampled half
        if isinstance(unit, Unit) and unit.norm.num_features > 1:
            unit.norm.weight.data[::2] *= 16
            unit.norm.bias.data[::2] *= 16
            unit.conv.weight.data[:, ::2] /= 16
    model, costs = replace(sparse, net=net), {}
    for way in (True, False):
        place = work(tmp_path, f"0{int(way)}-step")
        found = replace(ALL, equalise=way).run(model, place)
        costs[way] = place.facts["error_hu"]
        assert place.facts["equalised"] == (44 if way else 0)
        masks.check(found.net, found.masks)
    assert costs[True] < 0.7 * costs[False]


def test_errors_are_those_of_the_network(sparse: Model, small: tuple[Model, Work]) -> None:
    model, place = small
    x = ALL._inputs(place)[0]
    with torch.no_grad():
        whole = (model.net(x) - sparse.net(x)).double().square().mean().sqrt() * DATA_RANGE
        assert float(whole) == pytest.approx(place.facts["error_hu"], rel=0.05)


def test_weights_have_at_most_255_values_in_a_channel_and_stay_2_to_4(
    small: tuple[Model, Work],
) -> None:
    model, _ = small
    for name, mask in model.masks.items():
        layer = model.net.get_submodule(name)
        rounded = layer.weight_quantizer(layer.weight).detach()
        assert not rounded[~mask].any()
        assert len(rounded[0].unique()) <= 255
        assert not torch.equal(rounded, layer.weight)


def test_round_trip_from_the_folder_alone(small: tuple[Model, Work], tmp_path: Path) -> None:
    model, _ = small
    checkpoint.save(model, tmp_path)
    back = checkpoint.load(tmp_path)
    assert dict(back.quantised) == dict(model.quantised)
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(back.net(x), model.net(x))
    assert checkpoint.fingerprint(back) == checkpoint.fingerprint(model)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["stem.conv.input_quantizer._amax"].shape == ()
    assert stored["stem.conv.weight_quantizer._amax"].shape[1:] == (1, 1, 1)
    masks.check(back.net, back.masks)


def test_a_network_without_int8_has_the_checkpoint_that_it_had(
    sparse: Model, tmp_path: Path
) -> None:
    checkpoint.save(sparse, tmp_path)
    assert "int8" not in json.loads((tmp_path / "model.json").read_text())


def _without(tensors: dict[str, Tensor]) -> None:
    del tensors["stem.conv.input_quantizer._amax"]


def _negative(tensors: dict[str, Tensor]) -> None:
    tensors["stem.conv.input_quantizer._amax"].neg_()


def _shaped(tensors: dict[str, Tensor]) -> None:
    tensors["stem.conv.weight_quantizer._amax"] = torch.ones(3)


def _more(tensors: dict[str, Tensor]) -> None:
    tensors["pool.input_quantizer._amax"] = torch.ones(())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_without, "stem.conv.input_quantizer._amax is missing"),
        (_negative, "stem.conv.input_quantizer._amax holds something else than ranges"),
        (_shaped, "stem.conv.weight_quantizer._amax has shape [3]"),
        (_more, "pool.input_quantizer._amax is of no INT8 layer"),
    ],
)
def test_damaged_ranges_are_one_sentence(
    damage, why: str, small: tuple[Model, Work], tmp_path: Path
) -> None:
    checkpoint.save(small[0], tmp_path)
    file, table = tmp_path / "model.safetensors", tmp_path / "model.json"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    described = json.loads(table.read_text())
    described.pop("description_sha256")
    table.write_text(json.dumps({**described, "sha256": sha256(file)}))
    with pytest.raises(UsageError) as caught:
        checkpoint.load(tmp_path)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_keeps_what_the_budget_does_not_bear(sparse: Model, tmp_path: Path) -> None:
    everything = work(tmp_path)
    ALL.run(sparse, everything)
    budget = everything.facts["error_all_hu"] / 2
    place = work(tmp_path)
    model = Quantize(calibrate=4, budget=budget).run(sparse, place)
    rows = place.facts["layers"]
    kept = {row["name"]: row for row in rows if not row["int8"]}
    assert 0 < len(kept) < len(rows) == len(kept) + len(model.quantised)
    assert 0 < place.facts["error_hu"] <= budget < place.facts["error_all_hu"]
    assert all("too much for the budget" in row["reason"] for row in kept.values())
    left = {name.rsplit(".", 2)[0] for name in quantisers.ranges(model.net)}
    assert left == set(model.quantised)  # the others have no ranges in the checkpoint


@given(st.lists(st.tuples(st.floats(0.01, 2), st.integers(1, 1000)), min_size=1, max_size=12))
def test_auto_keeps_no_layer_that_the_budget_bears(layers: list[tuple[float, int]]) -> None:
    errors = {str(i): one for i, (one, _) in enumerate(layers)}
    macs = {str(i): one for i, (_, one) in enumerate(layers)}

    def together(_net: object, names: Collection[str], *_: object) -> float:
        return math.sqrt(sum(errors[name] ** 2 for name in names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error, "of", together)
        kept, left = error.kept(nn.Module(), errors, macs, torch.ones(1), torch.ones(1), 1.0)
    rest = errors.keys() - kept
    assert left == pytest.approx(together(None, rest))
    assert left <= 1
    assert all(together(None, {*rest, name}) > 1 for name in kept)
    cheapest = error.order(errors, macs)
    while together(None, cheapest) > 1:
        cheapest.pop(0)
    assert rest >= set(cheapest)  # those that buy most with the fewest MACs go first


def test_a_budget_that_no_layer_fits_is_one_sentence(sparse: Model, tmp_path: Path) -> None:
    with pytest.raises(QualityError, match=r"budget 1e-09 HU leaves no layer in INT8"):
        Quantize(calibrate=4, budget=1e-9).run(sparse, work(tmp_path))


def test_what_is_named_is_kept(sparse: Model, tmp_path: Path) -> None:
    place = work(tmp_path)
    model = Quantize(keep=("stem.conv", "*.narrow.conv"), calibrate=4).run(sparse, place)
    assert len(model.quantised) == 40
    reasons = {row["name"]: row["reason"] for row in place.facts["layers"] if not row["int8"]}
    assert reasons["stem.conv"] == "kept by 'stem.conv'"
    assert reasons["decoders.3.narrow.conv"] == "kept by '*.narrow.conv'"
    with pytest.raises(UsageError, match=r"no layer is named 'stem.con'; did you mean 'stem.conv'"):
        Quantize(keep=("stem.con",)).run(sparse, place)


@pytest.mark.parametrize("keep", ["auto", (), ("decoders.*",)])
def test_only_what_is_named_becomes_int8(sparse: Model, tmp_path: Path, keep) -> None:
    place = work(tmp_path)
    step = Quantize(keep=keep, only=("*.growth.conv", "*.wide.conv"), budget=1e3, calibrate=4)
    model = step.run(sparse, place)
    assert len(model.quantised) == (16 if keep == ("decoders.*",) else 20)
    assert all(name.endswith(("growth.conv", "wide.conv")) for name in model.quantised)
    reasons = {row["name"]: row["reason"] for row in place.facts["layers"]}
    assert reasons["stem.conv"] == "not among `only`"
    with pytest.raises(UsageError, match=r"only: no layer is named 'stem\.con'"):
        Quantize(only=("stem.con",)).run(sparse, place)


@pytest.mark.parametrize("method", ["mse", "percentile"])
def test_other_ranges_are_no_larger(method: str, tmp_path: Path) -> None:
    model = own(nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(10), nn.Conv2d(4, 1, 1))
    place = work(tmp_path)
    largest = quantisers.ranges(ALL.run(model, place).net)
    ranges = quantisers.ranges(replace(ALL, method=method).run(model, place).net)
    assert ranges.keys() == largest.keys()
    # Bins of the histogram end a little above the largest value.
    assert all((ranges[name] <= 1.01 * value).all() for name, value in largest.items())
    assert any(bool((ranges[name] < value).any()) for name, value in largest.items())


class Unused(nn.Module):
    """A network with a layer that never runs and one whose input is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3)
        self.dead, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.used(x)
        out: Tensor = self.last(y + self.dead(y * 0))
        return out


def test_layers_without_a_range_stay_as_they_are_and_are_named(tmp_path: Path) -> None:
    place = work(tmp_path)
    torch.manual_seed(0)
    model = ALL.run(Model(net=Unused().eval(), origin=ModelOptions()), place)
    reasons = {row["name"]: row["reason"] for row in place.facts["layers"]}
    assert reasons["idle"] == "calibration never ran it, so its input has no range"
    assert reasons["dead"] == "its input was zero on every calibration crop"
    assert set(model.quantised) == {"used", "last"}
    assert model.net(torch.rand(1, 1, 8, 8)).isfinite().all()


def test_what_cannot_be_int8_says_why(tmp_path: Path) -> None:
    place = work(tmp_path)
    zero = nn.Conv2d(4, 4, 1)
    nn.init.zeros_(zero.weight)
    layers = (
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.AvgPool2d(2),
        parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        zero,
        nn.Conv2d(4, 1, 1),
    )
    model = ALL.run(own(*layers), place)
    reasons = {row["name"]: row["reason"] for row in place.facts["layers"]}
    assert reasons["1"].startswith("deconvolution that is no convolution")
    assert reasons["3"] == "its weight is computed by a parametrization"
    assert reasons["4"] == "all its weights are zero"
    assert model.quantised.keys() == {"0", "5"}


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((nn.Identity(),), "no convolution or linear layer"),
        (
            (parametrizations.weight_norm(nn.Conv2d(1, 1, 1)),),
            "no layer can be INT8; 0: its weight",
        ),
        ((nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1),), "no layer can be INT8; 0: deconv"),
    ],
)
def test_a_network_with_nothing_to_quantise_is_one_sentence(layers, why, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        Quantize().run(own(*layers), work(tmp_path))
    assert "\n" not in str(caught.value)


def test_nothing_that_breaks_it_comes_after_it(small: tuple[Model, Work], tmp_path: Path) -> None:
    for step in (Prune(amount=0.2), Sparsify(backend="modelopt"), Quantize()):
        with pytest.raises(UsageError, match="the network is quantised"):
            step.run(small[0], work(tmp_path))


@settings(max_examples=8, deadline=None)
@given(shape=shapes, method=st.sampled_from(["max", "percentile"]))
def test_any_network_keeps_its_bits(shape, method: str, tmp_path_factory) -> None:
    """Quantised, its ranges taken as tensors, put into the network anew: the same bits."""
    folder = tmp_path_factory.mktemp("any")
    net = randomise(UNet(shape), 2).float().eval()
    model = Quantize(keep=(), calibrate=4, method=method).run(
        Model(net=net, origin=ModelOptions()), work(folder)
    )
    dense = Model(net=net, origin=ModelOptions()).rewritten("deconv_to_conv").net
    fresh = quantisers.plain(model.net)
    ranges = {name: tensor.clone() for name, tensor in quantisers.ranges(model.net).items()}
    back = quantisers.restored(fresh, model.quantised, ranges)
    x = torch.rand(1, 1, 16, 16)
    assert torch.equal(back(x), model.net(x))
    assert not torch.equal(back(x), fresh(x))
    assert torch.allclose(fresh(x), dense(x), rtol=1e-4, atol=1e-5)  # its channels were scaled
    assert type(quantisers.plain(model.net).head) is nn.Conv2d


def test_training_with_the_rounding_holds_masks_and_ranges(
    small: tuple[Model, Work], tmp_path: Path
) -> None:
    model, _ = small
    train = Train(epochs=1, slices_per_epoch=4, batch=2, crop=32, lr=1e-3, freeze_norm=True)
    place = work(tmp_path, "01-retrain")
    trained = train.run(model, place)
    assert trained.quantised == model.quantised
    masks.check(trained.net, trained.masks)
    old, new = model.net.state_dict(), trained.net.state_dict()
    assert all(torch.equal(new[n], old[n]) for n in quantisers.ranges(model.net))
    assert not torch.equal(new["stem.conv.weight"], old["stem.conv.weight"])
    checkpoint.save(trained, tmp_path)
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(checkpoint.load(tmp_path).net(x), trained.net(x))


def test_a_stopped_training_ends_on_the_same_bits(small: tuple[Model, Work], tmp_path) -> None:
    model, _ = small
    train = Train(epochs=2, slices_per_epoch=4, batch=2, crop=32, lr=1e-3)
    whole = train.run(model, work(tmp_path, "01-retrain"))
    again = tmp_path / "again"
    again.mkdir()
    place = work(again, "01-retrain")
    place.stop.set()
    with pytest.raises(Stopped):
        train.run(model, place)
    resumed = train.run(model, replace(place, stop=type(place.stop)()))
    left, right = whole.net.state_dict(), resumed.net.state_dict()
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_inspect_lists_ranges_and_errors(small: tuple[Model, Work], tmp_path: Path, capsys) -> None:
    model, _ = small
    checkpoint.save(model, tmp_path)
    found = inspection.inspect(tmp_path)
    assert found["about"]["int8"] == "45 of 45 layers"
    row = found["int8"]["stem.conv"]
    assert row["input_range"] == float(
        quantisers.ranges(model.net)["stem.conv.input_quantizer._amax"]
    )
    assert row["weight_range"][0] <= row["weight_range"][1]
    assert row["error_hu"] == model.quantised["stem.conv"]
    assert found["totals"]["sparse24"] == len(model.masks)  # as without quantisers
    inspection.render(found)
    said = capsys.readouterr().out
    assert "INT8: input to" in said
    assert f"{row['error_hu']:.2f}" in said


@pytest.mark.parametrize("dynamic", [False, True])
def test_onnx_rounds_as_the_network_does(
    dynamic: bool, small: tuple[Model, Work], tmp_path: Path
) -> None:
    model, _ = small
    path, cpu = tmp_path / "q.onnx", torch.device("cpu")
    shape = Shape(batch=2 if dynamic else 1, size=64, dynamic=dynamic)
    built = Onnx().build(prepared(model.net, "fp32", as_conv=True)[0], shape, path, cpu)
    assert (built["convolutions"], built["sparse24"]) == (45, len(model.masks))
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("QuantizeLinear") == nodes.count("DequantizeLinear") == 2 * 45
    # The median, since with random weights some values are moved over a rounding edge.
    exact, x = copy.deepcopy(model.net).double(), shape.example(cpu)
    difference = (Onnx().load(path, cpu)(x) - exact(x.double())).abs() * DATA_RANGE
    assert float(difference.median()) < 0.01


def test_onnx_is_half_precision_between_int8_layers_where_asked(
    sparse: Model, tmp_path: Path
) -> None:
    """A strongly typed TensorRT computes in what the file says."""
    step = Quantize(keep=(), only=("*.growth.conv", "*.wide.conv"), calibrate=4)
    place, half = work(tmp_path), onnx.TensorProto.FLOAT16
    Export(formats=("onnx",), precision="fp16", image_size=32).run(step.run(sparse, place), place)
    (row,) = place.facts["engines"]
    assert row["parity"]["ok"], row["parity"]
    file = onnx.shape_inference.infer_shapes(onnx.load(place.stage / row["file"]))
    kinds = {v.name: v.type.tensor_type.elem_type for v in file.graph.value_info}
    given = {node.op_type: [] for node in file.graph.node}
    for node in file.graph.node:
        given[node.op_type] += [kinds[name] for name in node.output if name in kinds]
    layers = ("Conv", "BatchNormalization", "LeakyRelu", "Concat", "DequantizeLinear", "Resize")
    assert {kind for name in layers for kind in given[name]} == {half}
    assert len(given["DequantizeLinear"]) == 2 * 20


def test_in_half_precision_weights_are_rounded_to_the_same_integers(
    small: tuple[Model, Work],
) -> None:
    layers = small[0].net.named_modules(), quantisers.half(small[0].net).named_modules()
    count = 0
    for (_, one), (name, other) in zip(*layers, strict=True):
        if isinstance(one, nn.Conv2d) and (whole := quantisers.integers(one)):
            halved = quantisers.integers(other)
            assert halved is not None
            assert torch.equal(whole.weight, halved.weight), name
            count += 1
    assert count == 45


def test_a_layer_whose_weights_became_zero_is_loaded(
    small: tuple[Model, Work], tmp_path: Path
) -> None:
    """Training after quantize may end there; only calibration cannot begin there."""
    model = copy.deepcopy(small[0])
    name = list(model.quantised)[-1]
    with torch.no_grad():
        model.net.get_submodule(name).weight.zero_()
    checkpoint.save(model, tmp_path)
    found = checkpoint.load(tmp_path)
    assert name in found.quantised
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(found.net(x), model.net(x))


class Tokens(nn.Module):
    """A linear layer over the channels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


def test_onnx_has_the_weights_of_linear_layers(tmp_path: Path) -> None:
    layers = nn.Conv2d(1, 8, 3, padding=1), Tokens(), nn.Conv2d(16, 1, 3, padding=1)
    model, path = ALL.run(own(*layers), work(tmp_path)), tmp_path / "q.onnx"
    net = prepared(model.net, "fp32", as_conv=True)[0]
    built = Onnx().build(net, Shape(batch=1, size=16), path, torch.device("cpu"))
    assert built["convolutions"] == 3
    found = [tuple(weight.shape) for weight in onnx_weights(path).values()]
    assert found == [(8, 1, 3, 3), (16, 8), (1, 16, 3, 3)]


def test_polygraphy_finds_2to4_behind_the_rounding(small: tuple[Model, Work], tmp_path) -> None:
    model, _ = small
    subject, folded = prepared(model.net, "fp32", as_conv=True)
    assert folded == 0
    Onnx().build(subject, Shape(batch=1, size=32), tmp_path / "q.onnx", torch.device("cpu"))
    assert polygraphy(tmp_path / "q.onnx")["sparse"] == {f"net.{n}.weight" for n in model.masks}


@pytest.mark.parametrize("name", ["torch_tensorrt", "aot_inductor"])
def test_other_formats_refuse_it_in_one_sentence(
    name: str, small: tuple[Model, Work], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(
        type(formats()[name]), "missing", lambda *_: None
    )  # as where it is installed
    place = work(tmp_path)
    Export(formats=(name,), image_size=32).run(small[0], place)
    (row,) = place.facts["engines"]
    assert row["status"] == "not built"
    assert row["reason"] == (
        "it takes no quantised network yet; onnx does, for TensorRT and ONNX Runtime"
    )


def test_fused_names_the_layers_that_it_has_no_int8_kernel_for(
    small: tuple[Model, Work], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(type(formats()["fused"]), "missing", lambda *_: None)
    place = work(tmp_path)
    Export(formats=("fused",), image_size=32).run(small[0], place)
    (row,) = place.facts["engines"]
    assert row["precision"] == "fp16"
    assert row["reason"].startswith("fused: stem.conv, blocks.0.0.bottleneck.conv, ")
    assert "cannot be INT8" in row["reason"]


def test_a_fused_engine_of_int8_layers_passes_the_comparison(tmp_path: Path, monkeypatch) -> None:
    """PyTorch in the place of the kernels, in the build as in the fresh process."""

    class Plain(fused.Engine):
        def __init__(self, *given, **_) -> None:
            super().__init__(*given, kernels=False)

    monkeypatch.setattr(fused.Fused, "missing", lambda *_: None)
    monkeypatch.setattr(fused.compiler, "available", lambda: True)
    monkeypatch.setattr(tune, "tune", lambda *_: choose.Found(choices=Choices(), units=[]))
    monkeypatch.setattr(fused, "Engine", Plain)
    origin, place = ModelOptions(name="ddnet", options=NARROW), work(tmp_path)
    net = randomise(origin.build(), 1).float().eval()
    step = Quantize(keep=(), only=("*.growth.conv", "*.wide.conv"), calibrate=4)
    model = step.run(Model(net=net, origin=origin), place)
    Export(formats=("fused",), image_size=32).run(model, place)
    (row,) = place.facts["engines"]
    assert (row["status"], row["precision"]) == ("built", "fp16")
    assert row["parity"]["ok"]
    assert row["parity"]["max_hu"] > 0
    held = load_file(tmp_path / "00-step" / row["file"])
    assert held["decoders.3.wide.weight"].dtype == torch.int8


def test_quantised_networks_are_not_written_in_bfloat16(
    small: tuple[Model, Work], tmp_path: Path
) -> None:
    place = work(tmp_path)
    Export(formats=("onnx",), precision="bf16", image_size=32).run(small[0], place)
    (row,) = place.facts["engines"]
    assert (row["status"], row["command"]) == ("not built", "--precision fp32")
    said = "a quantised network is written in fp32 or fp16 beside INT8, not in bf16"
    assert row["reason"] == said
