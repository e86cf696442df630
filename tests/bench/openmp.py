"""What it costs training that OpenMP's waiting threads sleep or spin, on cores that others use.

    python tests/bench/openmp.py

A process for each setting trains the reference recipe's dense network for a few steps on every
core, in turns with the others, beside 0, 1 and 4 processes that compute without end. Prints seconds
a step of the first setting, and the ratio of each other setting to it in the same round: the
median, the least and the largest.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager

import click

from compress.base.openmp import SETTINGS

CHOICES = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "10000 spins": {"GOMP_SPINCOUNT": "10000"},
    "as the command line decides": {},
}
STEPS = """
import sys, time
if len(sys.argv) > 2:
    from compress.base import openmp
    openmp.decide()
import torch
from compress.models.ddnet import DDnet
torch.manual_seed(0)
net, x = DDnet(residual=True), torch.rand(8, 1, 64, 64)
optimizer = torch.optim.Adam(net.parameters())
for step in range(2 + int(sys.argv[1])):
    if step == 2:
        start = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(net(x), x.square()).backward()
    optimizer.step()
print((time.perf_counter() - start) / int(sys.argv[1]))
"""


def forever():
    while True:
        pass


@contextmanager
def beside(count):
    """While `count` processes compute."""
    others = [multiprocessing.Process(target=forever, daemon=True) for _ in range(count)]
    for process in others:
        process.start()
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.join()


def step(choice, steps):
    """Seconds of a training step."""
    clean = {k: v for k, v in os.environ.items() if k not in (*SETTINGS, "OMP_NUM_THREADS")}
    decides = ["decides"] if choice.startswith("as ") else []
    command = [sys.executable, "-c", STEPS, str(steps), *decides]
    environment = {**clean, **CHOICES[choice]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@click.command()
@click.option("--rounds", default=5)
@click.option("--steps", default=6)
@click.option("--others", multiple=True, type=int, default=(0, 1, 4))
def main(rounds, steps, others):
    first, *rest = CHOICES
    for count in others:
        found = {choice: [] for choice in CHOICES}
        with beside(count):
            for turn in range(rounds):
                names = list(CHOICES) if turn % 2 else list(reversed(CHOICES))
                for choice in names:
                    found[choice].append(step(choice, steps))
        load = os.getloadavg()[0]
        line = f"{count} others: {first} {statistics.median(found[first]):.3f} s a step"
        for choice in rest:
            pairs = zip(found[choice], found[first], strict=True)
            ratios = [one / other for one, other in pairs]
            line += (
                f"; {choice} {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f})"
            )
        print(f"{line}; load {load:.1f}", flush=True)


if __name__ == "__main__":
    main()
