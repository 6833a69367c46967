"""The report in a real browser: headless Chromium, where the machine has one."""

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

# Says how light an image is on average (0..1), and how many colours it has.
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

# Where the n-th mark of a trace lies on the screen.
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
        pytest.skip(f"no browser: needs one of {', '.join(BROWSERS)}, and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(service))
    found.set_script_timeout(30)
    yield found
    found.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return write_report(write_run(folder), folder / "report.html")


def wait(until: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < deadline, "the page did not come so far"
        time.sleep(0.05)
    return found


def visit(driver: Any, page: Path, *, width: int = 1200, scheme: str = "light") -> None:
    """Open a page on a screen of a width and colour scheme, with its first plot drawn."""
    phone = width < 600
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_of = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_of)
    driver.get(page.as_uri())
    wait(lambda: driver.execute_script("return !!document.querySelector('#plot-1 .main-svg')"))


def point(driver: Any, trace: int, mark: int) -> None:
    """Move the mouse to a mark of the first plot."""
    driver.execute_script("document.getElementById('plot-1').scrollIntoView({block: 'center'})")
    x, y = driver.execute_script(PLACE, "plot-1", trace, mark)
    for moved in (3, 0):
        event = {"type": "mouseMoved", "x": x + moved, "y": y}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        time.sleep(0.1)


def hovered(driver: Any) -> str:
    return str(
        wait(lambda: driver.execute_script(
            "return document.querySelector('#plot-1 .hoverlayer .hovertext')?.textContent"))
    )  # fmt: skip


def test_it_opens_without_errors_and_asks_for_nothing(driver: Any, page: Path) -> None:
    driver.get_log("browser")
    visit(driver, page)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")  # draws every plot
    count_drawn = "return document.querySelectorAll('.plot .main-svg').length"
    plots = driver.execute_script("return document.querySelectorAll('.plot').length")
    wait(lambda: driver.execute_script(count_drawn) >= plots == 10)
    assert driver.get_log("browser") == []
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    buttons = driver.execute_script(
        "return [...document.querySelectorAll('#plot-1 .modebar-btn')].map(b => b.dataset.title)"
    )
    assert buttons == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_hover_shows_the_architecture(driver: Any, page: Path) -> None:
    visit(driver, page)
    point(driver, 1, 0)
    label = hovered(driver)
    for part in ("yoco half", "validation 0.830", "13.6M params", "2 layers", "heads 8 8", "FFN 512 512"):
        assert part in label
    point(driver, 2, 1)
    wait(lambda: "std_conv_3" in hovered(driver))


def test_a_big_mark_is_what_the_mouse_finds_where_it_covers_a_small_one(
    driver: Any, tmp_path: Path
) -> None:
    run = write_run(tmp_path)
    deployed = read_table(run, "deployments")
    half = deployed[deployed["budget"] == "half"].iloc[0]
    beneath = {"run": run.name, "method": "yoco", "arch": half["arch"], "split": "selection",
               "metric": "accuracy", "value": half["validation"] + 0.0003,
               "params": int(half["params"]), "flops": half["flops"]}  # fmt: skip
    write_rows(run, "evaluations", [beneath], "ledger-2")
    visit(driver, write_report(run, tmp_path / "r.html"))
    point(driver, 1, 0)
    wait(lambda: hovered(driver).startswith("yoco half"))


def test_the_cost_axis_is_the_reader_s_choice(driver: Any, page: Path) -> None:
    visit(driver, page)
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
def test_the_plot_is_drawn_in_the_page_s_colours(driver: Any, page: Path, scheme: str) -> None:
    visit(driver, page, scheme=scheme)
    time.sleep(0.3)
    image = driver.find_element("id", "plot-1").screenshot_as_base64
    light, colours = driver.execute_async_script(LOOK, image)
    assert light > 0.85 if scheme == "light" else light < 0.25
    assert colours > 100


def test_a_change_of_scheme_is_followed_at_once(driver: Any, page: Path) -> None:
    visit(driver, page)
    ink = "return document.getElementById('plot-1').layout.font.color"
    light = driver.execute_script(ink)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    wait(lambda: driver.execute_script(ink) != light)


def test_a_phone_scrolls_tables_in_their_box_and_never_the_page(driver: Any, page: Path) -> None:
    visit(driver, page, width=390)
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


def test_a_name_that_is_an_attack_is_shown_as_text(driver: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, budgets=(ATTACK, "flops"))
    visit(driver, write_report(run, tmp_path / "r.html"))
    point(driver, 1, 0)
    assert f"yoco {ATTACK}" in hovered(driver)
    assert driver.title == "raycomp: both-1a2b3c4d"
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_a_study_s_tables_stand_first_and_scroll_in_their_box(driver: Any, tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    finish_run(next((folder / "runs").iterdir()))
    page = write_report([folder], tmp_path / "study.html")
    driver.get_log("browser")
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())  # its first plot lies below the tables, and is drawn when it is seen
    wait(lambda: driver.execute_script("return document.readyState === 'complete'"))
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
