"""Open an autoencoder's page in headless Chromium, do to it what a script says, and bring back what the script
returns."""

import html
import json
import re
import subprocess
from pathlib import Path

from headless import CHROMIUM

_AROUND = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="{name}" style="width:{width}px;height:{height}px;border:0"></iframe>
<script>
addEventListener("load", async () => {{
  const frame = document.querySelector("iframe"), window_ = frame.contentWindow, page = frame.contentDocument;
  const said = [];
  window_.addEventListener("error", (event) => said.push(event.message));
  const $ = (id) => page.getElementById(id), S = window_.sluicegate, wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const pixels = (id) => [...S.drawnLast.get($(id))];
  const set = (input, value) => {{
    input.focus();
    input.value = value;
    input.dispatchEvent(new window_.Event("input", {{bubbles: true}}));
  }};
  const key = (element, key, more = {{}}) => {{
    for (const type of ["keydown", "keyup"])
      if (type !== more.without) element.dispatchEvent(new window_.KeyboardEvent(type, {{key, bubbles: true, cancelable: true, ...more}}));
  }};
  const draw = (strokes) => {{
    const pad = $("pad"), box = pad.getBoundingClientRect();
    $("clear").click();
    for (const stroke of strokes) {{
      const more = {{pointerId: 7, bubbles: true, button: 0}};
      const at = ([x, y]) => ({{clientX: box.left + x * box.width, clientY: box.top + y * box.height, ...more}});
      pad.dispatchEvent(new window_.PointerEvent("pointerdown", at(stroke[0])));
      for (const point of stroke.slice(1)) pad.dispatchEvent(new window_.PointerEvent("pointermove", {{...at(point), button: -1}}));
      pad.dispatchEvent(new window_.PointerEvent("pointerup", at(stroke.at(-1))));
    }}
  }};
  let found;
  try {{ found = await (async () => {{ {script} }})(); }} catch (error) {{ said.push(String(error.stack)); }}
  const entries = [performance, window_.performance].flatMap((p) => p.getEntriesByType("resource"));
  const asked = entries.map((entry) => entry.name).filter((name) => !name.startsWith("file:"));
  const result = document.createElement("script");
  result.type = "application/json";
  result.id = "found";
  result.textContent = JSON.stringify({{found, said, asked}}).replaceAll("<", "\\\\u003c");
  document.body.append(result);
}});
</script>"""


def play(
    page: Path, tmp_path: Path, script: str, *, width: int = 1200, height: int = 3200, dark: bool = False, moving: bool = False, flags=()
):
    """What `script`, the body of an async function, returns. Fails on an error, a complaint in the console or a
    request.

    It can use $(id), S (the page's own hooks), pixels(canvas id), set(input, value), key(element, name), draw(strokes),
    wait(ms). Motion is reduced unless `moving`.
    """
    around = page.parent / f"around-{page.stem}.html"
    around.write_text(_AROUND.format(name=page.name, width=width, height=height, script=script))
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
        f"--window-size={max(width, 500)},{height}",
        "--enable-logging=stderr",
        "--virtual-time-budget=20000",
        *(() if moving else ("--force-prefers-reduced-motion",)),
        *flags,
        "--dump-dom",
        around.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = re.search(r'id="found">(.*?)</script>', done.stdout, re.S)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert result, done.stdout[-1500:] + done.stderr[-2000:]
    answer = json.loads(html.unescape(result.group(1)))
    assert (answer["said"], answer["asked"], complaints) == ([], [], [])
    return answer["found"]
