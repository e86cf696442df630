"""Number formats: which one is taken, where it applies, and that Apex leaves nothing behind."""

import threading
from dataclasses import replace
from pathlib import Path

import fake_apex
import pytest
import torch
import torch.nn.functional as F
from networks import Plain
from test_train import SMALL, model, same, work
from torch.utils._python_dispatch import TorchDispatchMode

from compress.base.errors import Stopped, UsageError
from compress.sparsity import masks
from compress.training import apex_amp, session
from compress.training import precision as formats
from compress.training.precision import Precision, choose

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "name"), [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16")]
)
def test_auto_follows_the_gpu(capability, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose("auto", GPU).name == name
    assert choose("auto", CPU).name == "fp32"


@pytest.mark.parametrize("name", ["bf16", "tf32"])
def test_older_gpus_have_no_bf16(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(UsageError, match=f"precision {name} needs a GPU from Ampere on; take fp16"):
        choose(name, GPU)


@pytest.mark.parametrize("name", ["fp16", "tf32"])
def test_what_the_cpu_has_not(name):
    with pytest.raises(UsageError, match=f"precision {name} needs a GPU; take fp32 or bf16 on the"):
        choose(name, CPU)


@pytest.mark.parametrize("name", ["apex-O1", "apex-O2"])
def test_apex_that_is_not_there_is_named_with_its_container(name, monkeypatch):
    monkeypatch.setattr(apex_amp.importlib.util, "find_spec", lambda _: None)
    said = rf"precision {name} cannot be used: apex.amp is not installed; the container "
    with pytest.raises(UsageError, match=said + r"nvcr.io/nvidia/pytorch:25\.05-py3 has it"):
        choose(name, CPU)


def test_an_apex_without_amp_is_told_apart(monkeypatch):
    monkeypatch.setattr(
        apex_amp.importlib.util, "find_spec", lambda name: name if name == "apex" else None
    )
    with pytest.raises(
        UsageError, match="the installed apex has no amp, which left it in May 2025"
    ):
        choose("apex-O1", GPU)


def test_apex_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(apex_amp.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UsageError, match="precision apex-O1 needs a GPU"):
        choose("apex-O1", CPU)


def test_switches_are_put_back():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark)
    with Precision("fp32", CPU, "").switches():
        assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == (False, False, True)
    with Precision("bf16", CPU, "").switches():
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
    with Precision("bf16", CPU, "", "sparse_layers").switches():
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == before


class Convolutions(TorchDispatchMode):
    """Records the number types that convolutions compute in, forwards and backwards."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in func.name():
            self.seen.append(tuple(x.dtype for x in args[:2]))
        return func(*args, **(kwargs or {}))


def test_scope_sparse_layers_halves_the_sparse_ones_and_no_other():
    torch.manual_seed(0)
    net, seen = Plain(16), {}
    optimizer = torch.optim.Adam(net.parameters())
    chosen = Precision("bf16", CPU, "", "sparse_layers")
    amp = chosen.start(net, optimizer, ["middle"])
    for name, module in net.named_children():
        # In front of the hook that widens the output again.
        module.register_forward_hook(
            lambda _m, i, o, name=name: seen.update({name: o.dtype}), prepend=True
        )
    recorder = Convolutions()
    with recorder, chosen.autocast():
        y = net(torch.rand(1, 1, 8, 8))
        amp.backward(y.square().mean())
    assert seen == {"first": torch.float32, "middle": torch.bfloat16, "last": torch.float32}
    half, full = (torch.bfloat16,) * 2, (torch.float32,) * 2
    assert recorder.seen == [full, half, full, full, half, full]
    assert y.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_scope_sparse_layers_computes_what_autocast_computes_in_those_layers():
    torch.manual_seed(0)
    net = Plain(16)
    x = torch.rand(1, 16, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = net.middle(x).float()
    optimizer = torch.optim.Adam(net.parameters())
    Precision("bf16", CPU, "", "sparse_layers").start(net, optimizer, ["middle"])
    assert torch.equal(net.middle(x), expected)


@pytest.mark.parametrize("scope", ["all", "sparse_layers"])
def test_a_stage_in_either_scope_learns_and_keeps_plain_layers(scope, tmp_path: Path):
    start = model()
    held = masks.compute(start.net, "modelopt")
    place = work(tmp_path / "00-train")
    options = replace(SMALL, epochs=6, lr=5e-3, precision="bf16", scope=scope)
    trained = options.run(replace(start, masks=held), place)
    assert place.facts["scope"] == scope
    assert place.facts["loss"][-1] < 0.5 * place.facts["loss"][0]
    masks.check(trained.net, held)
    for module in trained.net.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks


@pytest.fixture(params=["O1", "O2"])
def apex(request, monkeypatch):
    """Training with the stand-in for Apex, on the CPU."""
    fake_apex.install(monkeypatch)
    chosen = Precision(f"apex-{request.param}", CPU, "asked for")
    monkeypatch.setattr(session.formats, "choose", lambda *_: chosen)
    return chosen


def test_apex_learns_holds_masks_and_cleans_up(apex, tmp_path: Path):
    conv2d, start, place = F.conv2d, model(), work(tmp_path / "00-train")
    held = masks.compute(start.net, "modelopt")
    options = replace(SMALL, epochs=8, lr=5e-3, weight_decay=0.01)
    trained = options.run(replace(start, masks=held), place)
    assert F.conv2d is conv2d
    assert fake_apex.RNN["RNN_TANH"] is torch.tanh
    assert place.facts["loss"][-1] < 0.4 * place.facts["loss"][0]
    assert place.facts["cuda_graph_why"] == "no GPU"
    masks.check(trained.net, held)
    assert all(p.dtype == torch.float32 for p in trained.net.parameters())
    # Masters are finer than half precision: rounding them changes them.
    assert any(not torch.equal(p, p.bfloat16().float()) for p in trained.net.parameters())


class StopLater(threading.Event):
    """A signal in the fifth step."""

    left = 5

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_apex_resumes_to_the_same_bits(apex, tmp_path: Path):
    start = model()
    start = replace(start, masks=masks.compute(start.net, "modelopt"))
    whole = SMALL.run(start, work(tmp_path / "00-train"))
    folder = tmp_path / "again"
    folder.mkdir()
    with pytest.raises(Stopped):
        SMALL.run(start, work(folder / "00-train", stop=StopLater()))
    assert same(SMALL.run(start, work(folder / "00-train")), whole)


def test_a_resumed_run_goes_on_with_the_scale_that_was_reached(monkeypatch, tmp_path: Path):
    now, taken = {"scale": 12.0, "_growth_tracker": 3}, []
    monkeypatch.setattr(formats._Torch, "state_dict", lambda _: dict(now))
    monkeypatch.setattr(formats._Torch, "load_state_dict", lambda _, state: taken.append(state))
    options = replace(SMALL, precision="fp32")
    with pytest.raises(Stopped):
        options.run(model(), work(tmp_path / "00-train", stop=StopLater()))
    taken.clear()
    now["scale"] = 65536.0  # where a new scaler begins
    options.run(model(), work(tmp_path / "00-train"))
    assert taken[0] == {"scale": 12.0, "_growth_tracker": 3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scope": "sparse_layers", "precision": "tf32"}, "scope sparse_layers needs fp16, bf16"),
        ({"scope": "sparse_layers", "precision": "apex-O1"}, "or auto, got apex-O1"),
        ({"compile": True, "precision": "apex-O2"}, "compile cannot be used with precision apex-O"),
        ({"freeze_norm": True, "sync_norm": True}, "give freeze_norm or sync_norm, not both"),
        ({"freeze_norm": True, "freeze_norm_last": 0.2}, "or freeze_norm_last, not both"),
        ({"freeze_norm_last": 1.5}, "freeze_norm_last must lie in .0, 1., got 1.5"),
    ],
)
def test_options_that_exclude_each_other(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **changes)
