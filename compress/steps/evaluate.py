"""evaluate: image quality of the input and of both networks on the held-out slices."""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from compress import checkpoint
from compress.base.around import spread
from compress.base.errors import QualityError, Stopped, UsageError
from compress.base.files import write_atomic
from compress.base.hu import to_hu, to_network
from compress.base.progress import track
from compress.checkpoint import Model
from compress.context import Kind, Use, Work
from compress.data import Pairs
from compress.graph.padding import AnySize, ready
from compress.graph.slices import channels
from compress.quality import metrics
from compress.steps import physics_facts
from compress.steps.evaluate_facts import SliceRow, facts
from compress.steps.physics import Settings, check, measure

log = logging.getLogger(__name__)
LIMITS = physics_facts.LIMITS


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure image quality on the held-out slices; the networks run in float32.

    Slices whose sides the network does not take are padded and cut again, as `compress enhance`
    does. Outputs are clipped to the network range, because that is how they are written as images.
    """

    kind: ClassVar[Kind] = "measuring"
    ADDED: ClassVar[tuple[str, ...]] = (
        "physics", "realisations", "physics_slices", "dose_ratio", "at_most",
    )  # fmt: skip

    batch: int = 1
    """Slices that go through a network at once."""
    pictures: int = 2
    """Slices kept as pictures for the report, evenly spread over those held out."""
    compare: bool = True
    """Measure the untouched input and the dense network too; a sweep measures them once."""
    physics: bool = False
    """Measure bias, noise texture, sharpness and detectability, too, on noise realisations."""
    realisations: int = 24
    """Noise realisations of each slice; for physics."""
    physics_slices: int = 6
    """Slices to measure on, evenly spread over those held out; for physics."""
    dose_ratio: float = 4.0
    """How many times the photons of the low dose the simulated full dose has; for physics."""
    at_most: Mapping[str, float] | None = None
    """Limits on what compression may cost: bias_hu, dprime_loss, nps_shift; more is an error."""

    def __post_init__(self) -> None:
        """Refuse counts that mean nothing."""
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if self.pictures < 0:
            raise ValueError(f"pictures must not be negative, got {self.pictures}")
        if self.realisations < 4:
            raise ValueError(f"realisations must be at least 4, got {self.realisations}")
        if self.physics_slices < 1:
            raise ValueError(f"physics_slices must be at least 1, got {self.physics_slices}")
        if not self.dose_ratio > 1:
            raise ValueError(f"dose_ratio must be more than 1, got {self.dose_ratio}")
        self._check_limits()

    def _check_limits(self) -> None:
        if self.at_most is None:
            return
        if not (self.physics and self.compare):
            raise ValueError("at_most needs physics: true and compare: true")
        for name, limit in self.at_most.items():
            if name not in LIMITS:
                raise ValueError(f"at_most has no limit {name!r}; there are {', '.join(LIMITS)}")
            if not limit >= 0:  # NaN, too, which nothing would exceed
                raise ValueError(f"at_most.{name} must not be negative, got {limit}")

    def uses(self, device: torch.device) -> Use:
        """PyTorch in float32."""
        return Use(name=f"PyTorch on {device.type}")

    def run(self, model: Model, work: Work) -> Model:
        """Measure every network on every held-out slice; the model passes through unchanged.

        Raises:
            QualityError: a network gives NaN or infinity; names the slice. Compression costs more
                than `at_most` allows.
            UsageError: physics cannot be measured on these slices.
            Stopped: a signal came.
        """
        self.measure(model, work)
        for name, found in work.facts["summary"].items():
            psnr, rmse = found["psnr"]["mean"], found["rmse_hu"]["mean"]
            shown = "equal to the full dose" if psnr is None else f"PSNR {psnr:.2f} dB"
            log.info("%s: %s, RMSE %.2f HU, SSIM %.4f", name, shown, rmse, found["ssim"]["mean"])
        for notice in work.facts["physics"]["notices"] if self.physics else ():
            log.warning("%s", notice)
        if self.physics and self.at_most:
            physics_facts.check(work.facts["physics"], self.at_most)
        return model

    def measure(
        self, model: Model, work: Work, called: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """What `run` does, without a word; the figures stand in `work.facts`.

        Args:
            model: the network.
            work: its slices, and where facts go.
            called: other names of networks for the progress bar.
        """
        test = work.data.test
        networks = self._compared(model, work)
        shown = _spread(test, self.pictures)
        pictures = {"full": [_clip(test.full[i]) for i in shown]}
        rows: list[SliceRow] = []
        for name, net in networks.items():
            found, words = self._images(name, net, work), f"evaluate {called.get(name, name)}"
            for index, image in enumerate(track(found, words, len(test.full))):
                about = {"slice": test.names[index], "patient": test.patients[index]}
                full = torch.from_numpy(_clip(test.full[index])).to(image.device)
                measured = metrics.measure(image, full)
                rows.append(cast("SliceRow", {**about, "network": name, **measured}))
                if index in shown:
                    key = "low" if name == "input" else name
                    pictures.setdefault(key, []).append(image.cpu().numpy())
        work.facts.update(facts(list(networks), rows))
        if shown:
            names = [test.names[i] for i in shown]
            write_atomic(work.stage / "pictures.npz", _packed(pictures, names))
            work.facts["pictures"] = "pictures.npz"
        if self.physics:
            own = {name: _ready(net, work) for name, net in networks.items()}
            work.facts["physics"] = measure(own, work, self._settings(work))

    def _compared(self, model: Model, work: Work) -> dict[str, nn.Module | None]:
        """What is measured, by name; refuses what `physics` and `at_most` cannot measure."""
        networks = _networks(model, work)
        if self.physics:
            check(work, self._settings(work))
        if self.at_most and "compressed" not in networks:
            raise UsageError("evaluate: at_most compares with the dense network; nothing differs")
        return networks if self.compare else dict([*networks.items()][-1:])

    def _settings(self, work: Work) -> Settings:
        return Settings(
            realisations=self.realisations,
            slices=self.physics_slices,
            dose_ratio=self.dose_ratio,
            batch=self.batch if work.device.type == "cpu" else max(self.batch, 16),
        )

    def _images(self, name: str, net: nn.Module | None, work: Work) -> Iterator[Tensor]:
        """The held-out slices through `net` (None: as they are), each (H, W) HU on the device."""
        slices = work.data.test
        inputs = slices.inputs()
        if net is not None:
            _check_inputs(net, slices)
        net = _ready(net, work)
        for chunk in _chunks(slices.low, self.batch):
            if work.stop.is_set():
                raise Stopped("evaluate: stopped; run again to go on")
            low = np.stack([np.stack(inputs[i]) for i in chunk])  # (N, C, H, W)
            x = to_network(torch.from_numpy(low)).to(work.device)
            with torch.inference_mode():
                y = (net(x) if net else x[:, x.shape[1] // 2, None]).float()
            for index, image in zip(chunk, y[:, 0], strict=True):
                if not image.isfinite().all():
                    what = f"the {name} network gives NaN or infinity"
                    raise QualityError(f"evaluate: {what} on slice {slices.names[index]}")
                yield to_hu(image.clamp(0, 1))


def _ready(net: nn.Module | None, work: Work) -> AnySize | None:
    return None if net is None else ready(net, work.device)


def _check_inputs(net: nn.Module, slices: Pairs) -> None:
    if (seen := channels(net)) != slices.channels:
        raise UsageError(f"evaluate: the network sees {seen} slices of each, not {slices.channels}")


def _networks(model: Model, work: Work) -> dict[str, nn.Module | None]:
    """What is compared, by name; as long as nothing is compressed the model is the dense one."""
    baseline = model if work.dense is None else checkpoint.load(work.dense)
    if _equal(baseline.net, model.net):
        return {"input": None, "dense": model.net}
    return {"input": None, "dense": baseline.net, "compressed": model.net}


def _equal(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


def _spread(slices: Pairs, count: int) -> list[int]:
    """Indices of up to `count` slices of the first one's shape, evenly spread."""
    same = [i for i, image in enumerate(slices.full) if image.shape == slices.full[0].shape]
    return spread(same, count)


def _chunks(images: Sequence[np.ndarray], size: int) -> Iterator[list[int]]:
    """Indices in order, up to `size` neighbours of one shape at a time."""
    for _, group in groupby(range(len(images)), key=lambda i: images[i].shape):
        alike = list(group)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _clip(hu: np.ndarray) -> np.ndarray:
    """Any HU -> float32 in the network range, (H, W)."""
    return to_hu(to_network(torch.tensor(hu))).numpy()


def _packed(pictures: dict[str, list[np.ndarray]], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    arrays = {key: np.stack(images) for key, images in pictures.items()}  # (K, H, W)
    np.savez_compressed(buffer, allow_pickle=False, names=np.array(names), **arrays)
    return buffer.getvalue()
