"""Loaders: equal batches from wherever the pixels lie, and what is said where they do not fit."""

import numpy as np
import pytest
import torch
from pairs import pairs as blobs

from compress.base.errors import UsageError
from compress.base.hu import to_network
from compress.data import Pairs
from compress.data import loaders as places
from compress.data.crops import draws, sides
from compress.data.loaders import Choice, Resident, Streamed, build, choose, refuse

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MIXED = Pairs(
    low=(*blobs(2, 24, 0, "P").low, blobs(1, 40, 1, "P").low[0][:33]),
    full=(*blobs(2, 24, 0, "P").full, blobs(1, 40, 1, "P").full[0][:33]),
    names=("a", "b", "c"),
    patients=("P",) * 3,
)
"""Slices of 24 x 24, 24 x 24 and 33 x 40 pixels."""


def load(loader, pairs, crop, count=20, batch=4, **more):
    drawn = draws(pairs, count=count, batch=batch, crop=crop, seed=(3,), **more)
    return [torch.stack(loader.decode(raw)) for raw in loader.batches(drawn)]


@pytest.mark.parametrize("transposes", [False, True])
@pytest.mark.parametrize(("pairs", "crop"), [(MIXED, 9), (MIXED, 24), (blobs(3, 16, 0, "P"), None)])
def test_all_loaders_give_equal_batches(pairs, crop, transposes):
    shape = sides(pairs, crop)
    one, *others = [
        load(loader, pairs, crop, transposes=transposes)
        for loader in (
            Streamed(pairs, CPU, 0), Streamed(pairs, CPU, 3), Resident(pairs, shape, CPU),
        )
    ]  # fmt: skip
    assert one[0].shape == (2, 4, 1, *shape)
    for other in others:
        assert len(one) == len(other) == 20
        assert all(map(torch.equal, one, other))


def test_a_gathered_crop_is_the_mirrored_window_of_its_slice():
    loader = Resident(MIXED, (9, 9), CPU)
    drawn = list(draws(MIXED, count=30, batch=1, crop=9, seed=(5,)))
    for raw, (crop,) in zip(loader.batches(drawn), drawn, strict=True):
        _, full = loader.decode(raw)
        (top, down, _), (left, right, _) = crop.rows, crop.columns
        rows, columns = top + down * np.arange(9), left + right * np.arange(9)
        expected = MIXED.full[crop.image][np.ix_(rows, columns)]
        assert torch.equal(full[0, 0], to_network(torch.from_numpy(expected)))


def test_all_eight_symmetries_of_a_square_are_drawn_with_transposes_and_four_without():
    pairs = blobs(1, 16, 0, "P")
    image = to_network(torch.from_numpy(pairs.full[0]))
    mirrored = [image, image.flip(0), image.flip(1), image.flip(0, 1)]
    for transposes, expected in ((False, mirrored), (True, [*mirrored, *(m.T for m in mirrored)])):
        seen = set()
        for batch in load(Streamed(pairs, CPU, 0), pairs, None, transposes=transposes):
            for full in batch[1][:, 0]:
                (found,) = [k for k, one in enumerate(expected) if torch.equal(one, full)]
                seen.add(found)
        assert len(seen) == len(expected)


def test_low_and_full_dose_are_transposed_together():
    pairs = blobs(2, 16, 0, "P")
    same = Pairs(low=pairs.full, full=pairs.full, names=pairs.names, patients=pairs.patients)
    for loader in (Streamed(same, CPU, 0), Resident(same, (16, 16), CPU)):
        assert all(torch.equal(*batch) for batch in load(loader, same, None, transposes=True))


def test_slices_that_are_not_square_are_not_transposed():
    wide = Pairs(
        low=(np.zeros((16, 24), np.int16),), full=(np.zeros((16, 24), np.int16),),
        names=("a",), patients=("P",),
    )  # fmt: skip
    said = "transposes needs square crops, the slices are 16 x 24"
    with pytest.raises(UsageError, match=said):
        draws(wide, count=1, batch=1, crop=None, seed=(0,), transposes=True)
    draws(wide, count=1, batch=1, crop=16, seed=(0,), transposes=True)


def test_raw_batches_can_be_split():
    for loader in (Resident(MIXED, (9, 9), CPU), Streamed(MIXED, CPU, 0)):
        for raw in loader.batches(draws(MIXED, count=2, batch=4, crop=9, seed=(0,))):
            parts = [loader.decode(part) for part in raw.split(2)]
            whole = loader.decode(raw)
            assert all(torch.equal(torch.cat(x), y) for x, y in zip(zip(*parts), whole))  # noqa: B905


def test_a_reader_that_leaves_early_leaves_no_thread_at_work():
    found = Streamed(MIXED, CPU, 2).batches(draws(MIXED, count=50, batch=1, crop=9, seed=(0,)))
    next(found)
    found.close()
    import threading

    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_auto_takes_the_gpu_where_a_quarter_of_its_memory_is_enough(monkeypatch):
    need = 2 * sum(image.nbytes for image in MIXED.full)
    monkeypatch.setattr(places, "_free", lambda _: 4 * need)
    size = f"the training set takes {need:,} bytes, {4 * need:,} are free on the GPU"
    assert choose("auto", MIXED, GPU) == Choice("gpu", f"auto: {size}")
    monkeypatch.setattr(places, "_free", lambda _: 4 * need - 1)
    assert choose("auto", MIXED, GPU).name == "workers"
    assert choose("auto", MIXED, CPU) == Choice("host", "auto: no GPU")


def test_asked_for_by_name(monkeypatch):
    need = 2 * sum(image.nbytes for image in MIXED.full)
    for name in ("workers", "host"):
        assert choose(name, MIXED, GPU) == Choice(name, "asked for")
    monkeypatch.setattr(places, "_free", lambda _: need)
    assert choose("gpu", MIXED, GPU) == Choice("gpu", "asked for")
    monkeypatch.setattr(places, "_free", lambda _: need - 1)
    said = rf"loader gpu: the training set takes {need:,} bytes, {need - 1:,} are free on the GPU; "
    with pytest.raises(UsageError, match=said + "take loader workers or fewer train_slices"):
        choose("gpu", MIXED, GPU)


def test_the_gpu_loader_needs_a_gpu():
    with pytest.raises(UsageError, match="loader gpu needs a GPU; take auto or host on the CPU"):
        refuse("gpu", CPU)


def test_the_chosen_one_is_built():
    for name, kind in (("gpu", Resident), ("workers", Streamed), ("host", Streamed)):
        assert isinstance(build(Choice(name, ""), MIXED, (9, 9), CPU), kind)
