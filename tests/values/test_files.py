"""What is wrong with a user's file becomes one line that names it."""

import os

import pytest

from sluicegate.errors import UserError
from sluicegate.values.files import check_readable, read_json, read_text, read_toml, reading, short

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("read", "content", "said"),
    [
        (read_text, b"\xff\xfea", "byte 0 is not UTF-8. Save it as UTF-8"),
        (read_json, b"{", "not JSON .Expecting property name enclosed in double quotes at line 1, column 2"),
        (read_json, b"[1]", "it holds '.1.' where an object"),
        (read_json, DEEP, "nested too deeply"),
        (read_json, b"\xff", "not UTF-8"),
        (read_toml, b"a = [", "not valid TOML"),
        (read_toml, b"a = " + DEEP, "nested too deeply"),
        (read_toml, b"\xff", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, read, content, said):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sound_files_are_read(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf" + "é".encode())
    assert read_text(tmp_path / "x") == "é"


def test_only_plain_files_up_to_a_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"12345")
    said_of = dict.fromkeys(("pipe", "zeros", "."), "is no ordinary file")
    for name, said in {**said_of, "loop": "Too many levels", "none": "No such file"}.items():
        with pytest.raises(UserError, match=said):
            check_readable(tmp_path / name)
    with pytest.raises(UserError, match="large: 5 bytes; at most 4 are read"):
        check_readable(tmp_path / "large", 4)
    with pytest.raises(UserError, match="no file"):
        check_readable(tmp_path / ("é" * 300))
    assert check_readable(tmp_path / "large", 5) == tmp_path / "large"


def test_an_error_of_ours_that_is_one_already_passes_and_an_interrupt_too():
    with pytest.raises(UserError, match=r"^own$"), reading("file"):
        raise UserError("own")
    with pytest.raises(KeyboardInterrupt), reading("file"):
        raise KeyboardInterrupt


def test_long_values_are_cut_in_their_middle():
    assert short("a" * 30 + "b" * 60) == repr("a" * 30 + "…" + "b" * 29)
