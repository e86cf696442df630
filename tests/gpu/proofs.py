"""What the documents claim of GPUs, run again: proofs side by side, each on GPUs of its own.

    python tests/gpu/proofs.py --out OUT                          # all, an hour of one GPU
    python tests/gpu/proofs.py --out OUT turns-dense-16 memcheck  # some
    python tests/gpu/proofs.py --list                             # their commands

--other is a checkout of an older commit, to time engines in turns with; --rig a folder with `lib`
and `site` of TensorRT-RTX. A proof that needs what is not there is skipped with the reason. Each
has a log OUT/NAME.log and, so that nothing is measured that another one tuned, a cache of its own,
which shares the demo set with yours. What is timed comes first and beside nothing else that keeps
cores busy: tuners that share them with compilers find slower kernels. Then the longest begin first,
--jobs of them at once on a GPU; with --until none begins that would end later, and what still runs
then is stopped. OUT/proofs.md has a line for each. Exit status: 0 where every proof that began
ended well, else 1.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from compress.base.files import cache_folder
from compress.cluster.submitit import visible_gpus

ROOT = Path(__file__).parents[2]
TESTS = "python -m pytest -q -p no:benchmark"
FP16 = {
    "window": "to_be_sanitized and fp16",
    "stem": "stem_to_be_sanitized",
    "move": "moves_to_be_sanitized",
}
INT8 = {"window": "to_be_sanitized and int8"}
TURNS = "python tests/bench/turns.py --seconds 120 --other {other} --other-seconds 90"
INT8_ENDS = "int8.py --network dense --batch 16"
A100 = "COMPRESS_FUSED_ARCH=80 python tests/bench"


TIMED, BY_ITSELF, REST = range(3)
"""Stages: what keeps few cores busy and is timed; what is timed and needs all cores; the rest."""


@dataclass(frozen=True)
class Proof:
    """A command of bash with {out}, {other} and {rig} to fill in, and what it takes."""

    command: str
    seconds: int
    """On an H200 with 16 cores."""
    gpus: int = 1
    stage: int = REST
    """Proofs of one stage run side by side, those of a later one when they have ended."""

    def missing(self, given: Mapping[str, str], gpus: int) -> str:
        """Why it cannot run here, or ''."""
        absent = [
            f"--{name}" for name in given if f"{{{name}}}" in self.command and not given[name]
        ]
        if absent:
            return f"needs {', '.join(absent)}"
        return f"needs {self.gpus} GPUs" if gpus < self.gpus else ""


def sanitized(tool: str, tests: Mapping[str, str], seconds: int) -> Proof:
    """Tests under a tool of compute-sanitizer; each names kernels by a part of their names."""
    tool = f"compute-sanitizer --tool {tool} --error-exitcode 9 --kernel-name"
    file = f"{TESTS} tests/gpu/test_fused_cuda_gpu.py -k"
    commands = [f"{tool} kns={kernels} {file} '{chosen}'" for kernels, chosen in tests.items()]
    return Proof(" && ".join(commands), seconds)


def engine_of(tree: str, made: str) -> str:
    """A command: with a checkout's code, the engine of a network of widths 16/16/16 in `made`."""
    code = (
        "from pathlib import Path; from compress import checkpoint as c; "
        "widths = dict(residual=True, trunk=16, bottleneck=16, decoder=16); "
        'o = c.ModelOptions(name="ddnet", options=widths); p = Path("PLACE"); '
        "p.mkdir(parents=True); c.save(c.Model(net=o.build().eval(), origin=o), p)"
    ).replace("PLACE", f"{made}/network")
    return (
        f"cd {tree} && export PYTHONPATH=$PWD:$PYTHONPATH && python -c '{code}' && "
        f"python -m compress export {made}/network --format fused --precision fp16 --batch 16 "
        f"--out {made}/engine"
    )


def enhanced(trees: Sequence[str]) -> Proof:
    """2,660 slices through such engines of several checkouts, each with its own code, in turns.

    Every other round goes the other way round, as a host may become faster from run to run.
    """
    places = [f"{{out}}/enhance/{k}" for k in range(len(trees))]
    built = [f"({engine_of(*both)})" for both in zip(trees, places, strict=True)]
    words = "--device cuda --phases --runs 1 --slices 2660 --disk /dev/shm"
    runs = [
        f"(cd {tree} && export PYTHONPATH=$PWD:$PYTHONPATH && "
        f"python tests/bench/enhance.py {place}/engine/*.safetensors {words})"
        for turn in (1, -1, 1)
        for tree, place in [*zip(trees, places, strict=True)][::turn]
    ]
    return Proof(" && ".join(built + runs), 260, stage=BY_ITSELF)


PROOFS: Mapping[str, Proof] = {
    "turns-dense-16": Proof(f"{TURNS} --network dense --batch 16", 150, stage=TIMED),
    "turns-dense-1": Proof(f"{TURNS} --network dense --batch 1", 160, stage=TIMED),
    "turns-16-16-16-16": Proof(f"{TURNS} --network 16-16-16 --batch 16", 130, stage=TIMED),
    "turns-16-16-16-1": Proof(f"{TURNS} --network 16-16-16 --batch 1", 160, stage=TIMED),
    **{
        f"turns-{name}-a100": Proof(
            f"{A100}/turns.py --network {name} --batch 16 --seconds 25 --no-compile",
            90,
            stage=TIMED,
        )
        for name in ("dense", "16-16-16")
    },
    "int8": Proof(f"python tests/bench/{INT8_ENDS} --seconds 30", 150, stage=TIMED),
    "int8-a100": Proof(f"{A100}/{INT8_ENDS} --seconds 22", 130, stage=TIMED),
    "int8-kernels": Proof(f"python tests/bench/{INT8_ENDS} --kernels", 300, stage=TIMED),
    "cuda-tests": Proof(f"{TESTS} -n 12 tests/gpu/test_fused_cuda_gpu.py", 160),
    "fused-tests": Proof(f"{TESTS} -n 12 tests/gpu/test_fused_gpu.py", 160),
    "training-tests": Proof(
        f"{TESTS} -n 4 tests/gpu/test_training.py tests/gpu/test_masks_gpu.py", 200
    ),
    "other-tests": Proof(
        f"{TESTS} -n 4 tests/gpu/test_engines_gpu.py tests/gpu/test_dicom_gpu.py "
        "tests/gpu/test_precisions.py", 200,
    ),
    "several-tests": Proof(f"{TESTS} tests/gpu/test_several_gpus.py", 200, gpus=2),
    "memcheck": sanitized("memcheck", FP16, 60),
    "synccheck": sanitized("synccheck", FP16, 60),
    "racecheck": sanitized("racecheck", FP16, 200),
    "memcheck-int8": sanitized("memcheck", INT8, 90),
    "synccheck-int8": sanitized("synccheck", INT8, 90),
    "racecheck-int8": sanitized("racecheck", INT8, 300),
    "reference": Proof(
        "python -m compress run recipes/ddnet_struct60_asp.yaml --out {out}/reference "
        "--set 'steps.export.formats=[\"fused\"]' && "
        "python -m compress export {out}/reference/02-retrain --format fused --batch 16 "
        "--out {out}/equal-widths && "
        "python -m compress bench {out}/equal-widths/*.safetensors "
        "{out}/reference/*-export/*-b16.safetensors --json > {out}/reference/bench.json && "
        "python -m compress report {out}/reference && grep 2:4 {out}/reference/*/report.md", 240,
        stage=TIMED,
    ),
    "enhance": enhanced([".", "{other}"]),
    "engines": Proof(
        "python tests/gpu/engines.py --out {out}/engines --rig {rig} --formats torch_tensorrt "
        "--batch 16 --rounds 8 --seconds 0.3 --data demo", 190, stage=TIMED,
    ),
    "scaling": Proof(
        "python tests/bench/scaling.py --out {out}/scaling.json", 500, gpus=2, stage=BY_ITSELF
    ),
}  # fmt: skip


@dataclass
class Running:
    """A proof that has begun."""

    name: str
    gpus: list[str]
    process: subprocess.Popen[bytes]
    begun: float

    def stop(self) -> None:
        """End it with all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def environment(out: Path, name: str, gpus: Sequence[str]) -> dict[str, str]:
    """This process' own, with these GPUs, a new cache beside the demo set, and our modules."""
    cache = out / "caches" / name
    cache.mkdir(parents=True, exist_ok=True)
    demo = cache_folder() / "demo"
    if demo.is_dir() and not (cache / "demo").exists():
        (cache / "demo").symlink_to(demo.resolve())
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "COMPRESS_CACHE": str(cache),
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def begin(out: Path, name: str, command: str, gpus: list[str]) -> Running:
    """Start a proof on these GPUs; what it prints goes to its log.

    `python` is this interpreter: some machines have python3 alone.
    """
    command = re.sub(r"\bpython(?= )", lambda _: shlex.quote(sys.executable), command)
    with (out / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, env=environment(out, name, gpus),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return Running(name, gpus, process, time.monotonic())


def last(path: Path) -> str:
    """The last line of a log that says something."""
    lines = path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def report(out: Path, name: str, state: str, seconds: float, words: str) -> None:
    """A line of the table, on the screen, too."""
    table = out / "proofs.md"
    if not table.exists():
        table.write_text("| proof | state | seconds | last words |\n|---|---|---|---|\n")
    shown = words.replace("|", "\\|")[:200]
    with table.open("a") as file:
        file.write(f"| {name} | {state} | {seconds:.0f} | {shown} |\n")
    print(f"{name:20} {state:8} {seconds:5.0f} s  {shown}", flush=True)


def next_of(
    left: Mapping[str, Proof], running: Sequence[Proof], until: float, free: Callable[[int], int]
) -> str:
    """The longest proof of the stage that is on for which there are GPUs and time, or ''."""
    soon = {n: p for n, p in left.items() if time.monotonic() + p.seconds <= until}
    stage = min((proof.stage for proof in running or soon.values()), default=REST)
    able = [n for n, p in soon.items() if p.gpus <= free(stage) and p.stage == stage]
    return max(able, key=lambda name: left[name].seconds, default="")


def idle(gpus: Sequence[str], running: Sequence[Running], stage: int, jobs: int) -> list[str]:
    """The GPUs that one more proof of this stage may use, those that fewest use first."""
    used = Counter(gpu for one in running for gpu in one.gpus)
    most = jobs if stage == REST else 1
    return sorted((gpu for gpu in gpus if used[gpu] < most), key=lambda gpu: used[gpu])


def ended(running: Sequence[Running], until: float) -> Iterator[tuple[Running, str]]:
    """Those that have ended, or are stopped at the monotonic time `until`, and how."""
    for one in running:
        code = one.process.poll()
        if code is not None:
            yield one, f"status {code}" if code else "done"
        elif time.monotonic() > until:
            one.stop()
            yield one, "stopped"


def run(
    proofs: Mapping[str, Proof],
    given: Mapping[str, str],
    gpus: Sequence[str],
    until: float,
    jobs: int = 1,
) -> bool:
    """Run proofs side by side to the monotonic time `until`; whether all that began ended well."""
    out, good = Path(given["out"]), True
    absent = {name: proof.missing(given, len(gpus)) for name, proof in proofs.items()}
    left = {name: proof for name, proof in proofs.items() if not absent[name]}
    running: list[Running] = []

    def free(stage: int) -> int:
        return len(idle(gpus, running, stage, jobs))

    while running or next_of(left, [], until, free):
        while name := next_of(left, [proofs[r.name] for r in running], until, free):
            proof = left.pop(name)
            own = idle(gpus, running, proof.stage, jobs)[: proof.gpus]
            running.append(begin(out, name, proof.command.format(**given), own))
        time.sleep(0.1)
        for one, state in list(ended(running, until)):
            good &= state == "done"
            spent = time.monotonic() - one.begun
            report(out, one.name, state, spent, last(out / f"{one.name}.log"))
            running.remove(one)
    for name, why in absent.items():
        if why:
            report(out, name, "skipped", 0, why)
    for name, proof in left.items():
        report(out, name, "no time", 0, f"takes {proof.seconds} s")
    return good


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(PROOFS)), metavar="[NAME]...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for logs and results.")
@click.option("--other", default="", help="Checkout of another commit.")
@click.option("--rig", default="", help="Folder of TensorRT-RTX: lib and site.")
@click.option("--until", default=3600.0, help="Seconds from now.")
@click.option("--jobs", default=1, help="Proofs at once on a GPU, of those that are not timed.")
@click.option("--list", "listed", is_flag=True, help="Print the commands, run nothing.")
def main(
    names: tuple[str, ...], out: Path | None, other: str, rig: str, until: float, jobs: int,
    listed: bool,
) -> None:  # fmt: skip
    """Run proofs."""
    chosen = {name: PROOFS[name] for name in names or PROOFS}
    if listed:
        for name, proof in chosen.items():
            print(f"{name}: {proof.command}")
        return
    if out is None:
        raise click.UsageError("give --out, a folder for logs and results")
    out.mkdir(parents=True, exist_ok=True)
    given = {"out": str(out.resolve()), "other": other, "rig": rig}
    sys.exit(not run(chosen, given, visible_gpus(), time.monotonic() + until, jobs))


if __name__ == "__main__":
    main()
