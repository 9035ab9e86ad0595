import os
import signal
import subprocess
import sys
import time

import pytest

from sluicegate.errors import UserError
from sluicegate.runs.lock import Busy, held
from tiny_stages import SRC

HOLD = """
import sys, time
from pathlib import Path
from sluicegate.runs.lock import Busy, held
with held(Path(sys.argv[1]), "the well is in use", "Wait."):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def holder(path):
    """Another process, which holds the lock."""
    surroundings = os.environ | {"PYTHONPATH": str(SRC)}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, env=surroundings) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def take(path):
    return held(path, "the well is in use", "Draw water elsewhere.")


def free(path):
    try:
        with take(path):
            return True
    except UserError:
        return False


def test_a_second_process_is_told_at_once_who_holds_what_and_what_to_do(path, holder):
    started = time.monotonic()
    with pytest.raises(UserError) as caught, take(path):
        pass
    who = f"process {holder.pid} on {os.uname().nodename}"
    assert str(caught.value) == f"the well is in use by another process ({who}). Draw water elsewhere."
    assert time.monotonic() - started < 5
    assert path.read_text() == who, "who was refused must leave the holder's name"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_leaves_no_block(path, holder, number):
    assert not free(path)
    holder.send_signal(number)
    holder.wait()
    assert str(holder.pid) in path.read_text(), "the file was cleaned up, so the test proved nothing"
    with take(path):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"


@pytest.mark.parametrize("text", ["", "process 1 on elsewhere", "x" * 1000, b"\xff\xfe"])
def test_the_text_of_a_file_that_nobody_holds_means_nothing(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with take(path):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"


def test_it_holds_within_one_process_too(path):
    with take(path):
        assert not free(path)
    assert free(path)


def test_it_is_released_after_an_error(path):
    with pytest.raises(ZeroDivisionError), take(path):
        raise ZeroDivisionError
    assert free(path)


def test_a_holder_that_wrote_no_name_yet_is_unknown(path):
    with take(path):
        path.write_text("")
        with pytest.raises(UserError, match=r"by another process \(unknown\)"), take(path):
            pass


def test_a_program_that_the_holder_started_does_not_hold_it(path):
    command = [sys.executable, "-c", "import time; print('started', flush=True); time.sleep(60)"]
    with take(path):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, close_fds=False)
    with child:
        try:
            assert child.stdout.readline() == b"started\n"  # before that it may still be on its way from this program to that one
            assert free(path)
        finally:
            child.kill()


def test_two_locks_do_not_meet(path, holder):
    assert free(path.with_name("other"))


def test_a_group_that_shares_the_folder_shares_the_lock(path):
    before = os.umask(0o002)
    try:
        with take(path):
            assert path.stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


def test_a_link_is_not_followed_and_what_it_points_to_is_left_alone(path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    path.symlink_to(precious)
    with pytest.raises(UserError, match=r"the lock file .* is a link.*Remove it"), take(path):
        pass
    assert precious.read_text() == "kept"


def test_who_is_refused_does_not_empty_the_file(path, holder):
    before = path.read_text()
    assert not free(path)
    assert path.read_text() == before != ""


def test_what_another_wrote_into_the_lock_moves_no_cursor(path, holder):
    path.write_bytes(b"\x1b]0;title\x07\x1b[31mred")
    with pytest.raises(Busy) as told, take(path):
        pass
    assert "\\x1b[31mred" in str(told.value)
    assert "\x1b" not in str(told.value)
