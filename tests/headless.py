"""Open a page in headless Chromium and say what a person would stumble over."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)")

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
    """Open `page` in a frame of `width` pixels: a headless window is never as narrow as a phone. Findings and
    complaints."""

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
