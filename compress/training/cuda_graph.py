"""How an optimizer step is executed: call by call, or captured once as a CUDA graph and replayed.

A DDnet step at batch 1 is some two thousand kernels of a few microseconds each, so that call by
call the GPU waits for Python most of the time (measured on an H100: 23 ms, as one graph 6.3 ms).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from compress.base.cuda_graph import capture
from compress.base.reasons import reason

log = logging.getLogger(__name__)

Step = Callable[[Tensor], None]
"""One optimizer step on a raw batch, see `loaders`; all else it touches stays where it is."""
WARM = 3
"""Steps before the capture: cuDNN chooses kernels, cuBLAS makes workspaces, compilers compile."""


class Stepper:
    """Executes steps.

    Args:
        step: to be captured it may only queue work on the device, read no value back, and work on
            tensors that stay in place; its argument has the same shape every time.
        kept: a context that puts everything back that `step` has changed: warming up is no
            training.
        graph: whether to capture.
        why: the reason, for the facts.
    """

    def __init__(
        self,
        step: Step,
        kept: Callable[[], AbstractContextManager[None]],
        *,
        graph: bool,
        why: str,
    ) -> None:
        self.graph, self.why = graph, why
        self._step, self._kept = step, kept
        self._replay: Step | None = None

    def __call__(self, raw: Tensor) -> None:
        """Do one step.

        Raises:
            torch.OutOfMemoryError: no weight has changed; the step can be tried again, smaller.
        """
        if self.graph and self._replay is None:
            self._prepare(raw)
        (self._replay or self._step)(raw)

    def _prepare(self, raw: Tensor) -> None:
        """Capture, or fall back to single calls for good."""
        try:
            self._replay = self._captured(raw)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.graph = False
            self.why = f"the step cannot be captured as a CUDA graph: {reason(error)}"
            log.warning("%s; it runs call by call, slower", self.why)

    def _captured(self, raw: Tensor) -> Step:
        given = raw.clone()
        graph = capture(partial(self._step, given), raw.device, warm=WARM, around=self._kept)

        def replay(raw: Tensor) -> None:
            given.copy_(raw)
            graph.replay()

        return replay
