"""The comparison of number formats, short."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from precisions import FORMATS, compare


def test_every_format_learns_like_float32() -> None:
    formats = {name: FORMATS[name] for name in FORMATS if name != "bf16, compiled"}
    report = compare(100, torch.device("cuda"), formats)
    ran = [found for found in report["formats"].values() if "left_out" not in found]
    assert len(ran) >= 6
    assert all(found["within_spread"] for found in ran), report
    assert all(found["masks_hold"] for found in ran)
