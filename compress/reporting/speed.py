"""What `compress bench --json > RUN/bench.json` measured of a run, for its report."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from compress.base.errors import UsageError
from compress.base.files import read_json
from compress.reporting.records import Facts, Measured, Speed, SpeedRow

FILE = "bench.json"
OWN = "speed.json"
"""What the step `report` measured itself, on a CPU; FILE comes first."""
KEYS = (
    "name", "how", "batch", "p50_ms", "p90_ms", "slices_per_second", "ratio", "ratio_min",
    "ratio_max",
)  # fmt: skip


ENOUGH = 6
"""Rounds without which nothing is said of a gain: six agree by chance once in 32 times."""


def read(run: Path, stages: Iterable[Path]) -> Speed | None:
    """Latencies per slice in ms; None where nobody has measured any since the last stage ended.

    Args:
        run: the run folder.
        stages: facts.json of its stages; a benchmark older than one of them is of other networks.

    Returns:
        where (GPU or CPU), size (side of a slice in pixels), rounds, rows [{name, how (in words),
        batch, p50_ms, p90_ms, slices_per_second, ratio, ratio_min, ratio_max}], before and after:
        the first row, which is the network that the others are compared with, and the fastest of
        the same batch; sparse (sentences: what 2:4 alone is worth); and own: whether the step
        `report` measured it, on a CPU. Then only ratios are told: such times belong to one machine
        and hour.

    Raises:
        UsageError: the file is not what the command prints.
    """
    newest = max((facts.stat().st_mtime for facts in stages), default=0.0)
    there = [run / name for name in (FILE, OWN) if (run / name).is_file()]
    path = next((path for path in there if path.stat().st_mtime >= newest), None)
    if path is None:
        return None
    try:
        return {**_speed(read_json(path)), "own": path.name == OWN}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not what `compress bench --json` prints") from error


def _speed(found: Facts) -> Measured:
    place = found.get("place", {})
    rows = [
        {key: row.get(key) for key in KEYS} | {"how": row.get("runs") or row.get("how")}
        for row in found["rows"]
    ]
    for row, name in zip(rows, _names([row["name"] for row in rows]), strict=True):
        row["name"] = name
    alike = [row for row in rows if row["batch"] == rows[0]["batch"]]
    measured = {
        "where": place.get("gpu") or f"CPU, {_threads(place.get('threads'))}",
        "size": found.get("size"),
        "rows": rows,
        "rounds": found.get("rounds"),
        "before": rows[0],
        "after": min(alike, key=lambda row: float(row["p50_ms"])),
        "sparse": [sparse_gain(pair, found["rounds"]) for pair in found.get("sparse_ab", [])],
    }
    return cast("Measured", measured)


def _names(paths: Sequence[str]) -> list[str]:
    """File names, with their folder where two files of different folders have one name.

    More of a path belongs to one machine.
    """
    folders: dict[str, set[Path]] = {}
    for path in map(Path, paths):
        folders.setdefault(path.name, set()).add(path.parent)
    clear = {name: len(some) == 1 for name, some in folders.items()}
    return [p.name if clear[p.name] else f"{p.parent.name}/{p.name}" for p in map(Path, paths)]


def _threads(count: int | None) -> str:
    return "1 thread" if count == 1 else f"{count or 'unknown'} threads"


def sparse_gain(
    pair: Mapping[str, Any], rounds: int, names: tuple[str, str] = ("it", "without 2:4")
) -> str:
    """What 2:4 alone is worth, and that it is nothing where the spread does not exclude that.

    Args:
        pair: of `sparse_ab` in what `compress bench` measured: equal widths with and without 2:4.
        rounds: times that both had their turn.
        names: of the one with 2:4 and of the other.
    """
    low, high = pair["ratio_min"], pair["ratio_max"]
    verdict = "no difference beyond the spread"
    if rounds < ENOUGH:
        verdict = f"too few rounds to tell, {ENOUGH} are needed"
    elif low > 1 or high < 1:
        verdict = "faster in every round" if low > 1 else "slower in every round"
    return (
        f"2:4 in {pair['layers']} of {pair['of']} layers at equal widths, batch {pair['batch']}, "
        f"{pair['how']}: {names[0]} is {pair['ratio']:.3f} times as fast as {names[1]} "
        f"({low:.3f}-{high:.3f} over {rounds} rounds): {verdict}"
    )


def gain(bench: Speed) -> str:
    """How many times as fast the compressed network is, with the spread, of `own` figures."""
    return f"{bench['rows'][-1]['ratio']:.2f} times as fast ({spread(bench)})"


def spread(bench: Speed) -> str:
    """The lowest and the highest ratio of `own` figures, and whether they exclude 1."""
    row = bench["rows"][-1]
    low, high = row["ratio_min"], row["ratio_max"]
    none = ", no difference beyond that" if low <= 1 <= high else ""
    return f"{low:.2f} to {high:.2f} in {bench['rounds']} rounds{none}"


def way(bench: Speed) -> str:
    """How `own` figures were measured."""
    row = bench["rows"][-1]
    size = f"{bench['size']}x{bench['size']} pixels"
    return f"{row['how']}, {size}, in turns on {bench['where'].replace('CPU,', 'a CPU with')}"


def of_engine(engine: Facts, speed: Speed | None) -> SpeedRow | None:
    """The row of an engine, by the name of its file; that of its own batch where there are more.

    Where two engines have one name, the first one is the run's, which is told first.
    """
    file = engine.get("file")
    rows = speed["rows"] if speed else []
    own = [row for row in rows if Path(row["name"]).name == file]
    return next((row for row in own if row["batch"] == engine.get("batch")), next(iter(own), None))
