"""What `compress bench --json > RUN/bench.json` measured of a run, for its report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.base.errors import UsageError
from compress.base.files import read_json

Facts = dict[str, Any]
FILE = "bench.json"
KEYS = ("name", "how", "batch", "p50_ms", "p90_ms", "slices_per_second", "ratio")


def read(run: Path, stages: Iterable[Path]) -> Facts | None:
    """Latencies per slice in ms; None where nobody has measured any since the last stage ended.

    Args:
        run: the run folder.
        stages: facts.json of its stages; a benchmark older than one of them is of other networks.

    Returns:
        where (GPU or CPU), size (side of a slice in pixels), rows [{name, how (in words), batch,
        p50_ms, p90_ms, slices_per_second, ratio}], and before and after: the first row, which is
        the network that the others are compared with, and the fastest of the same batch.

    Raises:
        UsageError: the file is not what the command prints.
    """
    path = run / FILE
    newest = max((facts.stat().st_mtime for facts in stages), default=0.0)
    if not path.is_file() or path.stat().st_mtime < newest:
        return None
    try:
        return _speed(read_json(path))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not what `compress bench --json` prints") from error


def _speed(found: Facts) -> Facts:
    place = found.get("place", {})
    rows = [
        {key: row.get(key) for key in KEYS} | {"how": row.get("runs") or row.get("how")}
        for row in found["rows"]
    ]
    for row in rows:
        row["name"] = Path(row["name"]).name  # the folders before it are those of one machine
    alike = [row for row in rows if row["batch"] == rows[0]["batch"]]
    return {
        "where": place.get("gpu") or f"CPU, {place.get('threads', 'unknown')} threads",
        "size": found.get("size"),
        "rows": rows,
        "before": rows[0],
        "after": min(alike, key=lambda row: float(row["p50_ms"])),
    }


def of_engine(speed: Facts | None, engine: Facts) -> Facts | None:
    """The row of an engine, by the name of its file; that of its own batch where there are more."""
    file = engine.get("file")
    own = [row for row in (speed or {}).get("rows", []) if row["name"] == file]
    return next((row for row in own if row["batch"] == engine.get("batch")), next(iter(own), None))
