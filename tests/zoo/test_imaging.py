"""Networks as imaging repositories have them; each of these tests failed before it was mended."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.base.errors import UsageError
from compress.base.world import World
from compress.checkpoint import Model, ModelOptions
from compress.engines import onnx
from compress.engines.base import NotBuilt, Shape
from compress.engines.subject import Subject, prepared
from compress.graph import cost, trial
from compress.graph.rewrite import deconv_to_conv, fold_batchnorm
from compress.pruning import plan as pruning
from compress.pruning import taylor, unstructured, variance
from compress.pruning.options import PruneOptions
from compress.quantization.equalise import equalised
from compress.sparsity import masks, reconstruction
from compress.steps.prune import Prune
from compress.training.options import TrainOptions
from compress.training.parts import adam, trainable
from zoo.blocks import conv
from zoo.reference import difference, distinct

SIDE = 32


def pruned(net: nn.Module, amount: float = 0.3) -> tuple[nn.Module, pruning.Plan]:
    """A network with that share of its MACs removed, equal to the masked one."""
    net = distinct(net, seed=1)
    plan = pruning.plan(net, PruneOptions(amount=amount, round_to=4))
    small = plan.apply(net)
    assert difference(net, small, SIDE) < 1e-9
    return small, plan


class Features(nn.Module):
    """Two layers of features and a head."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(1, c), conv(c, c), conv(c, 1)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.b(F.relu(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.features(x))


class Supervised(Features):
    """A second head, behind dropout, that only training uses."""

    def __init__(self, c: int = 16) -> None:
        super().__init__(c)
        self.drop, self.second = nn.Dropout2d(0.5), conv(c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        out = x + self.last(y)
        return out + 0.1 * self.second(self.drop(y)) if self.training else out


class Noisy(Features):
    """Noise as large as there are channels, in training only."""

    def __init__(self, c: int = 16) -> None:
        super().__init__(c)
        self.strength = nn.Parameter(torch.full((1, c, 1, 1), 0.1))

    def features(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        return F.relu(self.b(y + self.strength * torch.randn_like(y) if self.training else y))


def test_a_head_that_only_training_uses_follows() -> None:
    """It kept its inputs, so that the pruned network could not be trained."""
    small, _ = pruned(Supervised())
    assert small.second.in_channels == small.b.out_channels < 16
    trial.check_training(small, (SIDE, SIDE))


def test_channels_that_only_training_needs_stay() -> None:
    small, plan = pruned(Noisy())
    assert small.a.out_channels == 16 > small.b.out_channels
    (reason,) = plan.failing.values()
    assert reason.startswith("the network cannot be trained without some of them: The size")
    trial.check_training(small, (SIDE, SIDE))


class Deconvolved(Features):
    """A stride-1 deconvolution that is called in one of several ways."""

    def __init__(self, layer: type[nn.ConvTranspose2d] = nn.ConvTranspose2d, way: str = "") -> None:
        super().__init__()
        self.up, self.plain, self.way = layer(16, 16, 3, padding=1), deconvolution(), way

    def forward(self, x: Tensor) -> Tensor:
        y = self.plain(self.features(x))
        if self.way == "size":
            return self.last(self.up(y, output_size=x.shape))
        if self.way == "weight":
            return self.last(F.conv_transpose2d(y, self.up.weight, self.up.bias, padding=1))
        if self.way == "both":
            return self.last(self.up(y).to(self.up.weight.dtype) * self.up.weight.square().mean())
        return self.last(self.up(y))


class Doubled(nn.ConvTranspose2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def deconvolution() -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(16, 16, 3, padding=1)


@pytest.mark.parametrize(
    ("net", "left"),
    [
        (Deconvolved(), False),
        (Deconvolved(Doubled), True),
        (Deconvolved(way="size"), True),
        (Deconvolved(way="weight"), True),
        (Deconvolved(way="both"), True),
    ],
)
def test_deconvolutions_that_code_uses_in_its_own_way_are_left(net: nn.Module, left: bool) -> None:
    """They became convolutions: another function, or none that runs."""
    net = distinct(net, seed=1)
    small = deconv_to_conv(net)
    assert isinstance(small.up, nn.ConvTranspose2d) == left
    assert isinstance(small.plain, nn.Conv2d)
    x = torch.rand(2, 1, SIDE, SIDE).double()
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), rtol=1e-9, atol=1e-12)


def normalised(layer: nn.Module, **options: bool) -> nn.Module:
    return nn.Sequential(conv(1, 8), layer, nn.BatchNorm2d(8, **options), nn.ReLU(), conv(8, 1))


class Seen(nn.Module):
    """A convolution whose output a hook keeps, as encoders do for their skips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.last = conv(1, 8), nn.BatchNorm2d(8), conv(16, 1)
        self.skip = torch.zeros(())
        self.a.register_forward_hook(self.keep)

    def keep(self, _: nn.Module, __: object, out: Tensor) -> None:
        self.skip = out

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x))
        return self.last(torch.cat((y, self.skip.expand_as(y)), 1))


@pytest.mark.parametrize(
    "net",
    [
        normalised(conv(8, 8), track_running_stats=False),
        normalised(nn.utils.parametrizations.weight_norm(conv(8, 8))),
        normalised(nn.utils.parametrizations.spectral_norm(conv(8, 8))),
        normalised(nn.utils.spectral_norm(conv(8, 8))),
        Seen(),
    ],
)
def test_batchnorms_that_no_weight_can_take_up_are_left(net: nn.Module) -> None:
    """An export ended in a traceback."""
    net, x = net.eval(), torch.rand(2, 1, SIDE, SIDE)
    folded, names = fold_batchnorm(net)
    assert not names
    with torch.no_grad():
        assert torch.equal(folded(x), net(x))


def test_a_vector_in_a_product_is_no_layer_in_onnx(tmp_path: Path) -> None:
    """spectral_norm multiplies by one; asking whether it is 2:4 ended in a traceback."""
    net = nn.Sequential(conv(1, 32), nn.utils.spectral_norm(conv(32, 32)), conv(32, 1)).eval()
    subject, _ = prepared(net, "fp32", as_conv=True)
    shape, cpu = Shape(batch=1, size=SIDE), torch.device("cpu")
    facts = onnx.Onnx().build(subject, shape, tmp_path / "x.onnx", cpu)
    assert facts["sparse24"] == 0


class Rounded(Features):
    """Computes in bfloat16, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


def test_a_file_that_onnx_refuses_is_one_sentence(tmp_path: Path) -> None:
    subject, shape = Subject(Rounded().eval(), "fp32"), Shape(batch=1, size=SIDE)
    with pytest.raises(NotBuilt, match=r"ONNX's checker gave up: .*bfloat16"):
        onnx.Onnx().build(subject, shape, tmp_path / "x.onnx", torch.device("cpu"))


class Named(Features):
    """Layers that are called by keyword."""

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.b(input=F.relu(self.a(input=x))))


def test_layers_called_by_keyword_are_counted_and_measured() -> None:
    """Named "does not do the same twice", was said."""
    net, plain = Named(), Features()
    plain.load_state_dict(net.state_dict())
    assert cost.cost(net).macs == cost.cost(plain).macs
    pruned(net)
    x = [torch.rand(2, 1, SIDE, SIDE)]
    for name, worth in variance.worth(net, lambda: x).channels.items():
        assert torch.equal(worth, variance.worth(plain, lambda: x).channels[name])
    made = [reconstruction.reconstruct(one, ["b"], x).masks["b"] for one in (net, plain)]
    assert torch.equal(*made)
    assert equalised(net.eval(), ["b"], x)[1] == equalised(plain.eval(), ["b"], x)[1] == ("b",)


class Spectral(Features):
    """Complex weights on the lowest frequencies, as in Fourier neural operators."""

    def __init__(self, c: int = 16) -> None:
        super().__init__(c)
        self.mix = nn.Parameter(torch.randn(c, c, 4, 4, dtype=torch.complex64) / c)

    def features(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        low = torch.einsum("nihw,iohw->nohw", torch.fft.rfft2(y)[..., :4, :4], self.mix)
        return F.relu(self.b(y + torch.fft.irfft2(low, s=y.shape[-2:])))


def test_complex_weights_stay_complex() -> None:
    """Their imaginary parts were dropped, and "takes no slice" was said."""
    net = Spectral(8)
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=4))
    assert plan.tried_in == torch.float64
    assert plan.difference < 1e-9
    small, x = plan.apply(net), torch.rand(2, 1, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(Subject(small, "fp32")(x), small(x))
    optimizer = adam(small, 1e-3, 0.0)
    before = small.mix.detach().clone()
    small(x).square().mean().backward()
    optimizer.step()
    assert (small.mix - before).imag.abs().max() > 0


class System(Features):
    """A data term with a sparse system matrix, as in LEARN."""

    def __init__(self, *, stored: bool = False) -> None:
        super().__init__()
        matrix = (torch.eye(SIDE, 2 * SIDE) / 8).to_sparse()
        self.register_buffer("system", matrix, persistent=stored)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(2, 0, 1, 3).flatten(1)
        gradient = self.system.t() @ (self.system @ rows)
        step = gradient.view(-1, len(x), 1, x.shape[3]).permute(1, 2, 0, 3)
        return x - step + self.last(self.features(x))


def test_a_sparse_system_matrix_is_computed_with() -> None:
    net = System()
    plan = pruning.plan(net, PruneOptions(amount=0.3, round_to=4), size=(2 * SIDE, 2 * SIDE))
    assert plan.difference < 1e-9
    assert plan.removed["macs"] >= 0.3


class Volume(nn.Module):
    """Convolutions in three dimensions."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, c, 3, padding=1), nn.ConvTranspose3d(c, c, 3, padding=1)
        self.last = nn.Conv3d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.b(F.relu(self.a(x[:, :, None])))))[:, :, 0]


def test_convolutions_in_three_dimensions_count() -> None:
    """A network of them had nothing to compress."""
    net = Volume()
    cost.check_work(net)
    assert cost.cost(net, (SIDE, SIDE)).macs == SIDE**2 * (27 * 8 + 27 * 64 + 8)
    small, plan = pruned(net)
    assert 1 - cost.cost(small).macs / cost.cost(net).macs == pytest.approx(plan.removed["macs"])
    one = torch.rand(1, 1, SIDE, SIDE)
    assert len(taylor.worth(net, [(one, one)], torch.device("cpu"), {}).channels["b"]) == 8


def test_networks_without_two_dimensional_convolutions_have_facts() -> None:
    """`check` divided by the number of their weights, and so did a run."""
    model = Model(net=Volume().eval(), origin=ModelOptions(name="ddnet"))
    step = Prune(amount=0.3, round_to=2)
    before, plan = step.plan(model, seed=0)
    facts = step.describe(before, replace(before, net=plan.apply(before.net)), plan)
    assert facts["zeros"] == 0
    assert facts["after"]["macs"] < facts["before"]["macs"]
    for scope in ("layer", "global"):
        with pytest.raises(UsageError, match="Volume has no two-dimensional convolution to mask"):
            unstructured.masks(Volume(), "magnitude_weights", 0.5, per_layer=scope == "layer")


def test_computed_weights_get_no_masks() -> None:
    """Zeros in a computed weight are gone at once, and a check of the masks ended the run."""
    net = normalised(nn.utils.parametrizations.weight_norm(conv(8, 8)))
    found = unstructured.masks(net, "magnitude_weights", 0.5)
    assert found.keys() == {"0", "4"}
    masks.apply(net, found)
    masks.check(net, found, "unstructured")


def test_weights_of_five_dimensions_are_trained() -> None:
    """A run ended when training began: "required rank 4 tensor to use channels_last format"."""
    net = trainable(Volume(), TrainOptions(epochs=1), torch.device("cpu"), World())
    assert net.training
    assert net.a.weight.shape == (8, 1, 3, 3, 3)


class InPlace(Features):
    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return super().forward(x) + 0.5


class Lazy(Features):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.LazyConv2d(16, 3, padding=1)


class Versioned(Features):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}


class Scripted(Features):
    def __init__(self) -> None:
        super().__init__()
        self.b = torch.jit.script(conv(16, 16))


class Enclosing(Features):
    """A function that runs this object's layers, in a copy of it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.path = lambda x: F.relu(self.b(F.relu(self.a(x))))

    def features(self, x: Tensor) -> Tensor:
        return self.path(x)


class Hooked(Features):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.a.register_forward_hook(lambda _, __, out: self.kept.append(out))


class Double(Features):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double()).float()


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (InPlace(), "InPlace changes the slice that it is given, in place; write x = x - a for"),
        (Lazy(), "Lazy has no shape for a.weight before it first runs: write its input channels"),
        (Versioned(), "Versioned stores something else than a tensor, _extra_state: checkpoints"),
        (Scripted(), "Scripted hides layers in torch.jit.script in b: leave that out"),
        (Enclosing(), r"Enclosing keeps a function that encloses a Enclosing \(path\): in a copy"),
        (Hooked(), r"Hooked keeps a function in a that encloses a Hooked \(a hook\): in a copy"),
        (System(stored=True), "System stores a sparse tensor, system, .* with persistent=False"),
        (Double(), r"\(a.weight is float64, and all steps compute with float32 weights\)$"),
    ],
)
def test_what_no_step_can_handle_is_said_first(net: nn.Module, sentence: str) -> None:
    """Tracebacks, "takes no slice", or a network whose layers were never trained."""
    with pytest.raises(UsageError, match=sentence):
        trial.check_shape(net)
    with pytest.raises(UsageError, match=sentence):
        pruning.plan(net, PruneOptions(amount=0.3))


class Frozen(Features):
    """Keeps a layer in eval mode, and forgets to give itself back."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self.a.eval()


MADE = Features()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Frozen", r"its train\(\) gives nothing; end it by return self$"),
        ("MADE", "is a Features that was made already; name its class, or what makes it$"),
    ],
)
def test_what_makes_no_network_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        ModelOptions(import_=f"zoo.test_imaging:{name}").build()


def test_a_network_whose_train_gives_nothing_is_refused_from_python() -> None:
    with pytest.raises(UsageError, match=r"^Frozen: its train\(\) gives nothing; end it by"):
        trial.check_shape(Frozen())


class Several(Supervised):
    """Gives two images in training."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = super().forward(x)
        return (out, x) if self.training else out


def test_a_network_that_gives_several_images_in_training_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="Several gives a tuple, not a tensor in training; take a"):
        trial.check_training(Several(), (SIDE, SIDE))


def test_a_network_that_changes_its_weights_first_says_so() -> None:
    with pytest.raises(UsageError, match="Rounded changes the weights of all its layers before it"):
        pruning.plan(Rounded(), PruneOptions(amount=0.3))
