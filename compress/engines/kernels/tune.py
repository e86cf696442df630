"""Which kernel and cut of each convolution is fastest on this GPU, measured; and one kernel or two.

The search of search.py goes through all layers in steps, so that what a step needs can be compiled
by several processes before it is measured by this one, see ahead.py; choose.py then takes kernels.
"""

import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence

import torch

from compress.engines.kernels import ahead
from compress.engines.kernels.choose import Found, Way, in_network
from compress.engines.kernels.cuda import compiler
from compress.engines.kernels.jobs import jobs
from compress.engines.kernels.search import STEPS, Search
from compress.engines.kernels.session import Cut, Key, Session
from compress.engines.kernels.tiling import Tiling
from compress.engines.kernels.timed import NEVER

log = logging.getLogger(__name__)
Known = MutableMapping[Key, Cut]
"""The shape of a convolution, chain or layer -> the cut that was fastest."""


def tune(
    session: Session, seconds: float, known: Known | None = None, *, network: bool = True
) -> Found:
    """Measured choices for every convolution of a session; the costliest ones first.

    Args:
        session: on a GPU; its buffers are used.
        seconds: when to stop, without the time for compiling CUDA C++; what was not measured keeps
            its default.
        known: cuts of earlier searches on this kind of GPU, which are taken again; whole
            searches are added.
        network: whether the plan is one network, whose time in all counts; False for single
            convolutions, each of which counts by itself.

    Raises:
        NotBuilt: a convolution has no tiling that runs here.
    """
    until = time.monotonic() + seconds
    known = {} if known is None else known
    searches = {key: Search(job, known.get(key)) for key, job in jobs(session).items()}
    session.image.normal_(std=0.1)
    for buffer in session.buffers.values():
        buffer.inside.normal_(std=0.1)
    all_known = all(one.known for one in searches.values())
    with ahead.compilers(session, 0 if all_known else None) as compiled:
        for step in range(STEPS + 1):
            cuts = {key: one.cuts(step) for key, one in searches.items()}
            begun = time.monotonic()
            _compile_windows(searches, cuts, session.image.device)
            until += time.monotonic() - begun  # once on a machine: the kernels are kept
            tilings = {key: _tilings(some) for key, some in cuts.items()}
            for key, one in searches.items():  # before Triton compiles: they are ready
                one.measure([cut for cut in cuts[key] if cut not in tilings[key]], until)
            compiled(tilings, until)
            for key, one in searches.items():
                one.measure(tilings[key], until)
    if network:
        _say_short(searches)
    alone = searches, Way(searches).found(session)
    chosen, found = in_network(session, searches, until) if network else alone
    known.update(_whole(chosen))
    return found


def _compile_windows(
    searches: Mapping[Key, Search], cuts: Mapping[Key, Sequence[Cut]], device: torch.device
) -> None:
    """Have the kernels of CUDA C++ compiled, side by side."""
    made = [searches[key].job.source(cut) for key, some in cuts.items() for cut in some
            if not isinstance(cut, Tiling)]  # fmt: skip
    compiler.ahead([one for one in made if one], device)


def _say_short(searches: Mapping[Key, Search]) -> None:
    short = sum(one.short for one in searches.values())
    if short:
        log.warning(
            "fused: the time for measuring was up before all kernels of %d of %d layer shapes were"
            " measured; the engine may be slower than it could be",
            short, len(searches),
        )  # fmt: skip


def _tilings(cuts: Sequence[Cut]) -> list[Tiling]:
    return [cut for cut in cuts if isinstance(cut, Tiling)]


def _whole(searches: Mapping[Key, Search]) -> dict[Key, Cut]:
    """What is worth being remembered."""
    for key, one in searches.items():
        log.info("fused: %s %.4f ms, %s", key, one.ms, one.best)
    ran = {key: one.best for key, one in searches.items() if one.ms < NEVER and not one.short}
    return {key: best for key, best in ran.items() if best}
