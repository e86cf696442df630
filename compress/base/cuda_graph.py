"""Work of a GPU captured once as a CUDA graph, and replayed without waiting for Python."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch


def capture(
    call: Callable[[], object],
    device: torch.device,
    *,
    warm: int = 1,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> torch.cuda.CUDAGraph:
    """Call `call` to warm up, then capture it.

    Args:
        call: queues work on the device, reads no value back, and works on tensors that stay where
            they are; whoever replays the graph keeps them alive.
        device: a CUDA device.
        warm: calls before the capture, in which libraries choose kernels and compilers compile.
        around: a context for the warm-up and one for the capture, such as one that undoes them.

    Raises:
        RuntimeError: it cannot be captured.
    """
    # One stream for warm-up and capture: gradients are accumulated on the stream that first made
    # them, and work on another one would lie outside the graph.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(device)
    with around():
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(warm):
                call()
        current.wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: threads that pin memory for the next batches may go on meanwhile. The outer
    # stream context puts the stream back where a capture that fails does not.
    recording = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
    with around(), torch.cuda.stream(current), recording:
        call()
    return graph
