"""Files of steering vectors: what is saved comes back, other programs' forms are read, and bad files are named."""

import types

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sluicegate.errors import UserError
from sluicegate.steering.io import (
    find,
    from_layers,
    load,
    load_set,
    load_vector,
    read_gguf,
    read_layers,
    save,
    write_gguf,
)
from sluicegate.steering.vector import SteeringSet, SteeringVector

MADE = {"model": "tiny", "model_type": "llama", "method": "MeanDiff", "positive": ["Write \N{SNOWMAN}"], "seed": 3}


def vector(layer=10, width=6, seed=0):
    values = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(values, module=f"model.layers.{layer}", tokens="not_first", made_from=MADE)


def several(k=4, width=6):
    values = torch.randn(k, width, generator=torch.Generator().manual_seed(1))
    return SteeringSet(values, module="model.layers.10", tokens="all", made_from=MADE)


def same(a, b):
    return torch.equal(a.values, b.values) and (a.module, a.tokens, dict(a.made_from)) == (b.module, b.tokens, dict(b.made_from))


def control_vector(path, directions, *, arch="controlvector", hint="llama", dtype=np.float32):
    """A file as repeng writes it: model_hint, layer_count, one tensor a layer."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string(f"{arch}.model_hint", hint)
    writer.add_uint32(f"{arch}.layer_count", len(directions))
    for name, values in directions.items():
        writer.add_tensor(name, np.asarray(values, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("make", [vector, several])
def test_what_is_saved_comes_back_with_what_it_was_made_from(tmp_path, make):
    made = make()
    path = save(made, tmp_path / "sub" / "v.safetensors")
    again = load(path)
    assert type(again) is type(made)
    assert same(again, made)
    assert [p.name for p in path.parent.iterdir()] == ["v.safetensors"]  # nothing half-written is left


def test_equal_vectors_are_equal_files(tmp_path):
    """Safetensors alone writes the notes in a random order: twelve times the same by chance is one in 10^24."""
    assert len({save(vector(), tmp_path / f"{n}.safetensors").read_bytes() for n in range(12)}) == 1
    assert same(load(tmp_path / "11.safetensors"), vector())


def test_a_run_folder_stands_for_the_file_in_it(tmp_path):
    save(several(), tmp_path / "vectors.safetensors")
    save(vector(), tmp_path / "vector.safetensors")
    assert find(tmp_path).name == "vectors.safetensors"
    assert same(load_vector(tmp_path), vector())
    assert torch.equal(load_vector(tmp_path, 1).values, several().values[1])
    (tmp_path / "vectors.safetensors").unlink()
    assert same(load(tmp_path), vector())


def test_one_of_a_set_and_a_set_of_one(tmp_path):
    save(several(), tmp_path / "s.safetensors")
    save(vector(), tmp_path / "v.safetensors")
    assert torch.equal(load_vector(tmp_path / "s.safetensors", 2).values, several().values[2])
    assert same(load_vector(tmp_path / "v.safetensors"), vector())
    assert load_set(tmp_path / "v.safetensors").values.shape == (1, 6)
    for index, says in ((None, "holds 4 vectors. Say which"), (4, "no vector 4: it holds 4, numbers 0 to 3"), (-1, "no vector -1")):
        with pytest.raises(UserError, match=says):
            load_vector(tmp_path / "s.safetensors", index)
    with pytest.raises(UserError, match="holds a single vector"):
        load_vector(tmp_path / "v.safetensors", 1)


def test_a_control_vector_is_what_llama_cpp_reads_and_comes_back(tmp_path):
    path = save(vector(), tmp_path / "v.gguf")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 1
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, list(tensor.shape)) == ("direction.10", "F32", [6])
    np.testing.assert_array_equal(tensor.data, vector().values.numpy())
    assert same(load(path), vector())


def test_several_layers_of_a_control_vector(tmp_path):
    path = write_gguf([vector(12, seed=2), vector(3)], tmp_path / "v.gguf", model_hint="qwen2")
    found = read_gguf(path)
    assert list(found) == [3, 12]
    assert same(found[3], vector(3))
    assert gguf.GGUFReader(path).fields["controlvector.model_hint"].contents() == "qwen2"
    with pytest.raises(UserError, match=r"vectors for 2 layers \(3, 12\)"):
        load(path)
    assert same(load_vector(path, 3), vector(3))
    with pytest.raises(UserError, match=r"no vector for layer 4. There are: 3, 12"):
        load_vector(path, 4)


def test_a_control_vector_of_repengs(tmp_path):
    directions = {f"direction.{n}": np.arange(4) + n for n in (5, 1)}
    found = read_gguf(control_vector(tmp_path / "r.gguf", directions))
    assert {n: v.module for n, v in found.items()} == {1: "model.layers.1", 5: "model.layers.5"}
    assert found[5].values.tolist() == [5, 6, 7, 8]
    assert found[5].tokens == "all"
    assert found[5].made_from["imported"] == "r.gguf"
    halves = control_vector(tmp_path / "h.gguf", directions, hint="gpt2", dtype=np.float16)
    assert read_gguf(halves)[1].module == "transformer.h.1"
    assert read_gguf(halves)[1].values.dtype == torch.float32
    assert read_gguf(halves, stem="blocks")[1].module == "blocks.1"


def test_a_control_vector_with_another_programs_tensors_and_notes(tmp_path):
    path = control_vector(tmp_path / "r.gguf", {"direction.2": np.ones(3), "scale": np.ones(1)})
    assert list(read_gguf(path)) == [2]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: control_vector(p, {"direction.1": np.ones(3)}, arch="llama"), "its architecture is 'llama', expected 'controlvector'"),
        (lambda p: control_vector(p, {"direction.one": np.ones(3)}), "'direction.one' names no layer"),
        (lambda p: control_vector(p, {"direction.1": np.ones((2, 3))}), "2 dimension"),
        (lambda p: control_vector(p, {"direction.1": np.ones(3), "direction.2": np.ones(4)}), "layer 1: 3, layer 2: 4"),
        (lambda p: control_vector(p, {"direction.1": [1.0, np.nan]}), "NaN or infinity"),
        (lambda p: control_vector(p, {"scale": np.ones(3)}), "holds no direction.N"),
        (lambda p: p.write_bytes(b"GGUF" + b"\xff" * 60), "no readable GGUF file"),
        (lambda p: p.write_bytes(b""), "no readable GGUF file"),
        (lambda p: p.write_bytes(save(vector(), p).read_bytes()[:150]), "no readable GGUF file"),
    ],
)
def test_bad_control_vectors_are_named(tmp_path, make, says):
    make(tmp_path / "v.gguf")
    with pytest.raises(UserError, match=says):
        read_gguf(tmp_path / "v.gguf")


def test_what_no_control_vector_can_hold(tmp_path):
    with pytest.raises(UserError, match=r"begins with direction\.1"):
        save(vector(0), tmp_path / "v.gguf")
    with pytest.raises(UserError, match="this is a set of 4"):
        save(several(), tmp_path / "v.gguf")
    with pytest.raises(UserError, match="two vectors are for layer 10"):
        write_gguf([vector(), vector()], tmp_path / "v.gguf")
    with pytest.raises(UserError, match=r"the vector is for 'model.layers.10.mlp'"):
        write_gguf([SteeringVector(torch.ones(3), module="model.layers.10.mlp", tokens="all", made_from={})], tmp_path / "v.gguf")
    with pytest.raises(UserError, match="no vector to write"):
        write_gguf([], tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_steering_vectors_form():
    theirs = types.SimpleNamespace(layer_activations={3: torch.ones(1, 4), 1: torch.zeros(4)}, layer_type="mlp")
    found = from_layers(theirs)
    assert [(n, v.module) for n, v in found.items()] == [(1, "model.layers.1.mlp"), (3, "model.layers.3.mlp")]
    assert found[3].values.tolist() == [1, 1, 1, 1]


def test_repengs_form_in_memory():
    theirs = types.SimpleNamespace(model_type="gpt_neox", directions={2: np.ones(4, np.float32)})
    assert from_layers(theirs)[2].module == "gpt_neox.layers.2"


def test_a_mapping_of_layers_as_safetensors(tmp_path):
    save_file({"layer_activations.7": torch.ones(4), "2": torch.zeros(4)}, tmp_path / "v.safetensors", metadata={"layer_type": "self_attn"})
    found = read_layers(tmp_path / "v.safetensors")
    assert [v.module for v in found.values()] == ["model.layers.2.self_attn", "model.layers.7.self_attn"]
    with pytest.raises(UserError, match="names no module: read it with"):
        load(tmp_path / "v.safetensors")
    save_file({"weight": torch.ones(4)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="'weight' names no layer"):
        read_layers(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "expected a mapping"),
        (3, "expected a mapping"),
        ({"one": torch.ones(3)}, "'one' is no layer"),
        ({-1: torch.ones(3)}, "-1 is no layer"),
        ({1: torch.ones(2, 3)}, r"the shape \[2, 3\]"),
        ({1: torch.ones(3), 2: torch.ones(4)}, "different widths"),
        ({1: torch.tensor([1.0, float("inf")])}, "NaN or infinity"),
        (types.SimpleNamespace(layer_activations={1: torch.ones(3)}, layer_type="logits"), "unknown layer type 'logits'"),
    ],
)
def test_bad_mappings_are_named(source, says):
    with pytest.raises(UserError, match=says):
        from_layers(source)


def _with_metadata(path, values, **changes):
    own = {"format": "sluicegate-steering-1", "kind": "vector", "module": "m", "tokens": "all", "made_from": "{}"} | changes
    save_file({"values": values}, path, metadata={k: v for k, v in own.items() if v is not None})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.write_bytes(b"nonsense"), "no readable safetensors file"),
        (lambda p: save_file({"weight": torch.ones(3)}, p), "no steering vector of ours .*tensors weight"),
        (lambda p: _with_metadata(p, torch.ones(3), kind="set"), "is damaged: kind 'set'"),
        (lambda p: _with_metadata(p, torch.ones(3), kind="tree"), "is damaged: kind 'tree'"),
        (lambda p: _with_metadata(p, torch.ones(3), module=None), "no 'module' in it"),
        (lambda p: _with_metadata(p, torch.ones(3), made_from="["), "its metadata must hold module, tokens and made_from"),
        (lambda p: _with_metadata(p, torch.ones(3), made_from="3"), "its metadata must hold module, tokens and made_from"),
        (lambda p: _with_metadata(p, torch.tensor([1.0, float("nan")])), "NaN or infinity"),
        (lambda p: _with_metadata(p, torch.ones(3, dtype=torch.int64)), "expected floating-point numbers"),
    ],
)
def test_damaged_files_are_named(tmp_path, make, says):
    make(tmp_path / "v.safetensors")
    with pytest.raises(UserError, match=says):
        load(tmp_path / "v.safetensors")


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    for name in ("v.pt", "v.pkl", "v.bin"):
        torch.save(Bomb(), tmp_path / name)
        for read in (load, read_layers):
            with pytest.raises(UserError, match="is a pickle, which can run code"):
                read(tmp_path / name)


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="no steering vector"):
        load(tmp_path / "lost.safetensors")
    with pytest.raises(UserError, match="holds no steering vector"):
        load(tmp_path)
    (tmp_path / "v.txt").write_text("1 2 3")
    with pytest.raises(UserError, match=r"the ending is '.txt'"):
        load(tmp_path / "v.txt")
    with pytest.raises(UserError, match=r"the ending is '.npz'"):
        save(vector(), tmp_path / "v.npz")
    broken = vector()
    broken.values[0] = float("inf")
    with pytest.raises(UserError, match="NaN or infinity"):
        save(broken, tmp_path / "v.safetensors")
