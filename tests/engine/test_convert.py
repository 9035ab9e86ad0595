import gzip
import importlib.util
import io
import os
import pickle

import numpy
import pytest

from mnist_synthetic import digits
from sluicegate.engine import convert as convert_module
from sluicegate.errors import UserError


@pytest.fixture
def convert(tmp_path):
    """Convert an archive with this payload, and return the path of the result."""

    def run(payload, report=lambda *_: None):
        (tmp_path / "data.pkl.gz").write_bytes(gzip.compress(payload))
        with zip_like(tmp_path / "data.pkl.gz") as source:
            convert_module.digits_from_pickle(source, tmp_path / "mnist.npz", report)
        return tmp_path / "mnist.npz"

    return run


def zip_like(path):
    """An open file with the name of a member, as `zipfile` gives it: without its folder on this disk."""
    file = io.BytesIO(path.read_bytes())
    file.name = path.name
    return file


# ------------------------------------------------------------------------------------------- digits


def test_the_digits_are_exact_and_validation_is_joined_to_train(convert):
    (x0, y0), (x1, y1), (x2, y2) = digits()
    with numpy.load(convert(pickle.dumps(digits(), protocol=4)), allow_pickle=False) as data:
        assert sorted(data) == ["x_test", "x_train", "y_test", "y_train"]
        assert all(data[key].dtype == numpy.uint8 for key in data)
        assert data["x_train"].shape == (7, 28, 28)
        assert numpy.array_equal(data["x_train"].reshape(7, 784), numpy.concatenate([x0, x1]) * 256)
        assert numpy.array_equal(data["y_train"], numpy.concatenate([y0, y1]))
        assert numpy.array_equal(data["x_test"].reshape(3, 784), x2 * 256)
        assert numpy.array_equal(data["y_test"], y2)


def test_an_archive_pickled_by_python_2_is_read(convert):
    # Protocol 2 as Python 2 wrote it: contents as a string of bytes, under numpy's old private name.
    def array(values, code, shape):
        state = values.tobytes()
        text = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        text += b"(" + b"".join(b"M" + n.to_bytes(2, "little") for n in shape) + b"t"
        text += b"cnumpy\ndtype\nU\x02" + code + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return text + b"\x89T" + len(state).to_bytes(4, "little") + state + b"tb"

    pairs = [array(x, b"f4", x.shape) + array(y, b"i8", y.shape) + b"\x86" for x, y in digits()]
    path = convert(b"\x80\x02" + b"".join(pairs) + b"\x87.")
    with numpy.load(path, allow_pickle=False) as data:
        assert numpy.array_equal(data["x_test"].reshape(3, 784), digits()[2][0] * 256)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", range(5))
def test_a_malicious_pickle_is_refused_and_not_run(convert, tmp_path, protocol):
    payload = pickle.dumps((Malicious(tmp_path / "was-run"), digits()), protocol=protocol)
    with pytest.raises(UserError, match=r"asks for .*system.*None of it was run"):
        convert(payload)
    assert list(tmp_path.iterdir()) == [tmp_path / "data.pkl.gz"]
    pickle.loads(payload)
    assert (tmp_path / "was-run").exists(), "the pickle was harmless, so the test proved nothing"


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile", "codecs.encode"])
def test_only_arrays_can_be_named(name):
    where, what = name.rsplit(".", 1)
    with pytest.raises(UserError, match=f"asks for {name}"):
        convert_module._ArraysOnly(io.BytesIO(f"c{where}\n{what}\n.".encode())).load()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not a pickle",
        pickle.dumps(3),
        pickle.dumps((1, 2, 3)),
        pickle.dumps(digits()[:2], protocol=4),
        pickle.dumps(((numpy.full((1, 784), 0.3), numpy.zeros(1, int)),) * 3, protocol=4),
        pickle.dumps(((numpy.zeros((2, 784)), numpy.zeros(1, int)),) * 3, protocol=4),
        pickle.dumps(((numpy.zeros((1, 783)), numpy.zeros(1, int)),) * 3, protocol=4),
    ],
    ids=["empty", "garbage", "a number", "numbers", "two sets", "fractions", "labels missing", "another size"],
)
def test_an_archive_of_something_else_is_a_clear_error(convert, tmp_path, payload):
    with pytest.raises(UserError, match=r"^data\.pkl\.gz does not hold digits as expected"):
        convert(payload)
    assert list(tmp_path.iterdir()) == [tmp_path / "data.pkl.gz"]


def test_what_is_not_compressed_is_a_clear_error(tmp_path):
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(digits(), protocol=4))
    with zip_like(tmp_path / "data.pkl") as source, pytest.raises(UserError, match=r"^data\.pkl does not hold digits as expected"):
        convert_module.digits_from_pickle(source, tmp_path / "mnist.npz", lambda *_: None)


# -------------------------------------------------------------------------------------------- a model


@pytest.mark.parametrize("package", ["accelerate", "gguf"])
def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(UserError, match=f"pip install {package}"):
        convert_module.folder_from_gguf(io.BytesIO(b""), tmp_path, lambda *_: None)
    assert list(tmp_path.iterdir()) == []
