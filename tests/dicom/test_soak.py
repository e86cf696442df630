"""A small soak: three stops; tests/bench/soak_enhance.py is the large one."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench/soak_enhance.py"


@pytest.mark.slow
def test_a_small_soak(tmp_path):
    spec = importlib.util.spec_from_file_location("soak_enhance", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = script.soak(tmp_path, count=240, stops=3, seed=0, longest=6.0)
    assert found["wrong"] == []
    assert len(found["stops"]) == 3
    assert found["images"] > 100
