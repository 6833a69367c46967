"""The report page in a real browser; skipped if the machine does not have Chromium and chromedriver."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raycomp.report import write_report
from raycomp.storage.tables import read_table, write_rows
from tests.unit.report.run_factory import finish_run, write_run
from tests.unit.report.study_factory import write_study

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
ATTACK = "<img src=x onerror=document.title='attacked'>"

# Returns the mean lightness of an image in 0..1 and its number of colours.
LOOK = """
const done = arguments[1], image = new Image();
image.onload = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const dots = new Uint32Array(pen.getImageData(0, 0, image.width, image.height).data.buffer);
  let light = 0;
  for (const dot of dots) light += ((dot & 255) + ((dot >> 8) & 255) + ((dot >> 16) & 255)) / 765;
  done([light / dots.length, new Set(dots).size]);
};
image.src = "data:image/png;base64," + arguments[0];
"""

# Returns the position of a trace's n-th mark on the screen.
PLACE = """
const [div, trace, mark] = [document.getElementById(arguments[0]), arguments[1], arguments[2]];
const {xaxis, yaxis} = div._fullLayout, box = div.getBoundingClientRect();
const {x, y} = div._fullData[trace];
return [box.left + xaxis._offset + xaxis.d2p(x[mark]), box.top + yaxis._offset + yaxis.d2p(y[mark])];
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if browser is None or service is None:
        pytest.skip(f"no browser: needs one of {', '.join(BROWSERS)}, and chromedriver (`make browser`)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser_driver = webdriver.Chrome(options, webdriver.ChromeService(service))
    browser_driver.set_script_timeout(30)
    yield browser_driver
    browser_driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_report(write_run(folder), folder / "report.html")


def wait_for(until: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := until()):
        assert time.monotonic() < deadline, "the page did not reach the expected state in time"
        time.sleep(0.05)
    return result


def open_page(driver: Any, page: Path, *, width: int = 1200, scheme: str = "light") -> None:
    """Open a page on a screen of a width and colour scheme, with its first plot drawn."""
    phone = width < 600
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)
    driver.get(page.as_uri())
    wait_for(lambda: driver.execute_script("return !!document.querySelector('#plot-1 .main-svg')"))


def point_at(driver: Any, trace: int, mark: int) -> None:
    """Move the mouse to a mark of the first plot."""
    driver.execute_script("document.getElementById('plot-1').scrollIntoView({block: 'center'})")
    x, y = driver.execute_script(PLACE, "plot-1", trace, mark)
    for moved in (3, 0):
        event = {"type": "mouseMoved", "x": x + moved, "y": y}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.1)


def read_hover_label(driver: Any) -> str:
    return str(
        wait_for(lambda: driver.execute_script(
            "return document.querySelector('#plot-1 .hoverlayer .hovertext')?.textContent"))
    )  # fmt: skip


def test_the_page_opens_without_errors_or_requests(driver: Any, page: Path) -> None:
    driver.get_log("browser")
    open_page(driver, page)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")  # draws every plot
    count_drawn = "return document.querySelectorAll('.plot .main-svg').length"
    plots = driver.execute_script("return document.querySelectorAll('.plot').length")
    wait_for(lambda: driver.execute_script(count_drawn) >= plots == 10)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    buttons = driver.execute_script(
        "return [...document.querySelectorAll('#plot-1 .modebar-btn')].map(b => b.dataset.title)"
    )
    assert buttons == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_hover_shows_the_architecture(driver: Any, page: Path) -> None:
    open_page(driver, page)
    point_at(driver, 1, 0)
    label = read_hover_label(driver)
    for part in ("yoco half", "validation 0.830", "13.6M params", "2 layers", "heads 8 8", "FFN 512 512"):
        assert part in label
    point_at(driver, 2, 1)
    wait_for(lambda: "std_conv_3" in read_hover_label(driver))


def test_a_large_mark_is_labelled_where_it_covers_a_small_one(driver: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    deployed = read_table(run, "deployments")
    half = deployed[deployed["budget"] == "half"].iloc[0]
    beneath = {"run": run.name, "method": "yoco", "arch": half["arch"], "split": "selection",
               "metric": "accuracy", "value": half["validation"] + 0.0003,
               "params": int(half["params"]), "flops": half["flops"]}  # fmt: skip
    write_rows(run, "evaluations", [beneath], "ledger-2")
    open_page(driver, write_report(run, tmp_path / "r.html"))
    point_at(driver, 1, 0)
    wait_for(lambda: read_hover_label(driver).startswith("yoco half"))


def test_the_reader_chooses_the_cost_axis(driver: Any, page: Path) -> None:
    open_page(driver, page)
    views = {}
    for cost in ("flops", "latency_ms", "params"):
        driver.execute_script(f"document.querySelector('input[value={cost}]').click()")
        views[cost] = driver.execute_script(
            "const p = document.getElementById('plot-1'); return [p.layout.xaxis.title.text, "
            "p.layout.annotations.map(a => a.text).join(), p._fullData[0].visible, p._fullData[1].x[0]]"
        )
    assert views["flops"] == ["flops (FLOPs of one forward pass, 64 tokens)", "flops", True, 161920000.0]
    assert views["latency_ms"][:3] == [
        "latency_ms (median forward pass on a CPU, ms, 64 tokens)",
        "",
        False,
    ]
    assert views["latency_ms"][3] == 5
    assert views["params"][:3] == ["params (parameters of the whole model)", "half", True]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_plot_has_the_colours_of_the_page(driver: Any, page: Path, scheme: str) -> None:
    open_page(driver, page, scheme=scheme)
    time.sleep(0.3)
    image = driver.find_element("id", "plot-1").screenshot_as_base64
    light, colours = driver.execute_async_script(LOOK, image)
    assert light > 0.85 if scheme == "light" else light < 0.25
    assert colours > 100


def test_plots_follow_a_change_of_the_colour_scheme(driver: Any, page: Path) -> None:
    open_page(driver, page)
    ink = "return document.getElementById('plot-1').layout.font.color"
    light = driver.execute_script(ink)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    wait_for(lambda: driver.execute_script(ink) != light)


def test_on_a_phone_only_the_tables_scroll_sideways(driver: Any, page: Path) -> None:
    open_page(driver, page, width=390)
    driver.execute_script(
        "for (const d of document.querySelectorAll('details')) d.open = true;"
        "dispatchEvent(new Event('beforeprint'))"
    )
    wide, boxes = driver.execute_script(
        "const b = [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth);"
        "return [document.documentElement.scrollWidth, b.length]"
    )
    assert wide == 390
    assert boxes >= 3


def test_a_malicious_name_is_shown_as_text(driver: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, budgets=(ATTACK, "flops"))
    open_page(driver, write_report(run, tmp_path / "r.html"))
    point_at(driver, 1, 0)
    assert f"yoco {ATTACK}" in read_hover_label(driver)
    assert driver.title == "raycomp: both-1a2b3c4d"
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_tables_of_a_study_come_first_and_scroll_sideways(driver: Any, tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    finish_run(next((folder / "runs").iterdir()))
    page = write_report([folder], tmp_path / "study.html")
    driver.get_log("browser")
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())  # the first plot is below the tables and is drawn when it becomes visible
    wait_for(lambda: driver.execute_script("return document.readyState === 'complete'"))
    assert driver.get_log("browser") == []
    first, shown, wide = driver.execute_script(
        "return [document.querySelector('main h2').id, document.querySelector('main').innerText, "
        "document.documentElement.scrollWidth]"
    )
    assert first == "studies"
    assert "no difference shown" in shown
    assert "0.841" in shown
    assert wide == 390
    assert page.stat().st_size < 6_000_000
