"""What the numbers of a report come to, in sentences: nothing said that was not measured.

Fixed sentences are in report.html.j2 and report.md.j2, often in both; those on the physics of image
quality in physics.py, what a run did not do in undone.py, one each in collect.py and page.py.
"""

from collections.abc import Mapping
from typing import Any

from compress.base.words import listed
from compress.data.sources import SOURCES, Source
from compress.reporting import formatting, speed
from compress.reporting.records import Collected, Facts, Report, Sentences, Speed
from compress.reporting.undone import steps_trained, undone


def source(report: Collected | Report) -> Source:
    """Where a report's slices came from; a folder where it does not say."""
    name: Any = report["manifest"].get("data", {}).get("source")
    return SOURCES.get(name, SOURCES["folder"])


def write(report: Collected) -> Sentences:
    """What is said of a report in words.

    Returns:
        verdict (one sentence), notices (read these first), kernels (one for each TensorRT engine),
        limits (hold for every run), undone: [{what, why, command}], what this run did not do, and
        what would.
    """
    found = [*undone(report)]
    return {
        "verdict": _verdict(report),
        "notices": _notices(report),
        "kernels": [_kernels(e) for e in report["engines"] if e.get("sparsity")],
        "limits": _limits(report),
        "undone": [undone for i, undone in enumerate(found) if undone not in found[:i]],
    }


def _verdict(report: Collected) -> str:
    if not report["stages"]:
        return "No stage of this run has ended."
    gains = _gains(report)
    own = "compressed" if gains else "dense"
    start = [f"With {found}" for found in _phrase(gains)] or ["Nothing was compressed"]
    return f"{start[0]}, the {own} network {_reached(report, own)}; {_speed(report['speed'])}."


def _speed(bench: Speed | None) -> str:
    if bench is None:
        return "its speed was not measured"
    if bench["own"]:
        return f"it is {speed.gain(bench)} as the dense one: {speed.way(bench)}"
    first, best = bench["before"], bench["after"]
    if best is bench["before"]:
        return f"nothing took less time for a slice than {first['name']}, on {bench['where']}"
    least, most = (formatting.three(row["p50_ms"]) for row in (best, first))
    return (
        f"{best['name']} ({best['how']}) takes {least} ms for a slice and "
        f"{first['name']} ({first['how']}) {most} ms, on {bench['where']}"
    )


def _gains(report: Collected) -> list[str]:
    words = {"macs": "MACs", "params": "parameters"}
    removed: Mapping[str, Any] = report["removed"]
    shares = {key: removed[key] or 0.0 for key in words}
    gains = [f"{100 * shares[key]:.1f} % fewer {words[key]}" for key in words if shares[key]]
    masked = [p for p in report["pruning"] if not p["groups"]]
    gains += [f"{100 * p['zeros']:.1f} % of the convolution weights zero" for p in masked[-1:]]
    if sparse := report["sparse24"]:
        gains.append(f"{sparse['done']} of {sparse['convolutions']} convolutions 2:4 sparse")
    if int8 := report["int8"]:
        done = sum(layer["int8"] for layer in int8["layers"])
        gains.append(f"{done} of {len(int8['layers'])} layers in INT8")
    return gains


def _reached(report: Collected, own: str) -> str:
    means = _psnr(report)
    evaluation = report["evaluation"]
    if own not in means or evaluation is None or _changed_later(report):
        return "was not evaluated for image quality"
    kind = "phantom" if source(report).phantoms else "held-out"
    where = f"on {evaluation['slices']} {kind} slices"
    dense, final = steps_trained(report)
    fair = own == "dense" or dense >= final
    others = {"input": "the low-dose input"}
    if own != "dense" and fair:
        others = {"dense": f"the dense network{' trained as long' if final else ''}", **others}
    compared = [
        f"{_distance(means[own], means[other])} {words}"
        for other, words in others.items()
        if other in means
    ]
    reached = ", ".join([f"reaches {means[own]:.2f} dB PSNR {where}", *_phrase(compared)])
    if fair or "dense" not in means:
        return reached
    lacks = f"lacks {final - dense:,} of the {final:,} optimizer steps"
    return (
        f"{reached} (no fair comparison with the dense network at {means['dense']:.2f} dB, "
        f"which {lacks})"
    )


def _distance(mean: float, other: float) -> str:
    """Of both as they are printed."""
    difference = round(mean, 2) - round(other, 2)
    if abs(difference) < 0.005:
        return "level with"
    return f"{abs(difference):.2f} dB {'above' if difference > 0 else 'below'}"


def _phrase(parts: list[str]) -> list[str]:
    """One phrase of all parts, or nothing."""
    return [listed(parts)] if parts else []


def _psnr(report: Collected) -> dict[str, float]:
    """Mean PSNR by network, where there is one."""
    means = {name: found["psnr"]["mean"] for name, found in report["quality"].items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _changed_later(report: Collected) -> str:
    """The last stage that changed the network, where the evaluation came before it."""
    names = [s["stage"] for s in report["stages"] if s["kind"] in ("training", "compressing")]
    evaluated = report["evaluation"]
    return names[-1] if names and evaluated and evaluated["stage"] < names[-1] else ""


def _notices(report: Collected) -> list[str]:
    manifest, means = report["manifest"], _psnr(report)
    data = manifest.get("data", {})
    notices = [*manifest.get("notices", []), *data.get("notices", [])]
    if source(report).phantoms and not data.get("notices"):
        notices.append("All slices are phantoms: this run says nothing about CT of patients.")
    own = "compressed" if "compressed" in means else "dense"
    if own in means and means[own] <= means.get("input", float("-inf")):
        notices.append(f"The {own} network is no better than the untouched low-dose input.")
    if later := _changed_later(report):
        notices.append(f"Image quality was measured before {later} changed the network.")
    notices += [
        f"{engine['format']} was not built: {engine['reason']}"
        for engine in report["engines"]
        if engine["status"] != "built"
    ]
    return list(dict.fromkeys(notices))


def _kernels(engine: Facts) -> str:
    """What an engine tells of sparse kernels; that it has some is no speed-up by itself."""
    told = engine["sparsity"]
    able = "" if told["eligible"] is None else f" of {told['eligible']} that TensorRT could take"
    if told["picked"] is None:
        return f"{engine['file']} does not tell for which layers it runs sparse kernels."
    if not told["picked"]:
        return f"{engine['file']} runs no layer{able} with a sparse kernel: 2:4 gains it no time."
    return (
        f"{engine['file']} runs {told['picked']} layers{able} with sparse kernels; what that is "
        "worth shows `compress bench` beside an engine of the same widths without 2:4."
    )


def _limits(report: Collected) -> list[str]:
    unmeasured = "" if report["speed"] else "No latency was measured. "
    if report["speed"] and report["speed"]["own"]:
        unmeasured = "Speed was measured on a CPU, which says nothing of a GPU or of an engine. "
    limits = [
        "This is research software, not a medical device; its results are not for diagnosis.",
        f"{unmeasured}Zeros in the 2:4 pattern save time only in an engine that runs sparse "
        "kernels for them, so neither they nor fewer MACs are a speed-up by themselves.",
        "PSNR, SSIM and RMSE do not replace the judgement of a radiologist.",
    ]
    if report["int8"]:
        limits.append(
            "Image quality in INT8 was measured with the rounding simulated in float32; an engine "
            "may sum in another order and so round some values to the next step."
        )
    if source(report).simulated:
        limits.append("The low-dose slices are simulated from the full-dose ones.")
    dense, final = steps_trained(report)
    if "compressed" in report["quality"] and final > dense:
        limits.append(
            f"The compressed network was trained for {final:,} optimizer steps in all, the dense "
            f"one for {dense:,}: their difference is not the cost of compression alone."
        )
    if report["baseline"]:
        on = sum(stage["steps"] for stage in report["baseline"])
        limits.append(
            f"The dense network was trained on for {on:,} optimizer steps after compression, to be "
            "compared with."
        )
    patients = len(report["by_patient"])
    if patients:
        people = "one patient" if patients == 1 else f"{patients} patients"
        limits.append(f"Quality was measured on {people}; the spread is over slices.")
    if report["network"]["name"] == "ddnet" and report["network"]["options"].get("residual"):
        limits.append("This DDnet adds its input, y = x + f(x), which the published one does not.")
    return limits
