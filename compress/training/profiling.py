"""`--profile`: where the time of a training step goes.

A few steps of each training stage are recorded by torch.profiler into `trace.json` (open it with
Perfetto or chrome://tracing), with the ten most expensive operators in `operators.txt`. The parts
of a step are NVTX ranges, so that Nsight Systems shows them: `nsys profile compress run ...`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

SKIP, ACTIVE = 10, 10
"""Steps before the recording, in which kernels are chosen and graphs captured, and steps in it."""
TRACE, TABLE = "trace.json", "operators.txt"
ROWS = 10


@contextmanager
def span(name: str) -> Iterator[None]:
    """A part of a step, by name in traces and as an NVTX range; costs a microsecond otherwise."""
    with record_function(name):
        if not torch.cuda.is_available():
            yield
            return
        torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


class Recorder:
    """Records some steps of a stage: tell it before every step, and close it.

    Args:
        folder: where trace and table go; None records nothing.
        steps: that will be done.
        device: where they are done.
    """

    def __init__(self, folder: Path | None, steps: int, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._start = min(SKIP, steps // 2)
        self._begun = 0
        self._profile: profile | None = None
        if folder is not None:
            # CUPTI, once taken down, does not see the kernels of graphs captured before.
            os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
            os.environ.setdefault("TEARDOWN_CUPTI", "0")

    def step(self) -> None:
        """A step begins."""
        if self._folder is not None and self._begun == self._start:
            self._begin()
        if self._begun == self._start + ACTIVE:
            self.close()
        self._begun += 1

    def close(self) -> None:
        """Write what was recorded, if anything was and is not yet written."""
        if self._profile is None or self._folder is None:
            return
        recorded, self._profile = self._profile, None
        self._wait()
        recorded.stop()
        recorded.export_chrome_trace(str(self._folder / TRACE))
        by = f"self_{self._device.type}_time_total"
        table = recorded.key_averages().table(sort_by=by, row_limit=ROWS)
        (self._folder / TABLE).write_text(table + "\n", encoding="utf-8")

    def _begin(self) -> None:
        self._wait()
        gpu = [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *gpu])
        self._profile.start()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
