"""Run folders that were altered: each is refused in one line, or gives what it would have given."""

import json
import random
import shutil

import pytest
from safetensors.torch import load_file, save_file

from sluicegate.errors import UserError
from sluicegate.execution.execute import execute, identity
from sluicegate.runs.directory import check_finished, open_run, read_index, result_of
from sluicegate.runs.stage import from_config
from tiny_stages import material, settings_of_verbs


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The settings of a small stage, a folder of it that was stopped, a finished one, and what that holds."""
    place = tmp_path_factory.mktemp("runs")
    settings = settings_of_verbs(material(place / "material"))["train"]

    def stop(title, step, total, numbers):
        if step == 4:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUICEGATE_KEEP_SECONDS", "0")
        with pytest.raises(Stop):
            execute(from_config(settings), place / "begun", exact=True, progress=stop)
        execute(from_config(settings), place / "done", exact=True)
    return settings, {"begun": place / "begun", "done": place / "done"}, content(place / "done")


def content(folder):
    """What a finished run has to show: all but who held it, how long it took and where, and DONE."""
    apart = ("lock", "seconds.json", "env.json", "DONE")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in apart}


def altered(folder, draw):
    """Alter one file of a run at random; returns which, and how."""
    file = draw.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("lock", "seconds.json")))
    data = bytearray(file.read_bytes())
    how = draw.choice(["bit", "cut", "empty", "gone", "zeros", "double", "stranger", "key", "folder", "link"])
    if how == "bit" and data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "cut":
        data = data[: draw.randrange(len(data) + 1)]
    elif how == "zeros":
        at = draw.randrange(len(data) + 1)
        data[at:] = bytes(len(data) - at)
    elif how == "double":
        data = data + data
    elif how == "empty":
        data.clear()
    elif how == "stranger":
        data = bytearray(draw.choice([b"[]", b"{}", b"null", b"\xff\xfe", b"dear diary", b'{"hash": 3, "format": 1}', b"[" * 9999]))
    elif how == "key":
        try:
            table = json.loads(data)
            table.pop(draw.choice(sorted(table)))
            data = bytearray(json.dumps(table).encode())
        except (ValueError, AttributeError, IndexError):
            data.reverse()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "link":
        file.symlink_to("/dev/zero")
    elif how != "gone":
        file.write_bytes(data)
    return f"{file.relative_to(folder)}: {how}"


def answers(runs, place, seed):
    """What comes of a run that was altered: "refused" or "equal"; an `AssertionError` for anything else."""
    settings, folders, wanted = runs
    draw = random.Random(seed)
    which = draw.choice(["begun", "done"])
    folder = place / f"{which}-{seed}"
    shutil.copytree(folders[which], folder)
    what = altered(folder, draw)
    try:
        execute(from_config(settings), folder, exact=True)
        result_of(folder)
        identity(from_config({"verb": "score", "model": str(folder), "forget": settings["forget"], "retain": settings["retain"]}))
    except UserError as error:
        told = str(error)
    else:
        told = ""
    if told:
        assert "\n" not in told, what
        assert str(folder) in told, what
        return "refused"
    assert content(folder) == wanted, f"{which}, {what}: taken as it was"
    assert not (folder / "state").exists(), what
    return "equal"


@pytest.mark.parametrize("seed", range(40))
def test_an_altered_run_is_refused_or_gives_the_same(runs, tmp_path, seed):
    answers(runs, tmp_path, seed)


def begun(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[1]["begun"], folder)
    return folder


def refused(runs, folder, told):
    with pytest.raises(UserError, match=told):
        execute(from_config(runs[0]), folder, exact=True)
    assert not (folder / "DONE").exists()
    assert (folder / "state" / "index.json").exists()


def test_a_log_that_is_shorter_than_its_resume_point_is_not_filled_with_nothing(runs, tmp_path):
    folder = begun(runs, tmp_path)
    file = folder / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:10])
    refused(runs, folder, r"metrics\.jsonl' is damaged .*runs rm")


def test_a_resume_point_with_another_weight_is_refused(runs, tmp_path):
    folder = begun(runs, tmp_path)
    (file,) = (folder / "state").glob("*.safetensors")
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file({name: t.clone() for name, t in tensors.items()}, file)
    refused(runs, folder, r"safetensors' is damaged")


def test_a_resume_point_of_an_earlier_version_has_no_sums_and_is_taken(runs, tmp_path):
    folder = begun(runs, tmp_path)
    file = folder / "state" / "index.json"
    index = read_index(file)
    del index["logged"]
    part = index["parts"]["train"]
    [(part["tensors"], _)] = part.pop("files")
    file.write_text(json.dumps(index))
    execute(from_config(runs[0]), folder, exact=True)
    assert content(folder) == runs[2]
    assert "sum" not in index


def test_what_links_lead_to_is_left_alone(runs, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("all my work")
    folder = begun(runs, tmp_path)
    shutil.rmtree(folder / "state")
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(UserError, match=r"metrics\.jsonl' is damaged.*link"):
        execute(from_config(runs[0]), folder, exact=True)
    assert precious.read_text() == "all my work"


def test_large_files_are_read_where_they_are_used(runs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(runs[1]["done"], folder)
    monkeypatch.setattr("sluicegate.runs.directory.SMALL", 10_000)
    file = folder / "model" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    check_finished(folder)
    with pytest.raises(UserError, match=r"model\.safetensors' is damaged"):
        identity(from_config({"verb": "score", "model": str(folder), "forget": runs[0]["forget"], "retain": runs[0]["retain"]}))
    file.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors' is damaged"):
        check_finished(folder)


def test_what_is_added_to_a_finished_model_is_named(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[1]["done"], folder)
    (folder / "report.html").write_text("a page")
    check_finished(folder)
    (folder / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config\.json' is damaged.*added"):
        check_finished(folder)


def test_all_files_are_as_readable_as_the_umask_says(runs):
    modes = {p.name: p.stat().st_mode & 0o777 for p in runs[1]["done"].rglob("*") if p.is_file()}
    assert set(modes.values()) == {modes["config.toml"]}


def test_what_a_process_left_that_was_killed_right_after_done_is_removed(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[1]["done"], folder)
    shutil.copytree(runs[1]["begun"] / "state", folder / "state")
    for name in (".seconds.json.4711", ".vector.safetensors.4711"):
        (folder / name).write_text("{")
    execute(from_config(runs[0]), folder, exact=True)
    assert not (folder / "state").exists()
    assert not list(folder.glob(".*"))


def test_a_resumed_process_does_not_map_the_file_it_resumed_from(runs, tmp_path):
    folder = begun(runs, tmp_path)
    own, parents = identity(from_config(runs[0]))
    with open_run(folder, digest=own, config={}, parents=parents, environment={}, title="t") as run:
        kept = run.load_checkpoint("train")
        assert kept is not None
        with open("/proc/self/maps", encoding="utf-8") as maps:
            assert str(folder) not in maps.read()
