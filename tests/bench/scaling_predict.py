"""How training should scale by the bytes that a step sends: a formula, and what it says of an H100.

Nothing here is measured but the two rates that it starts from.
"""

from typing import Any

COUNTS = (1, 2, 4, 8)
"""GPUs of one host."""
LINKS = {"NVLink 4": 450e9, "PCIe 5.0 x16": 64e9}
"""Bytes a second one way: half of what https://www.nvidia.com/en-us/data-center/h100/ gives for
both ways together, 900 and 128 GB/s."""
MEASURED = {"one": 277.8, "two": 511.2, "batch": 16, "gradient_bytes": 2_265_804}
"""Slices a second on one H100 and on two at this batch in all: docs/results.md, `Two GPUs`."""


def ring_seconds(devices: int, gradient_bytes: float, bandwidth: float) -> float:
    """Seconds in which a ring all-reduce sends 2 (n - 1) / n times the gradients.

    Source: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md, bus bandwidth.

    Args:
        devices: n.
        gradient_bytes: what each device holds.
        bandwidth: bytes a second, one way, of the slowest link.
    """
    return 2 * (devices - 1) / devices * gradient_bytes / bandwidth


def predicted_share(
    devices: int, compute: float, gradient_bytes: float, bandwidth: float, rest: float = 0.0
) -> float:
    """Predicted share of linear scaling: compute / (compute + ring + rest); 1 on one device.

    Args:
        devices: that train together.
        compute: seconds in which one device computes its own share of the batch.
        gradient_bytes: see `ring_seconds`.
        bandwidth: see `ring_seconds`.
        rest: seconds that a step on several devices takes besides, however many they are.
    """
    if devices == 1:
        return 1.0
    return compute / (compute + ring_seconds(devices, gradient_bytes, bandwidth) + rest)


def prediction(bandwidth: float) -> dict[str, Any]:
    """Times as fast as one H100 by volume alone, and with the rest that two GPUs have shown."""
    batch, volume = MEASURED["batch"], MEASURED["gradient_bytes"]
    whole = batch / MEASURED["one"]
    rest = batch / MEASURED["two"] - whole / 2 - ring_seconds(2, volume, bandwidth)
    found: dict[str, Any] = {"bandwidth": bandwidth, "rest_seconds": rest}
    for mode in ("a device", "in all"):
        for count in COUNTS:
            compute = whole if mode == "a device" else whole / count
            found[f"{batch} {mode}, {count}"] = {
                name: count * predicted_share(count, compute, volume, bandwidth, more)
                for name, more in (("by_volume", 0.0), ("with_the_rest", rest))
            }
    return found


def predictions() -> dict[str, Any]:
    """For each kind of link."""
    label = "computed from one and two H100, not measured"
    return {"what": label, "inputs": MEASURED} | {n: prediction(b) for n, b in LINKS.items()}
