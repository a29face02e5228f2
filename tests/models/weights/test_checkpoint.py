import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seedvr2_ray.errors import DeploymentError
from seedvr2_ray.models.weights.checkpoint import build_from_checkpoint, read_checkpoint, read_embedding, require_dtype

CPU = torch.device("cpu")


def _build():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in _build().state_dict().items()}


def _save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def _load(path, dtype_of=lambda name: torch.float32):
    return build_from_checkpoint(_build, path, device=CPU, dtype_of=dtype_of)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_checkpoints_of_every_kind_and_type_load(tmp_path, state, suffix, dtype):
    stored = {name: tensor.to(dtype) for name, tensor in state.items()}
    module = _load(_save(stored, tmp_path / f"w{suffix}"))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, stored[name].to(torch.float32))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_every_parameter_gets_the_type_asked_for_it(tmp_path, state):
    path = _save(state, tmp_path / "w.safetensors")
    module = _load(path, lambda name: torch.float32 if name.startswith("1.") else torch.bfloat16)
    assert module[0].weight.dtype == torch.bfloat16
    assert module[1].weight.dtype == torch.float32


def test_a_loaded_network_does_not_need_its_file_any_more(tmp_path, state):
    path = _save(state, tmp_path / "w.pth")
    module = _load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(module[0].weight, state["0.weight"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_truncated_checkpoint_is_one_clear_error(tmp_path, state, suffix, keep):
    state["0.weight"] = torch.randn(4, 3)
    path = _save(state, tmp_path / f"w{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DeploymentError, match="truncated or no checkpoint"):
        _load(path)


def test_the_checkpoint_of_another_model_is_told_by_names_and_shapes(tmp_path, state):
    state["0.weight"] = torch.zeros(4, 5)
    state["extra"] = state.pop("1.bias")
    with pytest.raises(DeploymentError) as caught:
        _load(_save(state, tmp_path / "w.safetensors"))
    message = str(caught.value)
    for part in ("missing (1.bias)", "unknown (extra)", "0.weight is [4, 5] instead of [4, 3]"):
        assert part in message


def test_a_missing_checkpoint_is_one_clear_error(tmp_path):
    for name in ("no.pth", "no.safetensors"):
        with pytest.raises(DeploymentError, match="does not exist"):
            _load(tmp_path / name)


class _Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_could_run_code_is_not_opened(tmp_path, capsys):
    path = tmp_path / "w.pth"
    torch.save({"0.weight": _Payload()}, path)
    with pytest.raises(DeploymentError, match="could run code"):
        _load(path)
    path.write_bytes(pickle.dumps(_Payload(), protocol=2))
    with pytest.raises(DeploymentError):
        _load(path)
    assert capsys.readouterr().out == ""


def test_something_else_than_names_and_tensors_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(DeploymentError, match="found a list"):
        _load(tmp_path / "w.pth")


def test_an_eight_bit_checkpoint_is_refused_with_the_way_out(tmp_path, state):
    state["0.weight"] = state["0.weight"].to(torch.float8_e4m3fn)
    with pytest.raises(DeploymentError, match=r"float8_e4m3fn; use the float16"):
        _load(_save(state, tmp_path / "w.safetensors"))


@pytest.mark.parametrize("name", ["w.gguf", "w.pth", "w.safetensors"])
def test_a_gguf_file_is_refused_with_the_way_out_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF" + bytes(range(64)))
    with pytest.raises(DeploymentError, match="GGUF file.*use the float16"):
        _load(tmp_path / name)


def test_stored_frequencies_are_ignored(tmp_path, state):
    state["blocks.0.attn.rope.rope.freqs"] = torch.full((10,), torch.nan)
    assert set(read_checkpoint(_save(state, tmp_path / "w.safetensors"))) == set(_build().state_dict())
    _load(tmp_path / "w.safetensors")


def test_old_names_of_attention_parameters_are_understood(tmp_path):
    old = {f"mid_block.attentions.0.{name}.weight": torch.zeros(1) for name in ("query", "proj_attn")}
    stored = read_checkpoint(_save(old, tmp_path / "w.pth"))
    assert set(stored) == {"mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.to_out.0.weight"}


def test_embeddings_are_read_from_either_kind_of_file(tmp_path):
    embedding = torch.randn(5, 8).to(torch.bfloat16)
    torch.save(embedding, tmp_path / "pos.pt")
    save_file({"negative": embedding, "positive": embedding + 1}, tmp_path / "both.safetensors")
    assert torch.equal(read_embedding(tmp_path / "pos.pt", "positive", 8), embedding.float())
    assert torch.equal(read_embedding(tmp_path / "both.safetensors", "positive", 8), (embedding + 1).float())


@pytest.mark.parametrize("content", [torch.zeros(5, 7), {"a": torch.zeros(5, 8)}, torch.zeros(8)])
def test_an_embedding_of_another_shape_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pos.pt")
    with pytest.raises(DeploymentError, match=r"positive text embedding, \[tokens, 8\]"):
        read_embedding(tmp_path / "pos.pt", "positive", 8)


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [("cpu", torch.float16, "overflows"), ("cpu", torch.float64, "bfloat16, float16 or float32")],
)
def test_a_type_the_device_lacks_is_refused(device, dtype, words):
    with pytest.raises(DeploymentError, match=words):
        require_dtype(torch.device(device), dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_cuda_device_is_one_clear_error():
    with pytest.raises(DeploymentError, match="no CUDA device"):
        require_dtype(torch.device("cuda"), torch.bfloat16)
