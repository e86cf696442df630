"""What a kernel of a 5x5 or 3x3 computes, how it is cut, and which cuts are worth measuring."""

from dataclasses import dataclass, replace

from compress.engines.kernels.cuda.products import SPARSE, Kind, products

SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Compute capability -> bytes of shared memory that a block may have."""
SHARED_LEAST = 99 * 1024
"""The same for any other."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A convolution and what is computed with it; channels as they lie in memory."""

    side: int = 5
    """Its taps in a row: 5 or 3; 7 for the stem."""

    inside: int
    """Its input channels: 16, 32 or 64; 1 for the stem."""
    out: int
    """Its output channels: 16 or 32."""
    bottleneck: int = 0
    """Input channels of the 1x1 before it, whose outputs are never stored; 0 for none."""
    upsampled: int = 0
    """How many of its input channels, the first ones, are another buffer's, bilinear x2."""
    low: int = 0
    """Values a pixel of that buffer."""
    then: int = 0
    """Output channels of the 1x1 behind it: 0 for none, 1 or 16."""
    then_activate: bool = True
    """Whether LeakyReLU follows that."""
    residual: bool = False
    """Whether the image is added; with `then` 1."""
    pool: int = 0
    """Values a pixel where the max-pool behind the stem writes; 0 for none."""
    int8: bool = False
    """Whether its input and its weights are INT8."""
    x: int
    """Values a pixel where it reads."""
    y: int
    """Values a pixel where it writes."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One cut: a block computes a strip of `strip` rows and `tile` columns, row by row."""

    kind: Kind
    """The instruction: dense mma.sync, 2:4 mma.sp, dense wgmma, 2:4 wgmma.sp; mma.sync for the
    stem; int8 is mma.sync of INT8, int8.sp mma.sp of INT8."""
    strip: int
    """Rows of a strip."""
    warps: int = 4
    """Warps of a block, side by side; for wgmma a multiple of 4, for wgmma.sp 4 for each strip."""
    blocks: int = 8
    """Blocks of 8 columns that a warp computes; wgmma and the stem compute 2 with each. A warp of
    wgmma.sp computes 16 of 64 rows of a product, in four times as many blocks."""
    rows: int = 1
    """Rows in one step; weights that are read from shared memory serve all of them."""
    stages: int = 4
    """Steps whose rows are under way or in use."""
    resident: int = 1
    """Blocks of a multiprocessor that the compiler must leave registers for."""
    registers: bool = False
    """Whether the weights stay in registers."""
    late: bool = False
    """Whether in INT8 every second warp rounds the next rows behind its products, not before."""
    wide: bool = False
    """Whether the stem's threads store 16 bytes, half of them a neighbouring lane's, and not 8."""

    def tile(self, task: Task) -> int:
        """Columns of a strip; a warp whose results are pooled computes two of its neighbour's."""
        if self.kind == "stem":
            return self.warps * (16 * self.blocks - 2 * bool(task.pool))
        return self.warps // self.strips * (16 if self.kind == "wgmma" else 8 * self.blocks)

    @property
    def strips(self) -> int:
        """Strips of a block, below each other: for wgmma.sp each warpgroup has its own."""
        return self.warps // 4 if self.kind == "wgmma.sp" else 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps


def constants(task: Task, cut: Window) -> dict[str, int]:
    """parameters.cuh, by name."""
    found = {
        "SIDE": task.side, "CIN": task.inside, "COUT": task.out, "BOTTLENECK": task.bottleneck,
        "THEN": task.then,
        "UPSAMPLED": task.upsampled, "LOW": task.low, "X": task.x, "Y": task.y,
        "STAGES": cut.stages, "RESIDENT": cut.resident,
        "THEN_ACTIVATE": int(task.then_activate), "RESIDUAL": int(task.residual),
        "SHARED": shared(task, cut),
    }  # fmt: skip
    if cut.kind == "wgmma":
        return {**found, "GROUPS": cut.warps // 4}
    if cut.kind == "wgmma.sp":
        return {**found, "WORKERS": cut.strips}
    more = {"WARPS": cut.warps, "BLOCKS": cut.blocks, "ROWS": cut.rows}
    if cut.kind == "stem":
        more |= {"POOL": int(bool(task.pool)), "POOL_PIXEL": task.pool, "WIDE": int(cut.wide)}
        return {**found, **more}
    if task.int8:
        more |= {"INT8": 1, "LATE": int(cut.late)}
    sparse = int(cut.kind in SPARSE)
    return {**found, **more, "SPARSE": sparse, "IN_REGISTERS": int(cut.registers)}


def shared(task: Task, cut: Window) -> int:
    """Bytes of shared memory that a block takes."""
    if cut.kind == "stem":
        return 0
    pixels, source = cut.tile(task) + task.side - 1, task.bottleneck or task.inside
    before = task.bottleneck * task.inside * 2 + task.inside * 4 if task.bottleneck else 0
    if cut.kind == "wgmma":
        weights = 2 * task.side**2 * task.inside * task.out
        row, middle = 2 * source, 2 * task.inside
        behind, rows = 0, 1
    elif cut.kind == "wgmma.sp":
        weights = 2 * task.side * (task.side + 2) * task.inside // 2 * task.out
        row, middle, rows = 2 * source, 0, cut.rows
        behind = rows * task.out // 8 * (32 * cut.blocks + 1) * 16
    else:
        weights = 0 if cut.registers else _fragments(task, cut)
        row, middle, rows = 2 * source + 16, 2 * task.inside + 16, cut.rows
        behind = 32 * task.out if task.then == 16 else 0
    stored = 2 * rows * pixels * middle if task.bottleneck else 0
    if task.int8:
        pitch = task.inside + 16 * (task.inside > 16)
        stored = 2 * rows * (pixels + products(task.side, task.inside, cut.kind).spare) * pitch
        before += (16 if task.bottleneck else 8) * task.inside
        row -= 0 if task.bottleneck or task.upsampled else 16
    low = (cut.stages * rows // 2 + 2) * (pixels // 2 + 2) * 2 * task.upsampled
    strip = behind + cut.stages * rows * pixels * row + stored + low
    return weights + before + cut.strips * strip


def _fragments(task: Task, cut: Window) -> int:
    """Bytes of weights and metadata as fragments of mma."""
    if task.int8:
        count = products(task.side, task.inside, cut.kind).count * task.out // 16
        return count * (512 + 128 * (cut.kind == "int8.sp"))
    parts = task.inside // (32 if cut.kind == "mma.sp" else 16) * task.out // 16
    words = task.side * -(-task.side * parts // 2) if cut.kind == "mma.sp" else 0
    return task.side**2 * parts * 512 + words * 128


def candidates(
    task: Task, height: int, width: int, kinds: frozenset[Kind], room: int
) -> list[Window]:
    """Cuts to be measured for an image of height x width; all have the same strip.

    Args:
        task: what is computed.
        height: rows.
        width: columns.
        kinds: instructions that may be used.
        room: bytes of shared memory that a block may have.
    """
    cuts = [cut for cut in _cuts(task) if cut.kind in kinds and shared(task, cut) <= room]
    narrow = [cut for cut in cuts if cut.tile(task) <= max(width, 64)]
    return [replace(cut, strip=min(32, -(-height // 4) * 4)) for cut in narrow]


def strips(height: int) -> list[int]:
    """Heights of strips to be measured, for an image of `height` rows."""
    return sorted({-(-height // parts // 4) * 4 for parts in _PARTS if height >= 4 * parts} | {4})


_PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Strips in a column of the image."""


def _cuts(task: Task) -> list[Window]:
    """What an H200 found fast, or near to it, for some layer of DDnet."""
    if task.inside == 1:
        cuts = [_cut("stem", *one) for one in _STEM]
        return [replace(cut, wide=wide) for wide in (False, True) for cut in cuts]
    cuts = _int8(task) if task.int8 else [*_mma(task), *_wgmma(task), *_wgmma_sparse(task)]
    return [cut for cut in cuts if (task.side - 1) % cut.rows == 0]


_STEM = [(2, 1, 2, 1, 12), (4, 1, 2, 1, 5), (1, 2, 2, 1, 16), (2, 2, 2, 1, 8), (4, 2, 2, 1, 4)]
"""Warps, blocks, rows, stages, resident."""


def _mma(task: Task) -> list[Window]:
    """Warps, blocks, rows, stages, resident; with few weights in registers."""
    if task.out == 16 and task.inside == 16:
        dense = [(4, 2, 1, 3, 2), (4, 2, 1, 4, 2), (4, 4, 1, 4, 2)]
        sparse = [(4, 2, 1, 3, 3), (4, 2, 1, 4, 2), (4, 2, 1, 4, 3), (8, 2, 1, 4, 1)]
        cuts = [_cut("mma", *one, registers=True) for one in dense]
        return cuts + [_cut("mma.sp", *one, registers=True) for one in sparse]
    shapes = [(2, 2, 2, 2, 4), (4, 2, 2, 2, 3), (4, 2, 2, 2, 4), (8, 2, 2, 2, 1), (4, 4, 1, 2, 2)]
    shapes += [(4, 4, 1, 3, 2)]
    if task.upsampled and task.out == 32:
        shapes[2] = (4, 2, 2, 2, 2)  # of 128 registers many would be spilled
    if task.out == 16:
        shapes += [(4, 4, 2, 2, 2), (4, 2, 4, 2, 2)]
    found = [_cut(kind, *one) for kind in _PLAIN for one in shapes]
    if task.out == 16 and task.inside == 32:
        found += [_cut("mma.sp", 4, 2, 1, stages, 2, registers=True) for stages in (3, 4)]
    return found


_PLAIN: tuple[Kind, ...] = ("mma", "mma.sp")


_INT8_FEW = [(4, 2, 1, 3, 3), (4, 2, 1, 4, 2), (4, 2, 2, 3, 2), (4, 4, 1, 3, 2), (8, 2, 1, 4, 1)]
_INT8_16 = [
    (4, 2, 2, 2, 2), (2, 2, 2, 2, 4), (4, 2, 2, 2, 3), (8, 2, 2, 2, 1), (2, 4, 2, 2, 2),
    (4, 2, 1, 3, 3), (4, 4, 1, 2, 2), (4, 4, 1, 3, 2), (4, 4, 2, 2, 1), (4, 2, 4, 2, 1),
]  # fmt: skip
_INT8_32 = [(4, 2, 2, 2, 2), (2, 2, 2, 2, 4), (8, 2, 2, 2, 1), (4, 2, 1, 3, 2), (4, 2, 1, 2, 3)]
"""Warps, blocks, rows, stages, resident: of 16 to 16 channels, of more to 16, and to 32."""


def _int8(task: Task) -> list[Window]:
    """As `_mma`; those with four resident blocks or with `late` were not measured yet."""
    few = task.inside == task.out == 16
    shapes = _INT8_FEW if few else _INT8_16 if task.out == 16 else _INT8_32
    if not few and not task.upsampled:
        more = [(4, 2, 1, 2, 4)] if task.out == 16 else [(4, 2, 2, 2, 3), (4, 2, 4, 2, 1)]
        shapes = [*shapes, *more]
    found = [_cut(kind, *one, registers=few) for kind in ("int8", "int8.sp") for one in shapes]
    if few:  # dense weights take more registers
        found += [_cut("int8.sp", 4, 2, 1, stages, 4, registers=True) for stages in (3, 4)]
    elif task.out == 16 and task.inside == 32:
        found += [_cut("int8.sp", 4, 2, 1, stages, 2, registers=True) for stages in (3, 4)]
    return found + [replace(cut, late=True) for cut in found if cut.resident <= 2]


def _wgmma(task: Task) -> list[Window]:
    most = 3 if task.upsampled else 2  # with more registers for each thread, fewer would fit
    shapes = [(4, 3, most), (4, 4, most), (8, 3, 1), (8, 4, 1)]
    small = [(4, 4, 4)] if task.inside == task.out == 16 else []
    if task.upsampled and task.out == 16:
        small = [(4, 3, 4), (4, 4, 4), (8, 3, 2)]
    return [_cut("wgmma", warps, 8, 1, stages, most) for warps, stages, most in shapes + small]


def _wgmma_sparse(task: Task) -> list[Window]:
    """For 32 output channels: of 16 channels of four rows 3 of 8 weights would be zeros."""
    if task.out != 32 or task.inside == 16 or task.bottleneck:
        return []
    shapes = [(warps, stages) for warps in (4, 8) for stages in (4, 5)]
    return [_cut("wgmma.sp", warps, 4, 2, stages, 1) for warps, stages in shapes]


def _cut(
    kind: Kind,
    warps: int,
    blocks: int,
    rows: int,
    stages: int,
    resident: int,
    registers: bool = False,
) -> Window:
    return Window(
        kind=kind, strip=32, warps=warps, blocks=blocks, rows=rows, stages=stages,
        resident=resident, registers=registers,
    )  # fmt: skip
