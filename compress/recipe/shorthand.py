"""What a recipe may say in short: epochs left over, and pruning in rounds. Both become plain steps.

epochs_total: 50   the one retrain without `epochs` gets what the others leave; with nothing left it
                   is dropped. So one value, the epochs of train, moves the whole hybrid schedule.
rounds: 3          prune, retrain becomes three times prune, retrain: the network gets smaller by
                   the same factor each time, and the epochs are split evenly (iterative pruning:
                   Han et al., NeurIPS 2015).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from compress.base.errors import UsageError
from compress.context import Step
from compress.pruning.unstructured import KINDS
from compress.recipe import schema
from compress.recipe.yaml import Tree
from compress.steps.prune import Prune
from compress.steps.train import Train


def epochs(steps: Sequence[tuple[str, Tree]], total: int | None) -> list[tuple[str, Tree]]:
    """Steps as written, with the epochs that `epochs_total` leaves to one `retrain` filled in.

    Raises:
        UsageError: `retrain` steps without epochs are not exactly one, or too many epochs are
            given to the other steps.
    """
    steps = list(steps)
    if total is None:
        return steps
    training = {
        index: schema.section(given, f"steps[{index}].{word}")
        for index, (word, given) in enumerate(steps)
        if word in ("train", "retrain")
    }
    open_ = [i for i, given in training.items() if "epochs" not in given and steps[i][0] != "train"]
    if len(open_) != 1:
        raise UsageError(f"epochs_total: exactly one retrain must omit epochs; found {len(open_)}")
    spent = sum(
        schema.convert(int, given["epochs"], f"steps[{index}].{steps[index][0]}.epochs")
        for index, given in training.items()
        if "epochs" in given
    )
    (index,) = open_
    if spent > total:
        raise UsageError(f"epochs_total: the steps have {spent} epochs, more than {total}")
    if spent == total:
        return steps[:index] + steps[index + 1 :]
    steps[index] = ("retrain", {**training[index], "epochs": total - spent})
    return steps


def rounds(steps: Sequence[tuple[str, Step]]) -> tuple[tuple[str, Step], ...]:
    """`steps` with every `prune` in rounds written out.

    Raises:
        UsageError: no `retrain` follows, it has fewer epochs than there are rounds, or no channels
            would go.
    """
    plain: list[tuple[str, Step]] = []
    done = -1  # the retrain that was written out together with its prune
    for index, (word, step) in enumerate(steps):
        if isinstance(step, Prune) and step.rounds > 1:
            try:
                plain += _written_out(step, steps[index + 1][1] if steps[index + 1 :] else None)
            except ValueError as error:
                raise UsageError(f"steps[{index}].{word}: {error}") from error
            done = index + 1
        elif index != done:
            plain.append((word, step))
    return tuple(plain)


def _written_out(prune: Prune, retrain: Step | None) -> Iterator[tuple[str, Step]]:
    """Prune and retrain of every round; the last retrain takes the epochs that do not divide."""
    count, amount = prune.rounds, prune.amount
    assert amount is not None
    if not isinstance(retrain, Train):
        raise ValueError("rounds needs a retrain right after it")
    if retrain.epochs < count:
        few = f"{count} rounds need a retrain of as many epochs at least"
        raise ValueError(f"{few}, got {retrain.epochs}")
    if prune.criterion in KINDS:
        raise ValueError(f"rounds is for channels, and {prune.criterion} removes none")
    share = retrain.epochs // count
    for turn in range(1, count + 1):
        reached = amount if turn == count else 1 - (1 - amount) ** (turn / count)
        epochs_ = share if turn < count else retrain.epochs - share * (count - 1)
        yield "prune", replace(prune, rounds=1, amount=reached, base="dense")
        yield "retrain", replace(retrain, epochs=epochs_)
