"""The losses of a training stage as a file."""

from pathlib import Path

from compress.base.files import write_atomic
from compress.training.facts import History


def write(path: Path, history: History, steps: int) -> None:
    """Replace log.csv of a stage: one line an epoch.

    Args:
        path: the file.
        history: loss and learning rate of every epoch so far.
        steps: optimizer steps of an epoch.
    """
    rows = zip(history["loss"], history["lr"], strict=True)
    lines = [f"{i},{i * steps},{loss:.8g},{lr:.8g}" for i, (loss, lr) in enumerate(rows, 1)]
    text = "\n".join(["epoch,step,loss,lr", *lines]) + "\n"
    write_atomic(path, text.encode(), lasting=False)
