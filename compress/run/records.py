"""What a run writes down: manifest.json, facts.json of a stage, and the plan that `check` gives."""

from typing import Any, NotRequired, TypedDict

from compress.base.machine import Machine, Part
from compress.quality.records import PhysicsFacts
from compress.steps.evaluate_facts import Moments
from compress.steps.facts import PruneFacts, Size


class Patients(TypedDict):
    """Patients whose slices are used."""

    train: list[str]
    """For training."""
    test: list[str]
    """Held out."""


class DataRecord(TypedDict):
    """The data of a run."""

    source: str
    """demo, phantom or folder."""
    fingerprint: str
    """Hash of the slices."""
    train: int
    """Slices for training."""
    test: int
    """Slices held out."""
    patients: Patients
    """Whose they are."""
    notices: list[str]
    """What a reader must know of the data, a sentence each."""


class Manifest(TypedDict):
    """What a reader of the results must know about the place."""

    schema: int
    """Version of this record."""
    name: str
    """Name of the recipe."""
    overrides: list[str]
    """Settings that replace those of the recipe, key=value."""
    versions: dict[str, str]
    """Package -> installed version."""
    commit: str | None
    """Git commit of this package, -dirty where files differ; None outside its clone."""
    device: str
    """torch's name of the device, such as cuda:0."""
    gpu: str | None
    """Name of the GPU; None on a CPU."""
    threads: int
    """CPU threads of torch."""
    seed: int
    """Seed of the recipe."""
    reseed: int | None
    """Start of the draws of all stages after the first train; None: the seed."""
    data: DataRecord
    """The data."""
    notices: list[str]
    """What a reader must know of the run, a sentence each."""


class Backend(TypedDict):
    """What a stage chose, and why."""

    stage: str
    """Name of the stage."""
    choice: str
    """The back end, or the number format of a training."""
    why: str
    """Reason for it."""


class CostRecord(Size):
    """What a network costs."""

    conv_weights: int
    """Weights of convolutions and deconvolutions."""
    nonzero_weights: int
    """Those that are not zero."""
    bytes: int
    """Bytes of the tensors as stored."""


class StageFacts(TypedDict):
    """facts.json of a stage."""

    schema: int
    """Version of this record."""
    stage: str
    """Name of the stage, such as 03-retrain."""
    step: str
    """Word of the step in the recipe."""
    kind: str
    """training, compressing or measuring."""
    hash: str
    """Hash of everything that decides the result."""
    before: str | None
    """Hash of the weights that it began with, of the last stage that left any; absent in 0.1."""
    weights: str | None
    """Hash of the weights that it left; None where it leaves none, absent in 0.1."""
    options: dict[str, Any]
    """Options of the step by name; each step has its own."""
    started: str
    """Time of the start, ISO 8601, UTC."""
    seconds: float
    """Time that the step took in its last run, in seconds."""
    cost: CostRecord
    """Cost of the network that came out."""
    facts: dict[str, Any]
    """What the step remembered: TrainingFacts, PruneFacts, SparsifyFacts, EvaluateFacts, ..."""


class Shares(TypedDict):
    """Shares of a network that went, in [0, 1]."""

    params: float
    """Of the parameters."""
    macs: float
    """Of the multiply-accumulates."""


class Eligible(TypedDict):
    """How many layers 2:4 is open to."""

    convolutions: int
    """Convolutions and linear layers."""
    eligible_backend: int
    """Layers that ModelOpt and Apex ASP would take."""
    eligible_trt: int
    """Layers that TensorRT could run with sparse kernels."""


class StepBackend(TypedDict):
    """What a step would choose, and why."""

    where: str
    """Place of the step in the recipe, such as steps[1].prune."""
    choice: str
    """The back end or the number format."""
    why: str
    """Reason for it."""


class PlannedLayer(TypedDict):
    """A layer before and after the plan."""

    name: str
    """Name of the module."""
    before: list[int]
    """Input and output channels before."""
    after: list[int]
    """Input and output channels after."""
    macs: int
    """Multiply-accumulates after, for one 512x512 slice; 0 for a layer out of use."""
    eligible: bool
    """Whether the layer can be 2:4, by the rule of the recipe's last sparsify."""
    eligible_by: list[str]
    """Rules by which it can: backend, that of ModelOpt and ASP, and trt, that of TensorRT."""
    reason: str
    """Why not; empty where it can."""


class PlannedPrune(PruneFacts):
    """What a prune step would do."""

    where: str
    """Place of the step in the recipe."""


class Plan(TypedDict):
    """What a recipe would do to its network."""

    schema: int
    """Version of this record."""
    recipe: str
    """Name of the recipe."""
    estimated: bool
    """Whether widths come from random weights, as there are none to start from."""
    dense: Size
    """The network before."""
    pruned: Size
    """The network after."""
    products: int
    """Multiply-accumulates after that are products of values, as in attention, and in no layer."""
    size: list[int]
    """H and W of the slice whose MACs are counted."""
    removed: Shares
    """What went."""
    sparse24: Eligible
    """Layers open to 2:4 afterwards."""
    backends: list[StepBackend]
    """Steps that have a choice."""
    layers: list[PlannedLayer]
    """Every layer."""
    pruning: list[PlannedPrune]
    """Every step that removes channels."""


class DoctorStep(TypedDict):
    """What a step would use here."""

    where: str
    """Place of the step in the recipe."""
    uses: str
    """What it would use; empty where it cannot run."""
    missing: str
    """What is missing for it; empty where nothing is."""
    get: str
    """Commands that bring what is missing."""


class DoctorRecipe(TypedDict):
    """A recipe on this machine."""

    recipe: str
    """File of the recipe."""
    steps: list[DoctorStep]
    """Its steps in order."""


class Doctor(TypedDict):
    """What this machine has, and what recipes lack here."""

    schema: int
    """Version of this record."""
    machine: Machine
    """Versions, cores and system."""
    parts: list[Part]
    """Everything that can be missing."""
    recipes: list[DoctorRecipe]
    """What each step would use."""


ByWindow = dict[str, dict[str, dict[str, Moments]]]
"""Network -> window -> metric -> moments over slices."""


class Evaluated(TypedDict):
    """evaluation.json of `compress evaluate`."""

    schema: int
    """Version of this record."""
    model: str
    """Hash of what the network computes."""
    precision: str
    """Arithmetic of the network."""
    slices: int
    """Slices that were measured."""
    trained_on: int | None
    """Those of them that the network was trained on; None where that is not known."""
    data_range_hu: float
    """Range that PSNR and SSIM refer to, HU."""
    windows: list[str]
    """Windows that were measured in; full is the whole range."""
    summary: ByWindow
    """Over all slices."""
    by_patient: dict[str, ByWindow]
    """Patient -> over the patient's slices."""
    rows: list[dict[str, object]]
    """slice, patient, network and window, with the value of each metric."""
    physics: NotRequired[PhysicsFacts]
    """What noise realisations showed; absent where it was not asked for."""
