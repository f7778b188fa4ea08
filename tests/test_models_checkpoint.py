"""Where weights come from, what their certificate says, and that nothing half whole is loaded."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import published
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from assistants.echovlm import EchoVLMForConditionalGeneration
from models import checkpoint
from models.checkpoint import CheckpointError, certify, fingerprint, load_model, model_class_for, resolve
from models.registry import registry


def save_dense(folder: Path) -> Path:
    config = published.config()
    published.dense(config, published.weights(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("dense"))


@pytest.fixture
def echovlm(tmp_path):
    config = published.config()
    return published.save(tmp_path / "echovlm", config, published.weights(config))


@pytest.fixture
def hub(monkeypatch):
    """What Hugging Face was asked for, and a place to put its answer (a folder, or an exception)."""
    asked = {}

    def download(name, **options):
        asked.update(name=name, **options)
        if isinstance(asked["answer"], Exception):
            raise asked["answer"]
        return str(asked["answer"])

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    return asked


def damage(folder: Path, **changes) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)
    return folder


def test_a_folder_is_itself(dense, monkeypatch):
    assert resolve(dense) == dense
    assert resolve(str(dense)) == dense
    monkeypatch.chdir(dense.parent)
    assert resolve(dense.name).resolve() == dense
    monkeypatch.setattr(checkpoint, "REPOSITORY", dense.parent)
    monkeypatch.chdir("/")
    assert resolve(dense.name) == dense


@pytest.mark.parametrize(
    "weights, name, revision",
    [
        ("owner/name", "owner/name", None),
        ("own-er/na.me@v1.0", "own-er/na.me", "v1.0"),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
    ],
)
def test_an_id_is_downloaded_without_code_or_pickles(dense, hub, weights, name, revision):
    hub["answer"] = dense
    assert resolve(weights) == dense
    assert (hub["name"], hub["revision"]) == (name, revision)
    resolve(weights, revision="as said elsewhere")
    assert hub["revision"] == (revision or "as said elsewhere")
    unwanted = (
        "pytorch_model.bin",
        "model.pt",
        "modeling_x.py",
        "optimizer.pth",
        "weights.gguf",
        "a.msgpack",
    )
    for wanted in ("model.safetensors", "config.json", "tokenizer.json", "merges.txt", "chat_template.jinja"):
        assert any(Path(wanted).match(pattern) for pattern in hub["allow_patterns"])
    assert not any(Path(file).match(pattern) for pattern in hub["allow_patterns"] for file in unwanted)


def response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    "answer, message",
    [
        (
            LocalEntryNotFoundError("No route to host. Try again."),
            r"could not be downloaded \(No route to host\)",
        ),
        (
            RepositoryNotFoundError("404", response=response(404)),
            "Hugging Face has no owner/name at revision main",
        ),
        (GatedRepoError("403", response=response(403)), "terms accepted"),
        (ConnectionError(), r"could not be downloaded \(ConnectionError\)"),
    ],
)
def test_a_download_that_fails_says_why(hub, answer, message):
    hub["answer"] = answer
    with pytest.raises(CheckpointError, match=message) as error:
        resolve("owner/name")
    assert "owner/name" in error.value.message("zh")


@pytest.mark.parametrize("weights", ["no-such-folder", "./no/such/folder", "/nowhere", "a/b/c", "a b/c", ""])
def test_neither_a_folder_nor_an_id(weights, hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        resolve(weights)
    assert "name" not in hub


def test_pickles_only(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="safetensors only. pytorch_model.bin may run code"):
        resolve(tmp_path)


def test_no_config(dense, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((dense / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="no config.json"):
        resolve(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "\udcff"])
def test_a_config_that_is_no_json_object(dense, tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes((dense / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(CheckpointError, match="config.json"):
        certify(tmp_path)


def test_the_certificate_of_whole_weights(echovlm):
    certificate = certify(str(echovlm))
    expected = published.weights(published.config())
    assert certificate.tensors == len(expected)
    assert certificate.parameters == sum(map(torch.numel, expected.values()))
    assert certificate.dtype == "float32"
    assert certificate.architecture == "Qwen2VLMOEForConditionalGeneration"
    assert certificate.opened_with.endswith(".EchoVLMForConditionalGeneration")
    assert certificate.faults == ()
    assert certificate.fingerprint in str(certificate)


def test_the_certificate_lists_every_fault(echovlm):
    damage(
        echovlm,
        model__norm__weight=None,
        stranger=torch.zeros(1, dtype=torch.bfloat16),
        lm_head__weight=torch.zeros(2, 3),
    )
    certificate = certify(echovlm)
    assert certificate.missing == ("model.norm.weight",)
    assert certificate.unexpected == ("stranger",)
    assert certificate.reshaped == (("lm_head.weight", (2, 3), (96, 64)),)
    assert certificate.dtype == "float32, bfloat16"
    for fault in certificate.faults:
        assert fault in str(certificate)


def test_the_fingerprint_follows_the_numbers_not_the_files(tmp_path):
    config = published.config()
    tensors = published.weights(config)
    first = fingerprint(published.save(tmp_path / "one", config, tensors))
    assert fingerprint(published.save(tmp_path / "three", config, tensors, shards=3)) == first
    for place in (0, 1000, -1):
        changed = {name: tensor.clone() for name, tensor in tensors.items()}
        changed["model.layers.0.self_attn.q_proj.weight"].view(-1)[place] += 1
        assert fingerprint(published.save(tmp_path / str(place), config, changed)) != first
    renamed = {name.replace("lm_head", "head"): tensor for name, tensor in tensors.items()}
    assert fingerprint(published.save(tmp_path / "renamed", config, renamed)) != first


def test_the_librarys_own_models(dense):
    assert certify(dense).faults == ()
    model = load_model(Qwen2VLForConditionalGeneration, dense, dtype=torch.bfloat16, device="cpu")
    assert type(model) is Qwen2VLForConditionalGeneration
    assert model.dtype == torch.bfloat16 and not model.training


def test_qwen2_5_vl(tmp_path):
    """The architecture of EchoVLM v2."""
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "layer_types": ["full_attention"] * 2,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    assert certify(tmp_path).faults == ()
    opened = load_model(type(model), tmp_path, dtype=torch.float32, device="cpu", attn_implementation="eager")
    assert opened.config._attn_implementation == "eager"
    state = opened.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("fault", ["missing", "unexpected", "reshaped"])
def test_half_a_model_of_the_library_is_refused_too(tmp_path, fault, monkeypatch):
    folder = save_dense(tmp_path)
    name = "model.norm.weight"
    changes = {
        "missing": {name: None},
        "unexpected": {"x.weight": torch.ones(2)},
        "reshaped": {name: torch.ones(3)},
    }
    damage(folder, **changes[fault])
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "from_pretrained", None)
    with pytest.raises(CheckpointError, match=f"{fault} +{next(iter(changes[fault]))}"):
        load_model(Qwen2VLForConditionalGeneration, folder, dtype=torch.float32, device="cpu")


def test_weights_that_are_quantised_already(echovlm):
    config = json.loads((echovlm / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (echovlm / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quantised already"):
        certify(echovlm)


def test_sizes_that_do_not_fit_each_other(echovlm):
    config = json.loads((echovlm / "config.json").read_text())
    (echovlm / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))
    with pytest.raises(CheckpointError, match="does not describe a EchoVLM"):
        certify(echovlm)


def test_the_registry_is_sound():
    known = registry()
    for architecture in known.classes:
        assert hasattr(model_class_for({"architectures": [architecture]}), "generate")
    assert {
        "chaoyinshe/EchoVLM",
        "Qwen/Qwen2-VL-2B-Instruct",
        "Qwen/Qwen2-VL-7B-Instruct",
    } < known.weights.keys()
    for weights in known.weights.values():
        assert weights.architecture in known.classes
        square = 224 if "LlavaUltra" in weights.architecture else 392  # CLIP's; EchoVLM, Table 8
        assert weights.max_pixels == square**2
        assert weights.memory_gb["bfloat16"] > 0
    demos = {name for name, weights in known.weights.items() if weights.demo}
    assert demos == {
        f"weights/demo/{config.parent.name}"
        for config in (checkpoint.REPOSITORY / "weights/demo").glob("*/config.json")
    }


def test_architectures_and_classes():
    assert (
        model_class_for({"architectures": ["Qwen2VLMOEForConditionalGeneration"]})
        is EchoVLMForConditionalGeneration
    )
    for config in ({}, {"architectures": None}, {"architectures": ["os.system"]}):
        with pytest.raises(CheckpointError, match="this suite opens"):
            model_class_for(config)


def test_the_command(echovlm, capsys):
    assert checkpoint.main([str(echovlm)]) == 0
    assert "missing      0" in capsys.readouterr().out
    damage(echovlm, model__norm__weight=None)
    assert checkpoint.main([str(echovlm)]) == 1
    assert "missing      model.norm.weight" in capsys.readouterr().out
    assert checkpoint.main(["/nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: /nowhere is neither")


def test_the_command_run_as_a_module(echovlm):
    """An error that the registry's class raises is the imported module's, not that of the copy that runs."""
    config = {"model_type": "bert", "architectures": ["EchoVLMForConditionalGeneration"]}
    (echovlm / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "models.checkpoint", str(echovlm)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=checkpoint.REPOSITORY)
    assert run.returncode == 1
    assert run.stderr.strip() == (
        f"error: {echovlm} does not hold an EchoVLM: its config.json says model_type 'bert'."
    )
