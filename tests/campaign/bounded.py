"""Run one command in a child with bounds on its time and memory, and say how it ended."""

import contextlib
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = 4 * 2**30
"""Bytes of memory in use that no input may take."""
LONGEST = 40
"""Lines that an error may have; one is meant, and for a wrong option the ones nearest to it, with their help."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    kind: str
    """accepted, clear (refused, and said why), traceback, hang, memory, or broken (killed, silent, or without end)."""
    text: str
    """What it printed, both streams."""
    seconds: float


def load() -> None:
    """Import what the verbs import, so that every fork has it; one thread, since threads do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    import transformers.models.gpt_neox.modeling_gpt_neox
    import transformers.models.llama.modeling_llama  # noqa: F401

    import sluicegate.execution.execute
    import sluicegate.experiments.experiment
    import sluicegate.report.charts  # noqa: F401
    from sluicegate.app.verbs import verbs
    from sluicegate.runs.trial import trials

    verbs()
    trials()


def run(words: Sequence[str], place: Path, limit: float = 20.0, call: Callable[[], int] | None = None) -> Ended:
    """Run ``sluicegate WORDS``, or `call`, in a fork that stands in `place`; kill it after `limit` seconds."""
    said = place.parent / f"said-{place.name}.txt"
    said.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if not child:
        _answer(words, place, said, call)
    usage, status, killed = None, 0, False
    while usage is None:
        done, status, found = os.wait4(child, os.WNOHANG)
        if done:
            usage = found
        elif time.monotonic() > began + limit:
            killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
        else:
            time.sleep(0.004)
    text = said.read_bytes().decode(errors="replace")
    return Ended(_kind(status, killed, usage.ru_maxrss * 1024, text), text, time.monotonic() - began)


def _kind(status: int, killed: bool, memory: int, text: str) -> str:
    if memory > MEMORY:
        return "memory"
    if killed:
        return "hang"
    if os.WIFSIGNALED(status):
        return "broken"
    code = os.WEXITSTATUS(status)
    if code == 99 or "Traceback (most recent call last)" in text:
        return "traceback"
    if code == 0:
        return "accepted"
    told = [line for line in text.splitlines() if not re.match(r"\S+:\d+: ", line)]  # a list of findings is as long as it is
    return "clear" if code in (1, 2) and text.strip() and len(told) <= LONGEST else "broken"


def _answer(words: Sequence[str], place: Path, said: Path, call: Callable[[], int] | None) -> None:
    """The child's side: own session, own streams, bounds, then the command; never returns."""
    code = 99
    try:
        os.setsid()
        os.chdir(place)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for stream, target in ((0, nothing), (1, out), (2, out)):
            os.dup2(target, stream)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in ((0, "r"), (1, "w"), (2, "w")))
        sys.argv = ["sluicegate", *words]
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY + 2 * 2**30,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**30,) * 2)
        from sluicegate.app import main

        code = call() if call else main(list(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
