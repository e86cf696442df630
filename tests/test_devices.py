"""Which device a command runs on; GPUs are told by a stand-in."""

from pathlib import Path

import pytest
import torch

from compress.base import devices
from compress.base.errors import UsageError
from compress.imaging import inference


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Two GPUs, and those that were made the current one."""
    found: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    return found


def test_a_gpu_of_a_number_becomes_the_current_one(current: list[torch.device]) -> None:
    assert devices.choose("cuda:1") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]


@pytest.mark.parametrize("name", ["cuda", "cpu"])
def test_any_other_device_leaves_the_current_one(name: str, current: list[torch.device]) -> None:
    assert devices.choose(name) == torch.device(name)
    assert current == []


@pytest.mark.parametrize("name", ["cuda:2", "meta", "gpu"])
def test_what_is_not_there_is_refused(name: str, current: list[torch.device]) -> None:
    with pytest.raises(UsageError, match=f"^--device {name}: "):
        devices.choose(name)
    assert current == []


def test_an_engine_is_loaded_where_it_shall_run(
    current: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loaded(Exception):
        pass

    def load(_side: Path) -> None:
        assert current == [torch.device("cuda:1")]
        raise Loaded

    monkeypatch.setattr(inference.sidecar, "of", lambda path: path)
    monkeypatch.setattr(inference.sidecar, "load", load)
    with pytest.raises(Loaded):
        inference.load(tmp_path / "engine", device="cuda:1", batch=None)
