"""evaluate: {physics: true}: noise realisations, what known systems measure, gates, refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from dicom_files import dataset, packed
from torch import Tensor, nn

from compress import checkpoint
from compress.base.errors import QualityError, UsageError
from compress.checkpoint import Model, ModelOptions
from compress.cli import main
from compress.context import Work
from compress.data import Data, Pairs, phantom
from compress.data.fanbeam import reconstruct, reconstruct_many
from compress.data.fanbeam_torch import TorchScanner
from compress.data.lowdose import Exposure, Slice, insert_noise, line_integrals, simulate
from compress.data.realisations import brighter, noise
from compress.data.scanner import FanBeam
from compress.quality import detectability, sites, ttf
from compress.quality.detectability import Outputs, outputs
from compress.quality.records import PhysicsFacts
from compress.run import evaluate as evaluation
from compress.steps import physics, physics_facts
from compress.steps.evaluate import Evaluate
from compress.steps.physics import Settings, measure
from compress.steps.physics_stats import place

EXPOSURE = Exposure(photons=1e5, electronic=3.0, fan=FanBeam(views=90))
HU = 1 / 2924
"""One HU in network range."""


def chest(index: int = 0, size: int = 256) -> Slice:
    """A phantom with more soft tissue than the usual one, without its noise-like texture."""
    found = phantom.chest("P2", index, size, 0)
    image = found.image.copy()
    image[size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 50
    return replace(found, image=image)


def work(folder: Path, slices: list[Slice]) -> Work:
    test = simulate(slices, EXPOSURE, 0, None)
    data = Data(train=test, test=test, source="phantom", fingerprint="0")
    return Work(stage=folder, device=torch.device("cpu"), data=data, seed=0)


def blur(x: Tensor) -> Tensor:
    """A mean over 5 x 5 pixels: a linear low-pass."""
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)


def shift(x: Tensor) -> Tensor:
    """Ten HU more, everywhere."""
    return x + 10 * HU


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[PhysicsFacts, Path]:
    """What an identity, an offset and a blur measure."""
    given = work(tmp_path_factory.mktemp("physics"), [chest(0), chest(1)])
    nets = {"input": None, "dense": lambda x: x, "shift": shift, "compressed": blur}
    return measure(nets, given, Settings(realisations=16, batch=4)), given.stage


def test_sinograms_reconstructed_together_are_those_reconstructed_alone() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (3, 90, 736)).astype(np.float32)
    together = reconstruct_many(rows, (64, 48), 2.0, EXPOSURE.fan)
    alone = [reconstruct(one, (64, 48), 2.0, EXPOSURE.fan) for one in rows]
    np.testing.assert_allclose(together, np.stack(alone), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="must be 90 x 736"):
        reconstruct_many(rows[:, :10], (64, 48), 2.0, EXPOSURE.fan)


def test_realisations_are_those_of_the_simulator_and_fall_with_dose() -> None:
    one = chest(size=128)
    p = line_integrals(one, EXPOSURE)
    found = noise(one, p, EXPOSURE, 12, 0)
    assert found.shape == (12, 128, 128)
    np.testing.assert_array_equal(found[:3], noise(one, p, EXPOSURE, 3, 0))
    assert not np.allclose(found[0], noise(one, p, EXPOSURE, 1, 1)[0])
    body = one.image > -200
    alone = (insert_noise(one, EXPOSURE, 0) - one.image)[body].std()
    assert found[:, body].std() == pytest.approx(alone, rel=0.05)
    assert abs(found[:, body].mean()) < 0.1 * alone
    bright = noise(one, p, brighter(EXPOSURE, 4), 12, 0)
    assert bright[:, body].std() == pytest.approx(found[:, body].std() / 2, rel=0.05)


def test_detectability_grows_with_the_root_of_the_dose() -> None:
    one = chest()
    p = line_integrals(one, EXPOSURE)
    signal = 25 * ttf.disc(64, 2.5)
    channels = detectability.laguerre_gauss(64, 2.5 * detectability.WIDTH)
    found = []
    for seed, dose in enumerate((EXPOSURE, brighter(EXPOSURE, 4))):
        own = noise(one, p, dose, 100, seed)
        patches = [sites.region(own, site, 64) for site in sites.places(one.image)]
        pair = [[outputs(x + s, channels) for x in patches] for s in (0, signal)]
        found.append(detectability.dprime(Outputs(*map(np.stack, pair))))
    assert found[1] / found[0] == pytest.approx(2, rel=0.1)


def test_another_scanner_gives_the_same_noise() -> None:
    one = chest(size=128)
    scanner = TorchScanner(torch.device("cpu"))
    p = line_integrals(one, EXPOSURE)
    found = noise(one, p, EXPOSURE, 2, 0, scanner)
    np.testing.assert_allclose(found, noise(one, p, EXPOSURE, 2, 0), atol=0.05)


def test_an_identity_measures_what_the_low_dose_does(found: tuple[PhysicsFacts, Path]) -> None:
    facts, _ = found
    assert facts["networks"] == ["input", "dense", "shift", "compressed", "full"]
    for tissue, row in facts["tissues"]["input"].items():
        assert facts["tissues"]["dense"][tissue] == pytest.approx(row, abs=0.01, nan_ok=True)
    spectra = facts["noise"]
    assert spectra["curves"]["dense"] == pytest.approx(spectra["curves"]["input"], rel=0.001)
    for own in facts["sharpness"]:
        assert own["f50"]["dense"] is None
        assert own["recovery"]["dense"] == pytest.approx(1, abs=0.01)
    for task in facts["detection"]:
        for values in task["observers"].values():
            assert values["dense"] == pytest.approx(values["input"], rel=0.01)
            assert values["full"]["value"] > 1.2 * values["input"]["value"]


def test_an_offset_is_bias_and_nothing_else(found: tuple[PhysicsFacts, Path]) -> None:
    facts, _ = found
    for tissue, row in facts["tissues"]["dense"].items():
        other = facts["tissues"]["shift"][tissue]
        if row["bias"] is not None:
            assert other["bias"] - row["bias"] == pytest.approx(10, abs=0.2)
    lost = facts["losses"]["shift"]
    assert lost["bias_hu"] == pytest.approx(10, abs=0.2)
    assert lost["nps_shift"] == pytest.approx(0, abs=0.001)
    assert lost["dprime_loss"]["value"] == pytest.approx(0, abs=0.001)


def test_a_blur_lowers_noise_its_frequency_and_sharpness(found: tuple[PhysicsFacts, Path]) -> None:
    facts, stage = found
    soft = {name: rows["soft tissue"]["sd"] for name, rows in facts["tissues"].items()}
    assert soft["compressed"] < 0.5 * soft["dense"]
    assert soft["full"] == pytest.approx(soft["input"] / 2, rel=0.1)
    spectra = facts["noise"]
    assert spectra["mean_frequency"]["compressed"] < spectra["mean_frequency"]["dense"]
    assert spectra["to_full"]["full"] == 1
    assert facts["losses"]["compressed"]["nps_shift"] > 0.2
    f50s = [own["f50"]["compressed"] for own in facts["sharpness"]]
    # |sinc| of five pixels of 1.4 mm along an axis is a half at 0.6034 / 7.03 mm.
    assert f50s
    assert f50s == pytest.approx([0.6034 / (5 * 360 / 256)] * len(f50s), rel=0.1)
    with np.load(stage / facts["file"]) as maps:
        assert maps["bias-compressed"].shape == (256, 256)
        assert maps["nps-full"].shape == (64, 64)
    json.dumps(facts, allow_nan=False)


def test_tasks_take_turns_over_places_and_discs_do_not_touch() -> None:
    one = chest()
    scene = place(0, one.image, one.spacing, 3)
    assert len({disc.task for disc in scene.discs}) == len(scene.discs)
    assert scene.discs[0].task == place(0, one.image, one.spacing, 10).discs[0].task
    change = scene.inserted() - scene.full
    total = sum(disc.task.contrast * disc.shape.sum() for disc in scene.discs)
    assert change.sum() == pytest.approx(total, rel=1e-4)


def compressed(net: nn.Module | None, limits: dict[str, float]) -> PhysicsFacts:
    rows = {"bias": 0.0, "bias_rms": 0.0, "sd": 1.0}
    loss = {"value": 0.031, "low": 0.01, "high": 0.05}
    lost = {"bias_hu": 1.234, "dprime_loss": loss, "nps_shift": None}
    return {"tissues": {"dense": {"lung": rows}}, "losses": {"compressed": lost}}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"bias_hu": 1}, r"bias_hu is 1\.234, the recipe allows 1"),
        ({"dprime_loss": 0.02}, r"dprime_loss is 0\.031 \(0\.010 to 0\.050\), the recipe allows"),
        ({"bias_hu": 0, "dprime_loss": 0}, "bias_hu is .*; dprime_loss is"),
    ],
)
def test_a_limit_that_is_exceeded_is_a_quality_error(limits: dict[str, float], words: str) -> None:
    with pytest.raises(QualityError, match=words):
        physics_facts.check(compressed(None, limits), limits)


def test_limits_that_hold_pass_and_limits_without_a_value_are_refused() -> None:
    facts = compressed(None, {})
    physics_facts.check(facts, {"bias_hu": 1.3, "dprime_loss": 0.04})
    with pytest.raises(UsageError, match="limits nps_shift, which has no value"):
        physics_facts.check(facts, {"nps_shift": 0.05})
    with pytest.raises(UsageError, match="no compressed network beside the dense one"):
        physics_facts.check({**facts, "losses": {}}, {"bias_hu": 1})


def test_a_measured_nan_holds_no_limit() -> None:
    facts = compressed(None, {})
    facts["losses"]["compressed"]["bias_hu"] = math.nan
    with pytest.raises(QualityError, match="bias_hu is nan, the recipe allows 1"):
        physics_facts.check(facts, {"bias_hu": 1})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at_most": {"bias_hu": 1}}, "at_most needs physics: true and compare: true"),
        ({"physics": True, "at_most": {"psnr": 1}}, "at_most has no limit 'psnr'; there are bias"),
        ({"physics": True, "at_most": {"bias_hu": -1}}, "must not be negative"),
        ({"physics": True, "at_most": {"bias_hu": math.nan}}, "must not be negative, got nan"),
        ({"realisations": 3}, "realisations must be at least 4, got 3"),
        ({"physics_slices": 0}, "physics_slices must be at least 1"),
        ({"dose_ratio": 1}, "dose_ratio must be more than 1, got 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Evaluate(**options)


def test_limits_are_refused_where_nothing_is_compressed(tmp_path: Path) -> None:
    given = work(tmp_path, [chest(size=128)])
    options = ModelOptions(name="redcnn", options={"channels": 2})
    model = Model(net=options.build().eval(), origin=options)
    with pytest.raises(UsageError, match="at_most compares with the dense network; nothing diff"):
        Evaluate(physics=True, at_most={"bias_hu": 1}).run(model, given)


def test_slices_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    given = work(tmp_path, [chest(size=64)])
    with pytest.raises(UsageError, match=r"at least 128x128 pixels; P2-000 has \(64, 64\)"):
        measure({"input": None}, given, Settings())
    test = replace(given.data.test, spacings=())
    unknown = replace(given, data=replace(given.data, test=test))
    around = replace(given.data.test, around=tuple((i, i, i) for i in given.data.test.low))
    volume = replace(given, data=replace(given.data, test=around))
    with pytest.raises(UsageError, match="that sees a slice alone; this one sees 3"):
        measure({"input": None}, volume, Settings())
    with pytest.raises(UsageError, match="side of a pixel is not known"):
        measure({"input": None}, unknown, Settings())


def test_a_network_that_gives_nan_is_named(tmp_path: Path) -> None:
    given = work(tmp_path, [chest(size=128)])
    with pytest.raises(QualityError, match="the dense network gives NaN"):
        measure({"dense": lambda x: x * float("nan")}, given, Settings(realisations=4))


def test_a_slice_without_soft_tissue_still_has_bias_and_variance(tmp_path: Path) -> None:
    air = Slice(name="air", patient="P", spacing=1.5, image=np.full((128, 128), -800, np.int16))
    facts = measure({"input": None}, work(tmp_path, [air]), Settings(realisations=4))
    assert facts["noise"] is None
    assert facts["detection"] == facts["sharpness"] == []
    assert facts["tissues"]["input"]["lung"]["sd"] > 0
    assert facts["tissues"]["input"]["bone"]["bias"] is None
    assert any("Too few places in soft tissue" in said for said in facts["notices"])


RECIPE = """
schema: 1
name: gates
model: {name: redcnn, channels: 4}
data: {source: phantom, image_size: 128, train_slices: 1, test_slices: 1, views: 45}
steps:
  - train: {epochs: 1, crop: 32, slices_per_epoch: 4}
  - prune: {amount: 0.5, round_to: null}
  - evaluate: {physics: true, realisations: 4, at_most: {bias_hu: 0.001}}
  - report
"""


def test_a_run_over_its_limit_ends_with_status_3_and_below_it_has_a_report(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(RECIPE)
    command = ["run", str(path), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(main.main, command)
    assert done.exit_code == 3, done.output
    done = CliRunner().invoke(main.main, [*command, "--set", "steps.evaluate.at_most.bias_hu=1e6"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run/03-report/report.json").read_text())
    assert report["physics"]["losses"]["compressed"]["bias_hu"] > 0.001
    for name in ("report.html", "report.md"):
        text = (tmp_path / "run/03-report" / name).read_text()
        assert "Physics of image quality" in text
        assert "no reader took part" in text


def test_pairs_of_npy_files_have_no_pixel_size_and_the_command_says_so(tmp_path: Path) -> None:
    for side in ("low", "full"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        np.save(tmp_path / "pairs" / side / "a.npy", chest(size=128).image)
    path = tmp_path / "gates.yaml"
    path.write_text(RECIPE.split("  - prune")[0])
    run = ["run", str(path), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert CliRunner().invoke(main.main, run).exit_code == 0
    command = ["evaluate", str(tmp_path / "run/00-train"), "--data", str(tmp_path / "pairs")]
    done = CliRunner().invoke(main.main, [*command, "-o", str(tmp_path / "out"), "--physics"])
    assert done.exit_code == 2, done.output
    assert "the side of a pixel is not known" in done.output
    assert not (tmp_path / "out/evaluation.json").exists()


def test_the_command_measures_dicom_pairs_and_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hu = chest(size=128).image
    stored = (hu.astype(int) + 1024).astype("<u2").tobytes()
    for side in ("low", "full"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        file = packed(dataset(hu, PixelData=stored, PixelSpacing=[1.5, 1.5]))
        (tmp_path / "pairs" / side / "a.dcm").write_bytes(file)
    (tmp_path / "model").mkdir()
    options = ModelOptions(name="redcnn", options={"channels": 2})
    checkpoint.save(Model(net=options.build().eval(), origin=options), tmp_path / "model")
    given = (tmp_path / "model", tmp_path / "pairs", tmp_path / "out", (), "cpu")
    content = evaluation.run(*given, Settings(realisations=4))
    facts = content["physics"]
    assert facts["networks"] == ["input", "model", "full"]
    assert facts["losses"] == {}
    assert "simulated at 100,000 photons, not that of the given pairs" in facts["notices"][-1]
    assert json.loads((tmp_path / "out/evaluation.json").read_text()) == content
    assert "| Network |" in (tmp_path / "out/physics.md").read_text()
    evaluation.render(content)
    assert "Mean bias, HU" in capsys.readouterr().out


def test_pairs_know_their_pixels(tmp_path: Path) -> None:
    made = simulate([chest(size=128)], EXPOSURE, 0, None)
    assert made.spacings == (pytest.approx(360 / 128),)
    assert made.exposure == EXPOSURE
    assert Pairs(low=(), full=(), names=(), patients=()).spacings == ()
    assert sites.patch((128, 128)) == 32
    assert physics.SMALLEST == 128
