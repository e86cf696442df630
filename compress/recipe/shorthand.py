"""What a recipe may say in short; it becomes plain steps.

epochs_total: 50   the one retrain without `epochs` gets what the others leave; with nothing left it
                   is dropped. So one value, the epochs of train, moves the whole hybrid schedule.
rounds: 3          prune, retrain becomes three times prune, retrain: the network gets smaller by
                   the same factor each time, and the epochs are split evenly (iterative pruning:
                   Han et al., NeurIPS 2015).
at: 0.1            train, prune, retrain share their epochs anew: a tenth before the cut, and one
                   half cosine of the learning rate across it (early pruning).
baseline           one baseline for every retrain before it, with its options.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace

from compress.base.errors import UsageError
from compress.context import Step
from compress.pruning.unstructured import KINDS
from compress.recipe import schema
from compress.recipe.yaml import Tree
from compress.steps.baseline import Baseline
from compress.steps.prune import Prune
from compress.steps.quantize import Quantize
from compress.steps.sparsify import Sparsify
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


def plain(steps: Sequence[tuple[str, Step]]) -> tuple[tuple[str, Step], ...]:
    """`steps` with everything that is said in short written out.

    Raises:
        UsageError: see `rounds`, `early` and `baselines`.
    """
    return baselines(early(rounds(steps)))


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


def early(steps: Sequence[tuple[str, Step]]) -> tuple[tuple[str, Step], ...]:
    """`steps` with the epochs around every `prune` with `at` divided anew.

    Raises:
        UsageError: no training before or after it, the two differ in what makes one schedule, or
            one of them would have no epoch.
    """
    plain = list(steps)
    for index, (word, step) in enumerate(steps):
        if isinstance(step, Prune) and step.at is not None:
            before = _training(plain, reversed(range(index)))
            after = _training(plain, range(index + 1, len(plain)))
            try:
                if before is None or after is None:
                    raise ValueError("at needs a train before it and a retrain after it")
                train, retrain = (plain[place][1] for place in (before, after))
                assert isinstance(train, Train)
                assert isinstance(retrain, Train)
                first, second = _divided(train, retrain, step.at)
            except ValueError as error:
                raise UsageError(f"steps[{index}].{word}: {error}") from error
            plain[before] = (plain[before][0], first)
            plain[after] = (plain[after][0], second)
            plain[index] = (word, replace(step, at=None))
    return tuple(plain)


def _training(steps: Sequence[tuple[str, Step]], places: Iterable[int]) -> int | None:
    """The first of these places where the network is trained."""
    return next((place for place in places if _trains(steps[place][1])), None)


def _trains(step: Step) -> bool:
    """Whether the network itself is trained, not the dense one beside it."""
    return isinstance(step, Train) and not isinstance(step, Baseline)


ONE_SCHEDULE = ("lr", "lr_final", "batch", "slices_per_epoch")
"""Options that two trainings must share to have one schedule of the learning rate."""


def _divided(train: Train, retrain: Train, share: float) -> tuple[Train, Train]:
    """Both trainings with the share of their epochs before the cut, on one half cosine."""
    for name in ONE_SCHEDULE:
        one, other = getattr(train, name), getattr(retrain, name)
        if one != other:
            raise ValueError(f"at needs the same {name} before and after it, got {one} and {other}")
    for step in (train, retrain):
        if (step.lr_rewind, step.lr_until) != (0.0, 1.0):
            raise ValueError("at sets lr_rewind and lr_until itself; leave them out")
    total = train.epochs + retrain.epochs
    first = round(share * total)
    if not 0 < first < total:
        raise ValueError(f"at {share} of {total} epochs leaves none on one side of it")
    return (
        replace(train, epochs=first, lr_until=first / total),
        replace(retrain, epochs=total - first, lr_rewind=first / total),
    )


def baselines(steps: Sequence[tuple[str, Step]]) -> tuple[tuple[str, Step], ...]:
    """`steps` with every `baseline` without options as one for each training that it makes up for.

    Raises:
        UsageError: nothing was trained since the network was compressed.
    """
    plain: list[tuple[str, Step]] = []
    later: list[Train] = []  # trainings of the compressed network that the dense one lacks
    compressed = False
    for index, (word, step) in enumerate(steps):
        compressed = compressed or isinstance(step, Prune | Quantize | Sparsify)
        if isinstance(step, Baseline) and not step.epochs:
            if not later:
                why = "nothing was trained before it since the network was compressed"
                raise UsageError(f"steps[{index}].{word}: {why}; leave it out")
            plain += [(word, _for_dense(one)) for one in later]
        else:
            plain.append((word, step))
        if isinstance(step, Baseline):
            later = []
        elif isinstance(step, Train) and compressed:
            later.append(step)
    return tuple(plain)


def _for_dense(step: Train) -> Baseline:
    """The same training for the dense network, which is no teacher of its own."""
    options = {field.name: getattr(step, field.name) for field in fields(step)}
    return Baseline(**{**options, "distill": 0.0})
