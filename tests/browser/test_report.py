"""The page in a real browser: nothing overflows, nothing is asked for, nothing complains."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "report"))
from report_synthetic import FULL, experiment

from sluicegate.report import report_audit, report_experiment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)")

PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const frame = document.querySelector("iframe"), page = frame.contentDocument, wide = [];
  const inside = (element) => element.closest(".wide, pre") !== null;
  for (const element of page.querySelectorAll("main *"))
    if (!inside(element) && element.getBoundingClientRect().right > frame.clientWidth + 1)
      wide.push(element.tagName + "." + (element.getAttribute("class") || ""));
  const names = [...page.querySelectorAll(".picture")].flatMap((picture) => {
    const boxes = [...picture.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([a, r], i) => boxes.slice(i + 1).filter(([, s]) =>
      Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1 && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 3
    ).map(([b]) => a + " over " + b));
  });
  document.title = JSON.stringify({
    scroll: page.documentElement.scrollWidth, wide: wide.slice(0, 5), names, ink: getComputedStyle(page.body).color,
    text: getComputedStyle(page.querySelector(".picture text")).fill, asked: performance.getEntriesByType("resource")
      .concat(frame.contentWindow.performance.getEntriesByType("resource")).map((e) => e.name).filter((n) => n.startsWith("http")),
  });
}, 300));
</script>
"""


def opened(page: Path, width: int, tmp_path: Path, *, dark: bool = False):
    """Open `page` in a frame of `width` pixels: a headless window is never as narrow as a phone. Findings and complaints."""

    frame = tmp_path / f"frame-{width}.html"
    inner = f'<iframe src="{page.name}" style="width:{width}px;height:3000px;border:0"></iframe>'
    frame.write_text(f'<meta charset="utf-8"><body style="margin:0">{inner}{PROBE}')
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={max(width, 500)},3000",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stdout[:2000] + done.stderr[-2000:]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title.group(1))), complaints


@pytest.fixture
def page(tmp_path):
    arms = FULL | {"a_rather_long_name_of_an_arm": {"verb": "unlearn", "method": "maxent", "model": "@base"}}
    return report_experiment(experiment(arms, title="A title long enough to need a second line on a phone"), tmp_path / "report.html")


@pytest.mark.parametrize("width", [360, 400, 1200])
def test_nothing_overflows_overlaps_or_complains(page, tmp_path, width):
    found, complaints = opened(page, width, tmp_path)
    assert complaints == []
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["names"] == []
    assert found["asked"] == []


def test_names_of_points_in_one_place_do_not_cover_each_other(tmp_path):
    more = {f"a_rather_long_name_of_an_arm_{i}": {"verb": "unlearn", "method": "maxent", "model": "@base"} for i in range(8)}
    found, _ = opened(report_experiment(experiment(FULL | more, seeds=(0,)), tmp_path / "many.html"), 400, tmp_path)
    assert (found["names"], found["wide"]) == ([], [])


def test_pictures_take_the_colour_of_the_page_in_light_and_dark(page, tmp_path):
    light, dark = (opened(page, 1200, tmp_path, dark=dark)[0] for dark in (False, True))
    assert light["text"] == light["ink"]
    assert dark["text"] == dark["ink"]
    assert light["ink"] != dark["ink"]


def test_the_audit_page_fits_a_phone(tmp_path):
    outcome = experiment()
    path = report_audit(
        "a/rather/long/path/to/some/model-of-somebody-else",
        outcome.arms["maxent"],
        outcome.arms["gold"],
        ["V."],
        ["w"],
        tmp_path / "a.html",
    )
    found, complaints = opened(path, 400, tmp_path)
    assert (complaints, found["wide"], found["names"]) == ([], [], [])
    assert found["scroll"] <= 400
