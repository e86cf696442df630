"""The physics of image quality in a report: table, pictures, and what cannot be claimed."""

import os
from pathlib import Path
from typing import Any

import physics_runs
import pytest
import run_folders
from test_report_browser import browser, inside, visit  # noqa: F401

from compress.reporting import physics
from compress.run.report import rebuild


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("physics") / "flagship"
    return rebuild(
        physics_runs.add(run_folders.make(folder, ("train", "prune", "retrain", "evaluate")))
    )


def test_both_pages_have_every_number_and_its_limits(page_file: Path) -> None:
    html = page_file.read_text()
    markdown = page_file.with_suffix(".md").read_text()
    for text in (html, markdown):
        for words in (
            "24 noise realisations of each of 2 slices",
            "no reader took part",
            "one patient",
            "channelised Hotelling",
            "above 0.79",
            "detectability by \N{MINUS SIGN}1.2 % (95 % interval \N{MINUS SIGN}3.0 to +1.0 %)",
        ):
            assert words in text, words
    assert html.count("data:image/png") >= 2 + 3 + 2 + 11
    assert "no piq" in html


def test_a_report_without_physics_has_no_such_part(tmp_path: Path) -> None:
    page = rebuild(run_folders.make(tmp_path / "flagship", ("train", "evaluate")))
    assert "Physics of image quality" not in page.read_text()
    assert "Physics of image quality" not in page.with_suffix(".md").read_text()


def test_every_network_has_a_cell_in_every_row() -> None:
    facts = physics_runs.found()
    names = set(physics.networks(facts))
    assert list(physics.networks(facts)) == ["input", "full", "dense", "compressed"]
    rows = [row for group in physics.table(facts) for row in group["rows"]]
    assert len(rows) == 3 * 4 + 3 + 3 * 3 + 2 * 2 + 4
    assert all(cells.keys() == names for _, cells in rows)
    nothing = {**facts, "noise": None, "sharpness": [], "detection": [], "losses": {}}
    assert len(physics.table(nothing)) == 4
    assert physics.costs(nothing) == []


@pytest.mark.parametrize("width", [400, 1280])
def test_pictures_fit_the_window(browser: Any, page_file: Path, width: int) -> None:  # noqa: F811
    size = {"width": width, "height": 900}
    for page in visit(browser, page_file, viewport=size):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        table = '[aria-label="Physics of image quality"]'
        first = inside(page, f"{table} tbody tr:nth-child(2) td")
        assert first[0], "a number is seen beside its label, without scrolling"
        images = page.locator(".plots img")
        assert images.count() == 2 + 3 + 2 + 11
        for k in range(images.count()):
            images.nth(k).scroll_into_view_if_needed()
            box = images.nth(k).bounding_box()
            assert box["width"] >= 300
            assert box["x"] + box["width"] <= width
        assert images.evaluate_all("all => all.every(i => i.alt && i.naturalWidth > 0)")
        if shots := os.environ.get("SHOTS"):  # to look at by hand
            page.screenshot(path=f"{shots}/physics-{width}.png", full_page=True)
