"""Networks that draw random numbers in eval mode: pruned rightly; refused where it matters."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from compress import api
from compress.base.errors import CompressError, UsageError
from compress.cli.main import main
from compress.graph import draws
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from compress.sparsity.permutation import permute
from zoo.blocks import conv
from zoo.reference import distinct

SAID = "gives something else each time it runs, in eval mode too, as dropout that is always on does"
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda y: F.dropout(y, 0.2),
    "alpha dropout": lambda y: F.alpha_dropout(y, 0.2, training=True),
    "noise": lambda y: y + 0.1 * torch.randn_like(y),
}


class Drawing(nn.Module):
    def __init__(self, kind: str = "dropout") -> None:
        super().__init__()
        self.a, self.b, self.c, self.kind = conv(1, 16), conv(16, 16), conv(16, 1), kind

    def forward(self, x: Tensor) -> Tensor:
        y = DRAWS[self.kind](F.relu(self.a(x)))
        return x + self.c(F.relu(self.b(y)))


@pytest.mark.parametrize("kind", DRAWS)
def test_what_is_drawn_keeps_no_channels(kind: str) -> None:
    net = distinct(Drawing(kind), seed=1)
    plan = pruning.plan(net, PruneOptions(amount=0.6, round_to=2), size=(32, 32))
    small = plan.apply(net)
    assert not plan.failing
    assert plan.difference < 1e-9
    assert max(small.a.out_channels, small.b.out_channels) < 16


def test_channels_that_go_wrongly_are_found_beside_dropout(monkeypatch) -> None:
    """Still random numbers hide no fault: here channels are multiplied by their number."""
    wrong = lambda y: F.dropout(y, 0.2) * torch.arange(y.shape[1]).view(-1, 1, 1)  # noqa: E731
    monkeypatch.setitem(DRAWS, "wrong", wrong)
    net = distinct(Drawing("wrong"), seed=1)
    plan = pruning.plan(net, PruneOptions(threshold=0.3, round_to=2), size=(32, 32))
    assert plan.apply(net).a.out_channels == 16


def test_channels_behind_dropout_can_be_permuted() -> None:
    assert permute(Drawing(), ["b"]).exchanges > 0


def test_what_compares_outputs_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=f"onnx was not built: Drawing {SAID}"):
        api.export(Drawing(), tmp_path, size=32)
    with pytest.raises(UsageError, match=SAID):
        api.quantize(Drawing(), torch.zeros(1, 32, 32))


def test_a_recipe_refuses_them_before_any_training(tmp_path: Path) -> None:
    text = f"schema: 1\nmodel: {{import: {__name__}:Drawing}}\nsteps: [{{train: {{epochs: 1}}}}]"
    (tmp_path / "r.yaml").write_text(text)
    for command in (["check"], ["run", "--out", str(tmp_path / "run"), "--device", "cpu"]):
        result = CliRunner().invoke(main, [*command, str(tmp_path / "r.yaml")])
        assert result.exit_code == 2
        assert SAID in result.stderr


def test_dropout_that_is_off_in_eval_mode_is_steady() -> None:
    draws.check_steady(nn.Sequential(conv(1, 8), nn.Dropout(0.5), conv(8, 1)))
