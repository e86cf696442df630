"""Run the shell blocks of docs/tutorial.md in a folder, and make its pictures of what they leave.

    python tools/tutorial.py FOLDER [--pictures docs/tutorial]

FOLDER must be empty. A block after the line `<!-- not run -->` is left out. The rest takes about a
minute on two CPU cores.
"""

import re
import subprocess
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
LEFT_OUT = "<!-- not run -->\n"
WINDOW = (-1000, 1000)
"""HU shown as black and as white."""
TWICE = 2
"""Each pixel of a slice is shown as so many squared."""


def blocks(text: str) -> list[str]:
    """The shell blocks that are run, in order."""
    found = re.findall(rf"({LEFT_OUT})?```sh\n(.*?)^```", text, re.M | re.S)
    return [block for left_out, block in found if not left_out]


def run(folder: Path, text: str) -> list[str]:
    """Run every block in `folder`; what each wrote to standard output.

    Raises:
        RuntimeError: a command failed; has the block and the end of what it said.
    """
    said = []
    for block in blocks(text):
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{block}\nended with {done.returncode}: {done.stderr[-2000:]}")
        said.append(done.stdout)
    return said


def beside(images: list[NDArray[np.generic]], path: Path) -> None:
    """Write slices in HU, all of one size, side by side as a PNG of 8 bits."""
    from PIL import Image

    low, high = WINDOW
    row = np.concatenate([np.asarray(image, float) for image in images], axis=1)
    gray = ((row - low) / (high - low)).clip(0, 1) * 255
    Image.fromarray(gray.astype("u1").repeat(TWICE, 0).repeat(TWICE, 1)).save(path, optimize=True)


def smaller(source: Path, path: Path, width: int = 1200) -> None:
    """Write a plot with fewer colours, and no more pixels than `width` a row."""
    from PIL import Image

    image = Image.open(source).convert("RGB")
    image.thumbnail((width, image.height), Image.Resampling.LANCZOS)
    image.quantize(48).save(path, optimize=True)


def draw(folder: Path, out: Path) -> None:
    """Make the pictures of what the blocks left in `folder`."""
    import pydicom

    out.mkdir(parents=True, exist_ok=True)
    name = sorted(path.relative_to(folder / "pairs/npy/low") for path in
                  (folder / "pairs/npy/low").rglob("*.npy"))[2]  # fmt: skip
    pair = [np.load(folder / "pairs/npy" / side / name) for side in ("low", "full")]
    beside([*pair, np.asarray(pair[0]) - pair[1]], out / "pairs.png")
    smaller(folder / "scores.png", out / "scores.png")
    with np.load(folder / "runs/try/05-evaluate/pictures.npz") as kept:
        beside([kept[key][0] for key in ("low", "dense", "compressed", "full")], out / "run.png")
    smaller(folder / "runs/grid-sweep/quality.png", out / "sweep.png")
    made = pydicom.dcmread(min((folder / "enhanced").rglob("*.dcm")))
    place = made.PatientID, made.InstanceNumber
    files = map(pydicom.dcmread, sorted((folder / "pairs/dicom/low").rglob("*.dcm")))
    given = next(ds for ds in files if (ds.PatientID, ds.InstanceNumber) == place)
    hu = [ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept for ds in (given, made)]
    beside(hu, out / "dicom.png")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path, pictures: Path | None) -> None:
    """Run the tutorial in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty")
    for said in run(folder, (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")):
        click.echo(said, nl=False)
    if pictures is not None:
        draw(folder, pictures)


if __name__ == "__main__":
    main()
