"""Rings of kernels beside channels: the budget, what is lost for it, and what is cut."""

import copy
import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import Kernels, Masked, Shape, UNet, randomise, shapes
from test_kernels import equal, ringless
from test_variance import CASES, rescaled, slices, without_eps
from torch import nn

from compress.base.errors import UsageError
from compress.graph import cost, kernels
from compress.graph.groups import groups
from compress.graph.rewrite import deconv_to_conv
from compress.models.ddnet import DDnet
from compress.models.redcnn import RedCNN
from compress.pruning import plan as pruning
from compress.pruning import taylor, variance
from compress.pruning.options import PruneOptions
from compress.pruning.rings import Search, sets

calm = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
costs = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)), min_size=1, max_size=3)


class Toy:
    """Rings and channels with worth and price of their own; parts of a channel can go.

    Args:
        rings: worth and price of each ring by kernel.
        channels: worth and price of each channel.
        amount: of the whole price that is to go.
    """

    def __init__(
        self,
        rings: dict[str, list[tuple[float, float]]],
        channels: list[tuple[float, float]],
        amount: float,
    ) -> None:
        self.of_rings, self.channels = rings, sorted(channels, key=lambda one: one[0] / one[1])
        self.all = [one for ring in rings.values() for one in ring] + channels
        self.amount = amount * sum(price for _, price in channels)

    def solve(self, rings: dict[str, int]) -> "Lost":
        gone = [one for name, count in rings.items() for one in self.of_rings[name][:count]]
        lost = sum(worth for worth, _ in gone)
        need = self.amount - sum(price for _, price in gone)
        for worth, price in self.channels:
            share = min(1.0, max(0.0, need / price))
            lost, need = lost + share * worth, need - share * price
        return Lost(lost, rings)

    def saved(self, rings: dict[str, int], _: "Lost") -> float:
        return sum(
            price for name, n in rings.items() for _, price in self.of_rings[name][:n]
        )  # fmt: skip

    def best(self) -> float:
        worths = {name: [w for w, _ in ring] for name, ring in self.of_rings.items()}
        return Search(worths, self.solve, self.saved).best().lost

    def best_of_all(self) -> float:
        counts = [range(len(ring) + 1) for ring in self.of_rings.values()]
        sets = (dict(zip(self.of_rings, n, strict=True)) for n in itertools.product(*counts))
        return min(self.solve(rings).lost for rings in sets)


class Lost:
    def __init__(self, lost: float, rings: dict[str, int]) -> None:
        self.lost, self.rings = lost, rings


toys = st.lists(costs, min_size=1, max_size=4).map(
    lambda lists: {str(index): one for index, one in enumerate(lists)}
)


@settings(max_examples=150, deadline=None)
@given(toys, costs, st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_the_search_is_as_good_as_its_parts_and_near_the_best_of_all(
    rings: dict[str, list[tuple[float, float]]],
    channels: list[tuple[float, float]],
    one: float,
    other: float,
) -> None:
    small, large = (Toy(rings, channels, amount) for amount in sorted((one, other)))
    whole = {name: len(ring) for name, ring in rings.items()}
    most = max(worth for worth, _ in small.all) * max(map(len, rings.values()))
    for toy in (small, large):
        assert toy.best() <= min(toy.solve({}).lost, toy.solve(whole).lost) + 1e-12
        # Greedy: one ring, with those around it, at most beyond the best of all sets.
        assert toy.best_of_all() - 1e-12 <= toy.best() <= toy.best_of_all() + most
    assert small.best() <= large.best() + most


def test_inner_rings_wait_for_outer_ones_and_single_ones_are_put_back() -> None:
    rings = {"a": [(5.0, 1.0), (0.1, 1.0)], "b": [(1.0, 1.0)], "c": [(1.5, 0.9)]}
    tried: list[dict[str, int]] = []
    toy = Toy(rings, [(100.0, 10.0)], 0.19)

    def solve(gone: dict[str, int]) -> Lost:
        tried.append(gone)
        return toy.solve(gone)

    worths = {name: [w for w, _ in ring] for name, ring in rings.items()}
    best = Search(worths, solve, toy.saved).best()
    assert tried[:4] == [{}, {"b": 1}, {"b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}]
    assert best.rings == {"b": 1, "c": 1}
    assert len(tried) == len({tuple(sorted(gone.items())) for gone in tried})


@pytest.mark.parametrize("most", [20, 400])
def test_the_work_is_bounded_whatever_the_network(most: int) -> None:
    rings = {str(index): [(1.0 + index % 7, 1.0)] for index in range(150)}
    toy = Toy(rings, [(3.0, 1.0)] * 200, 0.8)
    tried: list[dict[str, int]] = []

    def solve(gone: dict[str, int]) -> Lost:
        tried.append(gone)
        return toy.solve(gone)

    best = Search({n: [w for w, _ in r] for n, r in rings.items()}, solve, toy.saved, most).best()
    assert len(tried) <= most
    assert best.lost < toy.solve({}).lost
    assert sets(45) == 98
    assert (sets(1), sets(1000)) == (400, 20)


def lost(plan: pruning.Plan, worths: dict[str, torch.Tensor]) -> float:
    """Worth of the channels and rings that go."""
    gone = sum(
        float(g.scores.sum() - g.scores[list(plan.selection.kept[g.name])].sum())
        for g in plan.groups
    )
    return gone + sum(float(worths[name][:n].sum()) for name, n in plan.rings.items())


def check(net: nn.Module, plan: pruning.Plan, side: int = 32) -> nn.Module:
    """The pruned network: as dear as the plan says, and the dense one with all that masked."""
    small = plan.apply(net)
    before, after = cost.cost(net), cost.cost(small)
    assert 1 - after.macs / before.macs == pytest.approx(plan.removed["macs"], abs=1e-12)
    assert 1 - after.params / before.params == pytest.approx(plan.removed["params"], abs=1e-12)
    masked = Masked(ringless(net, dict(plan.rings)), groups(net), plan.pruned)
    x = torch.rand(1, 1, side, side, dtype=torch.float64)
    with torch.no_grad():
        expected, got = masked(x), small(x)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-9 * expected.abs().max()
    return small


@calm
@given(
    shape=shapes,
    amount=st.floats(0.1, 0.9),
    align=st.sampled_from([1, 2, 4, 8]),
    by_loss=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_network(shape: Shape, amount: float, align: int, by_loss: bool, seed: int) -> None:
    net = randomise(UNet(shape), seed)
    rings = kernels.cuttable(net, 1)[0]
    pairs = [(x, x.square()) for x in slices()]
    cpu = torch.device("cpu")
    worth = (
        taylor.worth(net, pairs, cpu, rings)
        if by_loss
        else variance.worth(net, slices, rings=rings)
    )
    options = {
        "criterion": "taylor" if by_loss else "variance", "round_to": align, "min_kernel": 1,
        "solver": "knapsack", "ignore": ("head",),
    }  # fmt: skip
    found: dict[str, pruning.Plan] = {}
    for word in ("keep", "weigh"):
        try:
            asked = PruneOptions(amount=amount, kernels=word, **options)
            found[word] = pruning.plan(net, asked, importance=worth)
        except UsageError as error:
            assert "cannot be removed" in str(error)
    assert "weigh" in found or "keep" not in found
    for word, plan in found.items():
        assert plan.removed["macs"] >= amount, word
        check(net, plan)
        assert "head" not in plan.rings
        for group in plan.groups:
            kept = len(plan.selection.kept[group.name])
            assert kept % align == 0 or kept == group.width
    if "keep" in found and not any(plan.failing for plan in found.values()):
        assert lost(found["weigh"], worth.rings) <= lost(found["keep"], worth.rings) + 1e-12
    if "weigh" in found:
        asked = PruneOptions(amount=0.7 * amount, kernels="weigh", **options)
        more = pruning.plan(net, asked, importance=worth)
        scores = [float(g.scores.topk(min(align, g.width)).values.sum()) for g in more.groups]
        step = max(*scores, *(float(one.sum()) for one in worth.rings.values()))
        # Greedy: a larger budget is worth more, but for one step.
        assert lost(more, worth.rings) <= lost(found["weigh"], worth.rings) + step


@pytest.mark.parametrize("case", CASES)
def test_a_rescaling_that_leaves_the_function_alone_leaves_rings_and_channels_alone(
    case: str,
) -> None:
    build, ways = CASES[case]
    torch.manual_seed(1)
    net = without_eps(randomise(build(), 1))
    other = rescaled(net, 1, ways)
    rings = kernels.cuttable(net, 1)[0]
    asked = PruneOptions(
        amount=0.9, round_to=2, criterion="variance", kernels="weigh", min_kernel=1
    )
    worths = [variance.worth(n, slices, rings=rings) for n in (net, other)]
    for name, worth in worths[0].rings.items():
        assert torch.allclose(worth, worths[1].rings[name], rtol=1e-6)
    one, two = (
        pruning.plan(n, asked, importance=w) for n, w in zip((net, other), worths, strict=True)
    )
    assert one.rings == two.rings
    assert one.selection.kept == two.selection.kept
    assert one.rings or case == "bare"


@pytest.mark.parametrize(("amount", "align"), [(0.6, 16), (0.75, 16), (0.9, 8)])
def test_ddnet_keeps_its_multiples_longer(amount: float, align: int) -> None:
    net = randomise(deconv_to_conv(DDnet(residual=True)), 3)
    asked = {"amount": amount, "round_to": align, "criterion": "variance"}
    plan = pruning.plan(net, PruneOptions(kernels="weigh", **asked))
    assert amount <= plan.removed["macs"] < amount + 0.02
    assert plan.difference < 1e-9
    check(net, plan, 64)
    if (amount, align) == (0.75, 16):
        assert plan.rings
        with pytest.raises(UsageError, match="cannot be removed at round_to 16"):
            pruning.plan(net, PruneOptions(**asked))
        assert pruning.plan(net, PruneOptions(**{**asked, "round_to": None})).align == 8
        free = PruneOptions(**{**asked, "round_to": None}, kernels="weigh")
        assert pruning.plan(net, free).align == 16


def test_ddnet_with_all_kernels_cut_is_the_one_that_is_built_so() -> None:
    net = randomise(deconv_to_conv(DDnet(residual=True)), 4)
    asked = PruneOptions(amount=0.5, kernels="cut", min_kernel=3, ignore=("stem.conv",))
    plan = pruning.plan(net, asked)
    assert plan.removed["macs"] == pytest.approx(0.598, abs=1e-3)  # more than the amount
    assert not any(plan.pruned.values())
    built = deconv_to_conv(DDnet(residual=True, kernels=(3,) * 5)).double().eval()
    built.load_state_dict(plan.apply(net).state_dict())
    assert equal(built, ringless(net, dict(plan.rings)), 64)


@pytest.mark.parametrize("word", ["weigh", "cut"])
def test_redcnn_gets_smaller_kernels_where_it_is_padded(word: str) -> None:
    net = randomise(deconv_to_conv(RedCNN(channels=16)), 5)
    worth = variance.worth(net, slices, rings=kernels.cuttable(net, 3)[0])
    asked = PruneOptions(amount=0.5, round_to=4, criterion="variance", kernels=word)
    plan = pruning.plan(net, asked, importance=worth)
    check(net, plan, 48)
    assert all(name.startswith("decoder") for name in plan.rings)
    assert len(plan.rings) == 5 or word == "weigh"
    kept = {kernel.name: kernel.kept for kernel in plan.kernels if kernel.kept}
    assert kept == {
        f"encoder.{i}": "it pads by 0 pixels, so a smaller kernel would read other pixels"
        for i in range(5)
    }


def test_kernels_of_all_kinds_go_with_channels() -> None:
    net = randomise(Kernels(), 6)
    asked = PruneOptions(amount=0.6, round_to=2, criterion="l1", kernels="cut")
    plan = pruning.plan(net, asked, size=(32, 32))
    assert not plan.failing
    check(net, plan)
    assert plan.removed["macs"] >= 0.6


def test_a_threshold_beside_cut_kernels() -> None:
    net = randomise(deconv_to_conv(DDnet(trunk=8, bottleneck=12, decoder=8)), 7)
    plan = pruning.plan(net, PruneOptions(threshold=0.0, kernels="cut", round_to=2))
    assert len(plan.rings) == 21
    check(net, plan)


def test_what_cannot_be_asked_for_is_refused() -> None:
    for sentence, given_ in {
        "min_kernel must be odd and at least 1, got 4": {"min_kernel": 4},
        "kernels weigh is for the criteria variance and taylor": {"kernels": "weigh"},
        "kernels weigh needs the solver knapsack": {
            "kernels": "weigh", "criterion": "variance", "solver": "threshold",
        },
        "kernels weigh needs an amount": {
            "kernels": "weigh", "criterion": "variance", "amount": None, "threshold": 0.1,
        },
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            PruneOptions(**{"amount": 0.5, **given_})
    net = UNet(Shape((4, 4, 4), True, False, True, False))
    with pytest.raises(UsageError, match="UNet has no kernel that could get smaller and stay at"):
        pruning.plan(net, PruneOptions(amount=0.3, kernels="cut"))
    every = PruneOptions(amount=0.3, kernels="cut", min_kernel=1, ignore=("*",))
    with pytest.raises(UsageError, match=r"at least 1x1; down: protected by '\*'"):
        pruning.plan(net, every)


def test_the_network_is_not_changed() -> None:
    net = randomise(DDnet(trunk=8, bottleneck=12, decoder=8), 8)
    before = copy.deepcopy(net)
    asked = PruneOptions(amount=0.7, round_to=4, criterion="variance", kernels="weigh")
    assert isinstance(pruning.plan(net, asked), pruning.Plan)
    assert equal(net, before)
    assert net.stem.conv.kernel_size == (7, 7)
