"""One engine of a network: rewritten, compiled, described by a sidecar, compared.

The same for the recipe's step `export` and the command of that name.
"""

import functools
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch

from compress import checkpoint
from compress.base import timing
from compress.base.errors import QualityError, UsageError
from compress.base.words import listed
from compress.checkpoint import Model
from compress.context import Work
from compress.engines import sidecar
from compress.engines.base import Format, NotBuilt, Shape
from compress.engines.formats import FormatName, formats
from compress.engines.parity import compare
from compress.engines.precision import Precision
from compress.engines.records import Built, EngineRow
from compress.engines.subject import prepared
from compress.graph import draws
from compress.graph.effect import effective
from compress.graph.rewrite import deconv_to_conv
from compress.quantization.quantisers import plain
from compress.sparsity.layers import layers

log = logging.getLogger(__name__)

BUILDING = ".building-"
"""What the name of a folder begins with in which an engine is built; a killed build leaves it."""
Rewriting = Literal["auto", "conv", "keep"]
"""What becomes of stride-1 deconvolutions: the convolutions that they equal, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One engine to build."""

    name: FormatName
    precision: Precision
    shape: Shape
    deconvolutions: Rewriting
    model: Model
    source: Path | None
    """Folder of the checkpoint that `model` came from, where there is one."""
    work: Work

    @property
    def stem(self) -> str:
        """The engine's file name without its suffix."""
        batch = f"b1-{self.shape.batch}" if self.shape.dynamic else f"b{self.shape.batch}"
        return f"{self.name}-{self.precision}-{batch}"

    def rows(self) -> list[EngineRow]:
        """Build the engine; what the report says of each of its files, or of why there is none."""
        row: dict[str, object] = {
            "format": self.name,
            "precision": self.precision,
            "batch": self.shape.batch,
            "dynamic_batch": self.shape.dynamic,
            "status": "not built",
            **dict.fromkeys(("reason", "command"), ""),
            **dict.fromkeys(("file", "bytes", "sidecar", "parity", "sparsity"), None),
        }
        try:
            path, built = self._build()
        except NotBuilt as error:
            log.warning(
                "%s, batch %d, was not built: %s", self.name, self.shape.batch, error.reason
            )
            return [cast("EngineRow", row | {"reason": error.reason, "command": error.command})]
        self._check_zeros(path, built)
        files = [path.name, *built.get("files", [])]
        described = [row | self._described(path.with_name(name), built) for name in files]
        return cast("list[EngineRow]", described)

    def _build(self) -> tuple[Path, Built]:
        """The engine's file, and the facts for its sidecar; nothing half built stays."""
        format_, stage = formats()[self.name], self.work.stage
        if self.model.quantised:
            self._check_quantised(format_)  # first: nothing that is installed would help
        if missing := format_.missing(self.work.device):
            raise missing
        if self.precision not in format_.precisions:
            can = listed(format_.precisions)
            why = f"it computes in {can} only, not in {self.precision}"
            raise NotBuilt(why, f"--precision {format_.precisions[-1]}")
        try:
            draws.check_steady(self.model.net)
        except UsageError as error:
            raise NotBuilt(str(error)) from error
        name = f"{self.stem}{format_.suffix}"
        with tempfile.TemporaryDirectory(dir=stage, prefix=BUILDING) as folder:
            paths = {choice: Path(folder) / choice / name for choice in self._choices()}
            built = {choice: self._compiled(format_, choice, p) for choice, p in paths.items()}
            chosen, ms = next(iter(paths)), dict[str, float]()
            if len(paths) > 1:
                chosen, ms = self._fastest(format_, paths)
            for file in sorted(paths[chosen].parent.iterdir()):
                file.replace(stage / file.name)
        return stage / name, {**built[chosen], "deconvolutions_ms": ms}

    def _check_quantised(self, format_: Format) -> None:
        """Raise NotBuilt where the format takes no INT8 layers, or none in this precision."""
        wanted = format_.quantised
        if not wanted:
            why = "it takes no quantised network yet; onnx does, for TensorRT and ONNX Runtime"
            raise NotBuilt(why, "--format onnx --precision fp32")
        if self.precision not in wanted:
            can = " or ".join(wanted)
            why = f"a quantised network is written in {can} beside INT8, not in {self.precision}"
            raise NotBuilt(why, f"--precision {wanted[0]}")

    def _choices(self) -> tuple[str, ...]:
        """Ways to compile the deconvolutions; two where measuring shall decide."""
        if self.deconvolutions != "auto":
            return (self.deconvolutions,)
        net = self.model.net
        pairs = zip(net.modules(), deconv_to_conv(net).modules(), strict=True)
        differ = any(type(one) is not type(other) for one, other in pairs)
        return ("conv", "keep") if differ and self._measures() else ("conv",)

    def _measures(self) -> bool:
        """Whether a time measured here says something about where the engine will run."""
        return self.work.device.type == "cuda" and formats()[self.name].timed

    def _compiled(self, format_: Format, choice: str, path: Path) -> Built:
        path.parent.mkdir()
        precision = "fp32" if format_.casts else self.precision
        subject, folded = prepared(self.model.net, precision, as_conv=choice == "conv")
        start = time.monotonic()
        built = format_.build(subject, self.shape, path, self.work.device)
        facts: Built = {"deconvolutions": choice, "batchnorm_folded": folded}
        return {**built, **facts, "build_seconds": round(time.monotonic() - start, 1)}

    def _fastest(self, format_: Format, paths: dict[str, Path]) -> tuple[str, dict[str, float]]:
        """The way whose engine is the fastest, and the milliseconds of each."""
        x = self.shape.example(self.work.device)
        runners = {choice: format_.load(path, self.work.device) for choice, path in paths.items()}
        calls = {choice: functools.partial(run, x) for choice, run in runners.items()}
        with torch.inference_mode():
            chosen, ms = timing.fastest(calls, self.work.device)
        said = ", ".join(f"{choice} {value:.3g} ms" for choice, value in ms.items())
        log.info("%s: deconvolutions as %s (%s)", self.name, chosen, said)
        return chosen, ms

    def _check_zeros(self, path: Path, built: Built) -> None:
        """Make sure that the engine has the 2:4 layers that the network has.

        Layers that the output does not depend on are in no engine.
        """
        masks, done = self.model.masks, built.get("sparse24")
        if done is None or self.model.pattern != "2:4" or done >= len(masks):
            return
        used = effective(self.model.net, masks)
        if done < len(used):
            raise QualityError(
                f"export: only {done} of {len(used)} masked layers are 2:4 in {path.name}"
            )
        log.info(
            "%s is without %s: the output does not depend on what they compute",
            path.name,
            listed(sorted(masks.keys() - used)),
        )

    def _described(self, engine: Path, built: Built) -> dict[str, object]:
        """Write the sidecar of a file and compare the engine with the network."""
        side = sidecar.write(
            engine,
            format_=self.name,
            precision=self.precision,
            shape=self.shape,
            weights=checkpoint.fingerprint(self.model),
            device=self.work.device,
            built={**built, "layers": layers(plain(self.model.net))},
            model=self.source,
        )
        parity = compare(
            self.model.net,
            side,
            self.work.data.test,
            self.shape,
            self.precision,
            self.work.device,
        )
        log.info(
            "%s: at most %.3g HU from the network, in slice %d at row %d, column %d",
            engine.name,
            parity["max_hu"],
            *parity["max_at"],
        )
        return {
            "status": "built",
            "file": engine.name,
            "bytes": engine.stat().st_size,
            "sidecar": side.name,
            "parity": parity,
            "sparsity": built.get("sparsity"),
        }
