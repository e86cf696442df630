"""Physics of image quality: from what was gathered of each network to the facts that are kept."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compress.base.errors import QualityError, UsageError
from compress.quality import detectability, nps, similarity, ttf
from compress.quality.detectability import Interval
from compress.quality.nps import Doubles
from compress.quality.records import (
    Detection,
    Estimate,
    Losses,
    Noise,
    PhysicsFacts,
    Sharpness,
    TissueRow,
)
from compress.steps.physics_stats import DISCS, EDGES, Gathered, Task, by_network, number

OBSERVERS = ("npwe", "cho")
DOSES = ("input", "full")
"""What is no network."""
TIMES = 500
"""Bootstrap samples."""
LIMITS = ("bias_hu", "dprime_loss", "nps_shift")
"""What a recipe can limit with `at_most`; keys of `Losses`."""
Found = Mapping[str, Gathered]
Samples = dict[str, dict[str, tuple[float, Doubles]]]
"""Observer -> network -> d' and its bootstrap samples."""


def tissue_rows(found: Found) -> dict[str, dict[str, TissueRow]]:
    """Bias and noise of each tissue through each network."""
    return {
        name: {
            tissue: {
                "bias": number(own.bias),
                "bias_rms": number(own.bias_rms),
                "sd": number(own.sd),
            }
            for tissue, own in gathered.by_tissue.items()
        }
        for name, gathered in found.items()
    }


def noise(found: Found, places: int) -> Noise | None:
    """Noise power spectra; None without a place."""
    if not places:
        return None
    curves = {name: gathered.noise.curve() for name, gathered in found.items()}
    means = {name: nps.mean_frequency(*curve) for name, curve in curves.items()}
    frequency = next(iter(curves.values()))[0]
    return {
        "frequency": frequency.tolist(),
        "curves": {name: curve[1].tolist() for name, curve in curves.items()},
        "mean_frequency": by_network(means),
        "peak_frequency": by_network({n: nps.peak_frequency(*c) for n, c in curves.items()}),
        "to_full": by_network({name: mean / means["full"] for name, mean in means.items()}),
        "places": places,
    }


def sharpness(found: Found) -> list[Sharpness]:
    """TTF, contrast and CNR by contrast."""
    some = next(iter(found.values()))
    return [_sharpness(task, found) for task in EDGES if task in some.transfers]


def _sharpness(task: Task, found: Found) -> Sharpness:
    curves = {name: gathered.transfers[task].curve() for name, gathered in found.items()}
    left = {name: np.array(gathered.contrasts[task]) for name, gathered in found.items()}
    recovery = {name: float(own[:, 0].mean() / task.contrast) for name, own in left.items()}
    cnr = {n: float(own[:, 0].mean() / np.sqrt((own[:, 1] ** 2).mean())) for n, own in left.items()}
    return {
        "contrast": task.contrast,
        "diameter": task.diameter,
        "places": len(next(iter(left.values()))),
        "frequency": next(iter(curves.values()))[0].tolist(),
        "curves": {name: curve[1].tolist() for name, curve in curves.items()},
        "f50": {name: ttf.f50(*curve) for name, curve in curves.items()},
        "recovery": by_network(recovery),
        "cnr": by_network(cnr),
    }


def samples(task: Task, found: Found, seed: int) -> Samples:
    """The d' with bootstrap samples, the same draws for every network and observer."""
    result: Samples = {}
    for observer in OBSERVERS:
        result[observer] = {}
        for name, gathered in found.items():
            slices, seen = gathered.outputs(task, observer)
            draw = np.random.default_rng(seed)
            drawn = detectability.resamples(slices, seen.absent.shape[1], TIMES, draw)
            value = detectability.dprime(seen)
            result[observer][name] = (value, detectability.bootstrap(seen, drawn))
    return result


def all_samples(found: Found, seed: int) -> dict[Task, Samples]:
    """`samples` of every task that has a place."""
    some = next(iter(found.values()))
    return {task: samples(task, found, seed) for task in DISCS if _enough(some, task)}


def _enough(some: Gathered, task: Task) -> bool:
    places = some.seen.get((task, "cho"), [])
    return bool(places) and len(places) * (len(places[0][1]) - 1) >= detectability.ENOUGH


def detection(by_task: Mapping[Task, Samples], found: Found) -> list[Detection]:
    """The d' of every task with its interval."""
    some = next(iter(found.values()))
    return [
        {
            "contrast": task.contrast,
            "diameter": task.diameter,
            "places": len(some.seen[task, "cho"]),
            "observers": {
                observer: {n: _estimate(detectability.interval(*both)) for n, both in own.items()}
                for observer, own in values.items()
            },
        }
        for task, values in by_task.items()
    ]


def losses(
    rows: Mapping[str, Mapping[str, TissueRow]],
    spectra: Noise | None,
    by_task: Mapping[Task, Samples],
) -> dict[str, Losses]:
    """What compression costs each network beside the first one; empty of a single network."""
    nets = [name for name in rows if name not in DOSES]
    return {name: _losses(rows, spectra, by_task, (nets[0], name)) for name in nets[1:]}


def _losses(
    rows: Mapping[str, Mapping[str, TissueRow]],
    spectra: Noise | None,
    by_task: Mapping[Task, Samples],
    names: tuple[str, str],
) -> Losses:
    dense, own = names
    pairs = [(row["bias"], rows[own][tissue]["bias"]) for tissue, row in rows[dense].items()]
    changes = [abs(b - a) for a, b in pairs if a is not None and b is not None]
    means = [spectra["mean_frequency"][n] if spectra else None for n in names]
    shift = abs(means[1] / means[0] - 1) if means[0] and means[1] else None
    lost = [loss for observer in OBSERVERS if (loss := _loss(by_task, observer, names))]
    return {
        "bias_hu": max(changes, default=None),
        "dprime_loss": _estimate(max(lost)) if lost else None,
        "nps_shift": shift,
    }


def _loss(
    by_task: Mapping[Task, Samples], observer: str, names: tuple[str, str]
) -> Interval | None:
    """Mean over tasks of 1 - d' / d' of the dense network; None where nothing is detectable."""
    kept, drawn = [], []
    for found in by_task.values():
        (dense, dense_samples), (own, own_samples) = (found[observer][name] for name in names)
        if dense > 0 and (dense_samples > 0).all():
            kept.append(own / dense)
            drawn.append(own_samples / dense_samples)
    if not kept:
        return None
    left = detectability.interval(float(np.mean(kept)), np.mean(drawn, axis=0))
    return Interval(1 - left.value, 1 - left.high, 1 - left.low)


def _estimate(found: Interval) -> Estimate:
    return {"value": found.value, "low": found.low, "high": found.high}


def indices(found: Found) -> dict[str, dict[str, float | None]]:
    """VIF, GMSD and both SSIM, means over slices."""
    return {n: {key: g.mean_index(key) for key in similarity.LABELS} for n, g in found.items()}


def maps(found: Found) -> dict[str, NDArray[np.float32]]:
    """Arrays to keep, by network and kind: bias-dense, sd-dense, nps-dense."""
    return {f"{kind}-{n}": array for n, g in found.items() for kind, array in g.maps.items()}


def check(facts: PhysicsFacts, at_most: Mapping[str, float]) -> None:
    """Hold what compression costs against the recipe's limits.

    Raises:
        UsageError: a limit is on what could not be measured.
        QualityError: a limit is exceeded; names each, with the value.
    """
    over, found = [], facts["losses"].get("compressed")
    for name, limit in at_most.items():
        value, text = _value(found, name) if found else (None, "")
        if value is None:
            why = "there is no compressed network beside the dense one, or no place to measure"
            raise UsageError(f"evaluate: at_most limits {name}, which has no value: {why}")
        if not value <= limit:  # NaN holds no limit
            over.append(f"{name} is {text}, the recipe allows {limit:g}")
    if over:
        raise QualityError(f"evaluate: {'; '.join(over)}")


def _value(found: Losses, name: str) -> tuple[float | None, str]:
    if name == "dprime_loss":
        loss = found["dprime_loss"]
        if loss is None:
            return None, ""
        return loss["value"], f"{loss['value']:.3f} ({loss['low']:.3f} to {loss['high']:.3f})"
    value = found["bias_hu"] if name == "bias_hu" else found["nps_shift"]
    return value, "" if value is None else f"{value:.3f}"
