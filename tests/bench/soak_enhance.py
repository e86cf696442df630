"""Stops and goes on, again and again: python tests/bench/soak_enhance.py --help.

Makes an archive of N files: 12 CT series in folders, some of them behind links, with duplicates,
links to files, pipes, empty and cut-off files and what is no DICOM; and a tiny network. Runs
`compress enhance` on a CPU in a process of its own, stops it by SIGTERM at a random moment, looks
at what is left, and goes on with --skip-existing; then lets it end and looks at everything.
Prints one JSON object:

    files, images         in the archive; those of them that have to be enhanced
    stops                 for each: seconds that the run had, seconds until it ended, exit status,
                          results that were there afterwards
    slowest               seconds of the slowest end
    wrong                 what was not as it must be; nothing

It must be: exit status 75 within 5 s, no process left, nothing half written, every image enhanced
once in the end, and every other file counted with its reason.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parents[1]))

from dicom_files import body, dataset, packed, uid
from dicom_stops import session, until

SERIES = 12
SIDE = 16
LIMIT = 5.0
"""Seconds in which a run must end after a signal."""
TEXT = b"no image, but a text beside them" * 9
SHARES = {
    "image": 60, "duplicate": 12, "link": 6, "text": 8, "empty": 4, "empty_dcm": 2, "pipe": 2,
    "cut": 3, "mr": 3,
}  # fmt: skip
"""Percent of the files."""
REASONS = {
    "duplicate": "duplicate", "link": "duplicate", "text": "not-dicom", "empty": "empty",
    "empty_dcm": "empty", "pipe": "not-a-file", "cut": "damaged", "mr": "not-ct",
}  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@dataclass
class Archive:
    """What was made."""

    folder: Path
    images: dict[str, np.ndarray] = field(default_factory=dict)
    """SOP Instance UID -> HU."""
    reasons: Counter[str] = field(default_factory=Counter)


def archive(root: Path, count: int, draw: random.Random) -> Archive:
    """Files of all kinds in the folders of 12 series, every third of them behind a link."""
    made = Archive(root / "in")
    made.folder.mkdir()
    folders = []
    for number in range(SERIES):
        folder = (root / "elsewhere" if number % 3 == 0 else made.folder) / f"s{number}"
        folder.mkdir(parents=True)
        if number % 3 == 0:
            (made.folder / folder.name).symlink_to(folder)
        folders.append(folder)
    (made.folder / "loop").symlink_to(made.folder)
    kinds = draw.choices(list(SHARES), list(SHARES.values()), k=count - SERIES)
    images: list[Path] = []
    for index, kind in enumerate(["image"] * SERIES + kinds):
        path = folders[index % SERIES] / f"f{index:05d}"
        image = {"hu": body(SIDE, index), "series": f"S{index % SERIES}", "index": index}
        if kind == "image":
            made.images[uid(image["series"], index)] = image["hu"]
            path.write_bytes(packed(dataset(**image)))
            images.append(path)
        else:
            other(path, kind, image, draw.choice(images))
            made.reasons[REASONS[kind]] += 1
    return made


def other(path: Path, kind: str, image: dict, one: Path) -> None:
    """A file that is not to be enhanced; `one` that is."""
    mr = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
    make = {
        "duplicate": lambda: path.hardlink_to(one),
        "link": lambda: path.symlink_to(one),
        "text": lambda: path.write_bytes(TEXT),
        "empty": path.touch,
        "empty_dcm": path.with_suffix(".dcm").touch,
        "pipe": lambda: os.mkfifo(path),
        "cut": lambda: path.write_bytes(packed(dataset(**image))[:700]),
        "mr": lambda: path.write_bytes(packed(dataset(**image, **mr))),
    }
    make[kind]()


def model(root: Path) -> Path:
    """A network whose last layer is zero, so that it gives back its input."""
    code = """
import sys
from compress import checkpoint
from compress.checkpoint import Model, ModelOptions
options = {"residual": True, "trunk": 2, "bottleneck": 2, "decoder": 2}
origin = ModelOptions(name="ddnet", options=options)
from pathlib import Path
checkpoint.save(Model(net=origin.build().eval(), origin=origin), Path(sys.argv[1]))
"""
    (root / "model").mkdir()
    words = [sys.executable, "-c", code, str(root / "model")]
    subprocess.run(words, check=True, env=ENVIRONMENT)
    return root / "model"


def begun(made: Archive, net: Path, out: Path) -> subprocess.Popen:
    """The command, in a session of its own."""
    words = ["enhance", str(made.folder), "-m", str(net), "-o", str(out), "--series", "all"]
    words = [sys.executable, "-m", "compress", *words, "--skip-existing", "--device", "cpu"]
    return subprocess.Popen(
        words, start_new_session=True, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def stopped(process: subprocess.Popen, out: Path, seconds: float) -> tuple[dict, list[str]]:
    """Stop a run after some time: what was measured, and what was wrong."""
    time.sleep(seconds)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    ended = time.monotonic() - start
    wrong = [] if until(lambda: not session(process.pid), 2.0) else ["a process is left"]
    if ended > LIMIT:
        wrong.append(f"it ended after {ended:.1f} s")
    # Before it listens, or when all is done and Python shuts down.
    deaf = seconds < 1.0 or "manifest.json says which" in said
    unheard = deaf and process.returncode == -signal.SIGTERM
    if process.returncode not in (75, 1) and not unheard:
        wrong.append(f"exit status {process.returncode}: {said[-300:]}")
    if "Traceback" in said:
        wrong.append(said[-2000:])
    wrong += [f"half written: {path.name}" for path in out.rglob("*.compress-tmp")]
    facts = {"after": round(seconds, 2), "ended": round(ended, 2), "code": process.returncode,
             "results": sum(1 for _ in out.rglob("*.dcm"))}  # fmt: skip
    return facts, wrong


def faults(made: Archive, out: Path) -> list[str]:
    """What is wrong with a finished run."""
    content = json.loads((out / "manifest.json").read_text())
    status, reasons = content["counts"]["status"], Counter(content["counts"]["reason"])
    wrong = []
    if status.get("enhanced", 0) + status.get("existing", 0) != len(made.images):
        wrong.append(f"status {status} of {len(made.images)} images")
    if reasons != made.reasons:
        wrong.append(f"reasons {dict(reasons)}, expected {dict(made.reasons)}")
    seen = Counter()
    for path in out.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        source = ds.SourceImageSequence[0].ReferencedSOPInstanceUID
        seen[source] += 1
        hu = made.images.get(source)
        if hu is None or not np.array_equal(ds.pixel_array, hu.astype(int) + 1024):
            wrong.append(f"other pixels in {path.name}")
    if set(seen) != set(made.images) or set(seen.values()) != {1}:
        wrong.append(f"{len(seen)} images have results, the most {max(seen.values())}")
    wrong += [f"not expected: {p.name}" for p in out.rglob("*") if p.suffix not in (".dcm", ".json")
              and not p.is_dir()]  # fmt: skip
    return wrong


def soak(root: Path, count: int, stops: int, seed: int, longest: float) -> dict:
    """All of it, in a new folder."""
    draw = random.Random(seed)
    made, net, out = archive(root, count, draw), model(root), root / "out"
    facts, wrong = [], []
    for _ in range(stops):
        found, bad = stopped(begun(made, net, out), out, draw.uniform(0, longest))
        facts.append(found)
        wrong += bad
        print(json.dumps(found), file=sys.stderr, flush=True)
    process = begun(made, net, out)
    said = process.communicate()[1]
    if process.returncode != 1:  # some files are cut off
        wrong.append(f"exit status {process.returncode} at the end: {said[-1000:]}")
    if not until(lambda: not session(process.pid), 2.0):
        wrong.append("a process is left at the end")
    wrong += faults(made, out)
    return {"files": count, "images": len(made.images), "stops": facts,
            "slowest": max((f["ended"] for f in facts), default=0.0), "wrong": wrong}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=40.0, help="seconds of a run, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), options.files, options.stops, options.seed, options.longest)
    print(json.dumps(found, indent=1))
    sys.exit(bool(found["wrong"]))


if __name__ == "__main__":
    main()
