"""The losses of a training stage as a file."""

from pathlib import Path

from compress.training.facts import History


class EpochLog:
    """log.csv of a stage: one line an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, history: History, steps: int) -> None:
        """Replace the file.

        Args:
            history: loss and learning rate of every epoch so far.
            steps: optimizer steps of an epoch.
        """
        rows = zip(history["loss"], history["lr"], strict=True)
        lines = [f"{i},{i * steps},{loss:.8g},{lr:.8g}" for i, (loss, lr) in enumerate(rows, 1)]
        self.path.write_text("\n".join(["epoch,step,loss,lr", *lines]) + "\n", encoding="utf-8")
