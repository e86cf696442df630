"""Networks of other packages, where those are installed; skipped, and counted, elsewhere."""

import importlib.util

import pytest
import torch

from compress.base.errors import UsageError
from compress.graph import cost, trial
from compress.pruning import plan as pruning
from compress.pruning.options import PruneOptions
from zoo.installed import CASES, Case
from zoo.reference import difference, telling

torch.manual_seed(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.package}: {case.name}")
def test_a_network_of_another_package_is_pruned_rightly_or_refused(case: Case) -> None:
    if importlib.util.find_spec(case.package) is None:
        pytest.skip(f"{case.package} is not installed")
    net = case.build().eval()
    try:
        plan = pruning.plan(net, PruneOptions(amount=0.5, round_to=case.align))
    except UsageError as error:
        assert case.refused
        assert case.refused in str(error)
        return
    before, small = cost.cost(net), plan.apply(net)
    assert 1 - cost.cost(small).macs / before.macs == pytest.approx(plan.removed["macs"], abs=1e-12)
    assert plan.removed["macs"] >= 0.5
    assert plan.difference < (1e-9 if plan.tried_in == torch.float64 else 1e-4)
    if plan.tried_in == torch.float64:
        side, _ = trial.slice_size(net)
        other = telling(net, side)
        again = pruning.plan(other, PruneOptions(threshold=0.3, round_to=case.align))
        assert difference(other, again.apply(other), side) < 1e-9
