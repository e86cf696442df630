"""Sides of slices that a recipe's steps ask of its network: refused before hours of training.

What is measured is padded, see `graph.padding`; crops to train with and engines are not.
"""

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from compress.base.errors import UsageError
from compress.context import Step
from compress.data import SOURCES, Data, DataOptions
from compress.data.crops import sides
from compress.graph.padding import multiple, refuse_sides, up
from compress.graph.trial import check_batch, check_shape
from compress.quality.ssim import MS_SSIM_SIDE, SSIM_SIDE
from compress.steps.evaluate import Evaluate
from compress.steps.export import Export
from compress.steps.train import Train

Named = tuple[str, Step]
"""Where in the recipe a step is, such as `steps[0].train`, and the step."""


class Asked:
    """A network that is asked for each shape once: most steps have the same.

    Args:
        net: it does not change meanwhile.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net, self._takes = net, set[tuple[int, int]]()
        self._trains = set[tuple[int, int, int]]()

    def refuse(self, shape: tuple[int, int], where: str, most: int | None = None) -> None:
        """As `refuse_sides`."""
        if shape not in self._takes:
            refuse_sides(self._net, shape, where, most)
            self._takes.add(shape)

    def refuse_batch(self, batch: int, shape: tuple[int, int], where: str) -> None:
        """As `check_batch`, with the place in the recipe."""
        if (batch, *shape) not in self._trains:
            try:
                check_batch(self._net, batch, shape)
            except UsageError as error:
                raise UsageError(f"{where}: {error}; enlarge crop or batch") from error
            self._trains.add((batch, *shape))


def named(steps: Sequence[tuple[str, Step]]) -> list[Named]:
    """Steps of a recipe with their places."""
    return [(f"steps[{index}].{word}", step) for index, (word, step) in enumerate(steps)]


def refuse(
    steps: Iterable[Named], net: nn.Module, data: DataOptions, known: tuple[int, int] | None = None
) -> None:
    """Refuse sides that are known before the slices are read.

    Args:
        steps: of the recipe, or some of them.
        net: the dense network.
        data: the recipe's data source.
        known: height and width of its slices; None: what the source says.

    Raises:
        UsageError: a step's crop or size does not go through the network, is too small for its
            loss, or larger than the slices; names it, and one that works.
    """
    known = known or SOURCES[data.source].shape(data)
    asked = Asked(net)
    for where, step in steps:
        if isinstance(step, Export):
            asked.refuse((step.image_size, step.image_size), f"{where}.image_size")
        if not isinstance(step, Train):
            continue
        shape = (step.crop, step.crop) if step.crop else known
        if shape is not None:
            _check_crop(step, asked, shape, f"{where}.crop", min(known) if known else None)
        if step.crop and known and step.crop > min(known):
            size = _times(known)
            raise UsageError(f"{where}.crop: {step.crop} is more than the slices of {size} have")


def refuse_slices(steps: Iterable[Named], net: nn.Module, data: Data) -> None:
    """Refuse slices, once they are read, that a later step could not use.

    Raises:
        UsageError: names the step and the slice, or the sides.
    """
    asked = Asked(net)
    for where, step in steps:
        if isinstance(step, Train):
            try:
                shape = sides(data.train, step.crop)
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from error
            most = min(min(image.shape) for image in data.train.full)
            _check_crop(step, asked, shape, f"{where}.crop", most)
        if isinstance(step, Evaluate):
            for name, shape in _shapes(data):
                _check_measured(net, shape, f"{where}: slice {name}")


def _shapes(data: Data) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each shape of the held-out slices once, with the first slice's name."""
    seen = set()
    for name, image in zip(data.test.names, data.test.full, strict=True):
        height, width = image.shape
        if (height, width) not in seen:
            seen.add((height, width))
            yield name, (height, width)


def _check_measured(net: nn.Module, shape: tuple[int, int], where: str) -> None:
    if min(shape) < SSIM_SIDE:
        need = f"SSIM needs {SSIM_SIDE} x {SSIM_SIDE}"
        raise UsageError(f"{where} has {_times(shape)} pixels; {need}")
    number = multiple(net)
    height, width = (up(side, number) for side in shape)
    try:
        check_shape(net, (height, width))
    except UsageError as error:
        raise UsageError(f"{where} has {_times(shape)} pixels; padded, {error}") from error


def _check_crop(
    step: Train, asked: Asked, shape: tuple[int, int], where: str, most: int | None
) -> None:
    if "ms_ssim" in step.loss and min(shape) < MS_SSIM_SIDE:
        need = f"loss {step.loss} needs sides of at least {MS_SSIM_SIDE} pixels"
        raise UsageError(f"{where}: {need}, got {_times(shape)}; enlarge crop")
    if step.transposes and shape[0] != shape[1]:
        raise UsageError(f"{where}: transposes needs square crops, got {_times(shape)}")
    asked.refuse(shape, where, most)
    asked.refuse_batch(step.batch, shape, where)


def _times(shape: tuple[int, int]) -> str:
    return "{} x {}".format(*shape)
