"""The report in a browser: nothing is fetched or complained of, tables sort, windows switch."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_folders

from compress.reporting import compare
from compress.run.report import rebuild

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")

BOUND = 8e6
"""Bytes that the page of a run with two 512x512 slices may have."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:  # tests of other files use it, too
        pytest.skip("no Chromium is installed")
    args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=args)
        yield found
        found.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flagship run of whole slices whose TensorRT engine was built, timed, and tells kernels."""
    run = run_folders.make(tmp_path_factory.mktemp("browser") / "flagship", side=512)
    run_folders.built(run)
    return run


@pytest.fixture
def opened(browser: Any, run: Path) -> Iterator[Any]:
    """The page of the run; at the end nothing was fetched and nothing complained of."""
    yield from visit(browser, rebuild(run))


def visit(browser: Any, file: Path, **context: Any) -> Iterator[Any]:
    context = browser.new_context(**context)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or heard.append(request.url),
    )
    page.goto(file.as_uri())
    yield page
    context.close()
    assert heard == []


def column(page: Any, head: str) -> list[str]:
    """The keys by which a column of the layer table sorts, from top to bottom."""
    return page.evaluate(
        """(head) => {
            const table = document.querySelector("#layer-table");
            const heads = [...table.tHead.rows[0].cells];
            const at = heads.findIndex((cell) => cell.innerText.startsWith(head));
            const key = (cell) => cell.dataset.sort ?? cell.innerText.trim();
            return [...table.tBodies[0].rows].map((row) => key(row.cells[at]));
        }""",
        head,
    )


def press(page: Any, head: str) -> None:
    page.locator("#layer-table thead button").filter(has_text=head).first.click()


def test_the_layer_table_sorts_by_number_and_by_word_and_turns_round(opened: Any) -> None:
    before = column(opened, "MACs")
    press(opened, "MACs")
    rising = [float(value) for value in column(opened, "MACs")]
    assert rising == sorted(float(value) for value in before)
    assert rising != [float(value) for value in before]
    press(opened, "MACs")
    assert [float(value) for value in column(opened, "MACs")] == rising[::-1]
    heads = opened.locator("#layer-table thead th[aria-sort]")
    assert heads.count() == 1
    assert heads.get_attribute("aria-sort") == "descending"
    press(opened, "Picked")
    assert column(opened, "Picked") == sorted(column(opened, "Picked"))
    assert heads.count() == 1


def test_what_is_not_known_stays_at_the_end(opened: Any) -> None:
    for _ in range(2):
        press(opened, "Of time")
        shares = column(opened, "Of time")
        assert shares[-1] == ""
        assert "" not in shares[:-1]


def test_heads_can_be_pressed_from_the_keyboard(opened: Any) -> None:
    opened.locator("#layer-table thead button").filter(has_text="MACs").focus()
    opened.keyboard.press("Enter")
    assert column(opened, "MACs") == sorted(column(opened, "MACs"), key=float)


def test_a_window_changes_the_pixels(opened: Any) -> None:
    figure = opened.locator(".slice figure").first
    seen = set()
    for name in ("Lung", "Mediastinum", "Bone"):
        opened.locator(".switch > label").filter(has_text=name).click()
        seen.add(figure.screenshot())
        assert figure.locator("img:visible").count() == 1
    assert len(seen) == 3


def test_a_picture_is_enlarged_and_the_arrows_change_it_in_place(opened: Any) -> None:
    opened.locator("button.zoom").first.click()
    image, caption = opened.locator("dialog img"), opened.locator("dialog p")
    first = image.get_attribute("src")
    assert caption.inner_text().startswith("Low dose, Lung")
    assert "1 of 7" in caption.inner_text()
    opened.keyboard.press("ArrowRight")
    assert image.get_attribute("src") != first
    assert "dense" in caption.inner_text()
    opened.keyboard.press("ArrowLeft")
    assert image.get_attribute("src") == first
    opened.keyboard.press("ArrowLeft")
    assert "minus full dose, \N{MINUS SIGN}50 to +50 HU (7 of 7)" in caption.inner_text()
    opened.keyboard.press("Escape")
    assert not opened.locator("dialog").is_visible()


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_window_and_text_stands_out(
    browser: Any, run: Path, scheme: str, dark: bool, width: int
) -> None:
    size = {"width": width, "height": 800}
    for page in visit(browser, rebuild(run), color_scheme=scheme, viewport=size):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        back = luminance(page, "body", "backgroundColor")
        assert (back < 0.2) == dark
        for selector in (".verdict", ".soft", "figcaption", "thead th", "a", ".numbers dt"):
            assert contrast(luminance(page, selector, "color"), back) >= 4.5, selector


def test_a_long_name_of_a_slice_is_broken(browser: Any, tmp_path: Path) -> None:
    """Files of DICOM series are often named by their UIDs."""
    run = run_folders.make(tmp_path / "run", ("train", "evaluate"))
    long = "patient-2/2.25." + 39 * "7"
    facts, kept = run / "01-evaluate/facts.json", run / "01-evaluate/pictures.npz"
    facts.write_text(facts.read_text().replace("C-004", long))
    with np.load(kept) as arrays:
        np.savez_compressed(kept, **{**arrays, "names": np.array(["C-001", long])})
    for page in visit(browser, rebuild(run), viewport={"width": 390, "height": 800}):
        assert long in page.inner_text("main")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def luminance(page: Any, selector: str, style: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    shown = page.evaluate(
        "([s, k]) => getComputedStyle(document.querySelector(s))[k]", [selector, style]
    )
    parts = [float(word) / 255 for word in shown[shown.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def test_pictures_have_words_tables_have_heads_and_regions_take_the_keyboard(opened: Any) -> None:
    missing = """[
        [...document.images].filter((i) => i.closest(".slice") && !i.alt).length,
        [...document.querySelectorAll("thead th:not([scope])")].length,
        [...document.querySelectorAll("tbody tr")].filter((r) => !r.querySelector("th")).length,
        [...document.querySelectorAll(".wide:not([tabindex])")].length,
        [...document.querySelectorAll("svg.chart:not([aria-label])")].length,
    ]"""
    assert opened.evaluate(missing) == [0, 0, 0, 0, 0]
    assert opened.evaluate("document.documentElement.lang") == "en"


def test_it_prints_with_every_section_and_within_bounds(opened: Any, run: Path) -> None:
    assert len(opened.pdf(format="A4")) > 20_000
    assert max(run.glob("*-report/report.html")).stat().st_size < BOUND


def test_the_comparison_sorts_and_says_what_cannot_be_compared(
    browser: Any, run: Path, tmp_path: Path
) -> None:
    other = run_folders.make(tmp_path / "other", ("train", "evaluate"))
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["data"] |= {"fingerprint": "cd" * 32}
    run_folders.write(other / "manifest.json", manifest)
    for page in visit(browser, compare.write([run, other], tmp_path / "compare.html")):
        assert "did not use the same data" in page.locator(".notices").inner_text()
        first = page.locator("table tbody th").first
        assert first.inner_text() == "flagship"
        page.locator("thead button").filter(has_text="MACs").click()
        page.locator("thead button").filter(has_text="MACs").click()
        assert first.inner_text() == "other"
        assert page.locator("svg.chart circle").count() == 2
        if shots := os.environ.get("SHOTS"):  # to look at by hand
            page.screenshot(path=f"{shots}/compare.png", full_page=True)


PHONE = {"width": 400, "height": 800}


def inside(page: Any, selector: str) -> list[bool]:
    """Whether each element that fits `selector` is where it can be seen without scrolling aside."""
    code = """found => found.map(element => {
        const own = element.getBoundingClientRect();
        const around = element.closest('.wide').getBoundingClientRect();
        return own.left >= around.left && own.right <= around.right;
    })"""
    return list(page.locator(selector).evaluate_all(code))


def test_charts_show_every_point_on_a_phone(browser: Any, run: Path, tmp_path: Path) -> None:
    other = run_folders.make(tmp_path / "other", ("train", "evaluate"))
    file = compare.write([run, other], tmp_path / "compare.html")
    for page in visit(browser, file, viewport=PHONE):
        assert inside(page, "svg.chart circle") == [True, True]
        assert all(inside(page, "svg.chart text"))
    for page in visit(browser, rebuild(run), viewport=PHONE):
        dots = inside(page, "svg.chart circle")
        assert len(dots) > 2
        assert all(dots)


def test_no_column_of_the_pruning_table_is_cut(browser: Any, run: Path) -> None:
    facts = json.loads((run / "01-prune" / "facts.json").read_text())
    groups = facts["facts"]["groups"]
    groups[0]["fixed"] = "feeds the network's output through a layer with a long name"
    run_folders.write(run / "01-prune" / "facts.json", facts)
    for page in visit(browser, rebuild(run), viewport={"width": 1280, "height": 800}):
        table = '[aria-label="Channel groups"]'
        assert all(inside(page, f"{table} th, {table} td"))
        assert "through a layer" in page.locator(table).inner_text()


CUT = """[...document.querySelectorAll('.wide')].filter(w => w.scrollWidth > w.clientWidth)
    .map(w => w.ariaLabel || w.previousElementSibling.innerText)"""


def test_no_table_is_cut_on_a_desktop(browser: Any, run: Path, tmp_path: Path) -> None:
    desk = {"width": 1280, "height": 800}
    other = run_folders.make(tmp_path / "other")
    for file in (rebuild(run), rebuild(other), compare.write([run, other], tmp_path / "c.html")):
        for page in visit(browser, file, viewport=desk):
            assert page.locator(".wide table").count() > 1
            assert page.evaluate(CUT) == []


def test_what_would_help_is_seen_on_a_phone(browser: Any, run: Path) -> None:
    for page in visit(browser, rebuild(run), viewport=PHONE):
        cells = '[aria-label="Not done"] tbody :is(th, td)'
        assert all(inside(page, f"{cells}:not(:empty)"))
        command = page.locator(f"{cells} code").first
        assert command.is_visible()
        label = (
            "getComputedStyle(document.querySelector('td[data-label^=What]'), '::before').content"
        )
        assert "What would help" in page.evaluate(label)
        assert not page.locator(f"{cells}:empty").first.is_visible()
