"""The steps of a recipe: one file each, and the one table of their names.

train.py      train, retrain
prune.py      prune
latency.py    the table of times that prune with target latency plans by
sparsify.py   sparsify
quantize.py   quantize
baseline.py   baseline
evaluate.py   evaluate
export.py     export
report.py     report
facts.py      what prune, sparsify, quantize and report remember (evaluate_facts.py: evaluate)
physics.py    the physics of image quality (physics_stats.py gathers, physics_facts.py sums up)
cpu_speed.py  dense and compressed networks timed on a CPU

A new step is a file here, as context.Step asks, and its line in STEPS. What may follow what is
checked in recipe/recipe.py. A step that compresses is also planned by run/preview.py and described
by reporting/sentences.py and reporting/storage.py, from the facts that reporting/collect.py picks.
"""

from collections.abc import Mapping

from compress.context import Step
from compress.steps.baseline import Baseline
from compress.steps.evaluate import Evaluate
from compress.steps.export import Export
from compress.steps.prune import Prune
from compress.steps.quantize import Quantize
from compress.steps.report import Report
from compress.steps.sparsify import Sparsify
from compress.steps.train import Train

STEPS: Mapping[str, type[Step]] = {
    "train": Train,
    "prune": Prune,
    "retrain": Train,
    "sparsify": Sparsify,
    "quantize": Quantize,
    "baseline": Baseline,
    "evaluate": Evaluate,
    "export": Export,
    "report": Report,
}
