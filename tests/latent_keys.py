"""A headless Chromium that is spoken to while it runs, over the pipe of its DevTools protocol: for real keys."""

import base64
import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path

from headless import CHROMIUM

_CODES = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8, "Delete": 46}


class Chromium:
    """One page, opened at `width` x `height`; `press` sends keys as a keyboard does, `ask` returns the value of an
    expression."""

    def __init__(self, page: Path, profile: Path, width: int = 1200, height: int = 1000):
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
        command = [str(CHROMIUM), *flags, "--disable-component-update", "--force-prefers-reduced-motion", f"--user-data-dir={profile}"]
        command += ["--remote-debugging-pipe", f"--window-size={width},{height}", "about:blank"]
        shell = ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}']  # Chromium wants file descriptors 3 and 4
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*shell, *command], pass_fds=(theirs_in, theirs_out), **quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._read, self._said = ours_in, ours_out, b"", 0
        self.complaints: list[str] = []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Runtime.enable")
        self.call("Log.enable")
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.until("document.readyState === 'complete' && 'sluicegate' in window")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, RuntimeError):
            self._session = None
            self.call("Browser.close")
        os.close(self._out)
        os.close(self._in)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def call(self, method: str, **params):
        """Send one command and wait for its answer."""
        self._said += 1
        message = {"id": self._said, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                if not select.select([self._in], [], [], 60)[0]:
                    raise TimeoutError(method)
                got = os.read(self._in, 1 << 20)
                if not got:
                    raise RuntimeError(f"Chromium went away during {method}")
                self._read += got
            one, self._read = self._read.split(b"\0", 1)
            answer = json.loads(one)
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"])[:300])
            if answer.get("id") == self._said:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def ask(self, expression: str):
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60):
        """Wait until an expression is true in the page."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def press(self, *keys: str, shift: bool = False):
        """Press and let go of each key."""
        for key in keys:
            text = {"Enter": "\r", " ": " "}.get(key)
            common = {
                "key": key,
                "code": "Space" if key == " " else key,
                "windowsVirtualKeyCode": _CODES[key],
                "modifiers": 8 if shift else 0,
            }
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def tab_to(self, element: str, most: int = 80):
        """Press Tab until the element with this id, or an element within it, has the focus."""
        for _ in range(most):
            if self.ask(f"document.activeElement.closest('#{element}') !== null"):
                return
            self.press("Tab")
        raise AssertionError(f"no Tab leads to #{element}")

    def screenshot(self, path: Path):
        """What is in sight, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
