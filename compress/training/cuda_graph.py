"""How an optimizer step is executed: call by call, or captured once as a CUDA graph and replayed.

A DDnet step at batch 1 is some two thousand kernels of a few microseconds each, so that call by
call the GPU waits for Python most of the time (measured on an H100: 23 ms, as one graph 6.3 ms).
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

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
            self.why = f"the step cannot be captured as a CUDA graph: {first_line(error)}"
            log.warning("%s; it runs call by call, slower", self.why)

    def _captured(self, raw: Tensor) -> Step:
        given = raw.clone()
        # One stream for warm-up and capture: gradients are accumulated on the stream that first
        # made them, and work on another one would lie outside the graph.
        stream = torch.cuda.Stream(raw.device)  # type: ignore[no-untyped-call]
        with self._kept():
            stream.wait_stream(torch.cuda.current_stream(raw.device))
            with torch.cuda.stream(stream):
                for _ in range(WARM):
                    self._step(given)
            torch.cuda.current_stream(raw.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: threads that pin memory for the next batches may go on meanwhile. The outer
        # context puts the stream back where a capture that fails does not.
        capture = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
        with self._kept(), torch.cuda.stream(torch.cuda.current_stream(raw.device)), capture:
            self._step(given)

        def replay(raw: Tensor) -> None:
            given.copy_(raw)
            graph.replay()

        return replay


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
