"""Find weights, prove that they are whole, and only then load them.

A set of weights is a folder with config.json and safetensors, one file or several with an index, as Hugging
Face lays them out. Before anything is read, the files' headers are compared, tensor by tensor, with what the
model class would have saved: a model with half of its weights runs and talks, and nothing else would show it.
Pickled weights (.bin, .pt) and code that comes with weights are never opened.

`python -m models.checkpoint PATH_OR_ID` prints the outcome, the load certificate.

Knows nothing of any one assistant: weights/registry.yaml names the class of each architecture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings, revert_weight_conversion

from models.errors import ModelError
from models.registry import registry

REPOSITORY = Path(__file__).parents[1]
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")
_DOWNLOADED = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model")  # weights, configuration, tokenizer
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SAMPLE = 4096  # bytes


class CheckpointError(ModelError):
    """Weights that are not there, not whole, or not of the kind that was asked for."""


@dataclass(frozen=True)
class Tensor:
    """What a file's header says of one tensor; its bytes are `file`[`start`:`end`]."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Certificate:
    """What a folder holds, against what its model class needs.

    `missing` and `unexpected` are tensor names as files spell them, `reshaped` is (name, shape found, shape
    needed). `parameters` counts the numbers in the files; `dtype` names their formats, the commonest first.
    """

    folder: Path
    architecture: str
    opened_with: str
    tensors: int
    parameters: int
    dtype: str
    fingerprint: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """One line a fault; none when the weights are whole."""
        return (
            *(f"missing      {name}" for name in self.missing),
            *(f"unexpected   {name}" for name in self.unexpected),
            *(f"reshaped     {name} {found}, needed {needed}" for name, found, needed in self.reshaped),
        )

    def require_whole(self) -> None:
        """Raise CheckpointError, listing every fault, unless there is none."""
        if not self.faults:
            return
        missing, unexpected, reshaped = len(self.missing), len(self.unexpected), len(self.reshaped)
        listing = "".join(f"\n{fault}" for fault in self.faults)
        raise CheckpointError(
            f"{self.folder} does not hold a whole {self.architecture}: {missing} tensors missing, "
            f"{unexpected} unexpected, {reshaped} reshaped. Nothing was loaded; get the weights again:"
            + listing,
            f"{self.folder} 中的 {self.architecture} 权重不完整：缺少 {missing} 个张量，"
            f"多出 {unexpected} 个，{reshaped} 个形状不符。未加载任何内容，请重新获取权重：" + listing,
        )

    def __str__(self) -> str:
        rows = (
            ("weights", self.folder),
            ("architecture", self.architecture),
            ("opened with", self.opened_with),
            ("tensors", f"{self.tensors:,}"),
            ("parameters", f"{self.parameters:,} ({self.dtype})"),
            ("fingerprint", self.fingerprint),
            ("missing", len(self.missing)),
            ("unexpected", len(self.unexpected)),
            ("reshaped", len(self.reshaped)),
        )
        return "\n".join((*(f"{name:<13}{value}" for name, value in rows), *self.faults))


def resolve(weights: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of `weights`: itself, or the downloaded copy of an id, owner/name@revision.

    A relative path is looked for from here, then from the repository's root. Of an id, only safetensors,
    configuration and tokenizer are downloaded. Raises CheckpointError where there is nothing to open.
    """
    places = (Path(weights).expanduser(), REPOSITORY / weights)
    folder = next((place for place in places if place.is_dir()), None) or _download(str(weights), revision)
    weight_files(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json.", f"{folder} 中没有 config.json。")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """A folder's safetensors: one file, or all that the index names. CheckpointError when one is absent."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    if not (folder / INDEX_FILE).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        listed = f" {', '.join(pickles)} may run code and is not opened." if pickles else ""
        raise CheckpointError(
            f"{folder} has no {SINGLE_FILE}; weights are read from safetensors only.{listed}",
            f"{folder} 中没有 {SINGLE_FILE}；本系统只读取 safetensors 格式的权重。",
        )
    shards = read_json(folder / INDEX_FILE).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if absent or not names:
        raise CheckpointError(
            f"{folder} lacks files that {INDEX_FILE} should name: {', '.join(absent) or 'it names none'}.",
            f"{folder} 缺少 {INDEX_FILE} 所列的文件：{'、'.join(absent) or '索引为空'}。",
        )
    return [folder / name for name in names]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's weight files, from their headers. CheckpointError for a broken file."""
    return {name: tensor for file in weight_files(folder) for name, tensor in _header(file).items()}


def fingerprint(folder: Path) -> str:
    """A short hash that tells sets of weights apart without reading them whole.

    The first 16 hex digits of sha256 over all tensors in order of name: name, format, shape, and the first,
    middle and last 4 KiB of the bytes. Training moves every tensor, so it shows; one edited number may not.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(folder).items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.file.open("rb") as stream:
            for start in (tensor.start, (tensor.start + tensor.end) // 2, tensor.end - _SAMPLE):
                stream.seek(max(start, tensor.start))
                digest.update(stream.read(min(_SAMPLE, tensor.end - stream.tell())))
    return digest.hexdigest()[:16]


def model_class_for(config: Mapping[str, Any]) -> type[PreTrainedModel]:
    """The class that opens weights with this config.json. CheckpointError for an unknown architecture."""
    classes = registry().classes
    named = config.get("architectures") or ["no architecture"]
    for name in named:
        if name in classes:
            module, _, attribute = classes[name].rpartition(".")
            return getattr(import_module(module), attribute)
    raise CheckpointError(
        f"config.json names {', '.join(named)}; this suite opens {', '.join(classes)}.",
        f"config.json 中的架构为 {'、'.join(named)}；本系统支持 {'、'.join(classes)}。",
    )


def inspect(model_class: type[PreTrainedModel], folder: Path) -> Certificate:
    """Compare a folder's tensors with those that `model_class` would have saved there. Reads headers only."""
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise CheckpointError(
            f"{folder} is quantised already. Open the full weights, and ask for 8bit or 4bit with them.",
            f"{folder} 是已量化的权重。请打开完整精度的权重，再选择 8bit 或 4bit。",
        )
    found = tensors_of(folder)
    skeleton = _skeleton(model_class, folder)
    renamings = [t for t in get_model_conversion_mapping(skeleton) if isinstance(t, WeightRenaming)]
    saved = revert_weight_conversion(skeleton, skeleton.state_dict())
    # Old and new layouts meet in the model's own names.
    needed = {apply_renamings(name, renamings): (name, tuple(saved[name].shape)) for name in saved}
    arrived = {apply_renamings(name, renamings): name for name in found}
    tied = {name for pair in skeleton.all_tied_weights_keys.items() if arrived.keys() & pair for name in pair}
    common = [(arrived[key], needed[key][1]) for key in sorted(arrived.keys() & needed.keys())]
    formats = Counter(_DTYPES.get(tensor.dtype, tensor.dtype) for tensor in found.values())
    return Certificate(
        folder=folder,
        architecture=(config.get("architectures") or [model_class.__name__])[0],
        opened_with=f"{model_class.__module__}.{model_class.__qualname__}",
        tensors=len(found),
        parameters=sum(prod(tensor.shape) for tensor in found.values()),
        dtype=", ".join(name for name, _ in formats.most_common()),
        fingerprint=fingerprint(folder),
        missing=tuple(needed[key][0] for key in sorted(needed.keys() - arrived.keys() - tied)),
        unexpected=tuple(arrived[key] for key in sorted(arrived.keys() - needed.keys())),
        reshaped=tuple(
            (name, found[name].shape, shape) for name, shape in common if found[name].shape != shape
        ),
    )


def certify(weights: str | Path) -> Certificate:
    """The load certificate of a folder or a Hugging Face id (downloaded first), whole or not."""
    folder = resolve(weights)
    return inspect(model_class_for(read_json(folder / "config.json")), folder)


def load_model(
    model_class: type[PreTrainedModel],
    folder: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization_config: Any | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A model in evaluation mode on `device`. CheckpointError lists every fault before anything is loaded."""
    folder = Path(folder)
    inspect(model_class, folder).require_whole()
    return model_class.from_pretrained(
        folder,
        dtype=dtype,
        device_map={"": device},
        quantization_config=quantization_config,
        attn_implementation=attn_implementation,
        use_safetensors=True,
        trust_remote_code=False,
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object; CheckpointError when it does not."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", f"无法读取 {path}：{error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object.", f"{path} 不是 JSON 对象。")
    return content


def _skeleton(model_class: type[PreTrainedModel], folder: Path) -> PreTrainedModel:
    """The model with no memory behind its tensors."""
    try:
        config = model_class.config_class.from_pretrained(folder)
        with torch.device("meta"):
            return model_class(config)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} does not describe a {model_class.__name__}: {error}",
            f"{folder / 'config.json'} 不是有效的 {model_class.__name__} 配置：{error}",
        ) from error


def _header(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt"):  # proves the header, and that no tensor reaches beyond the file
            pass
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(size))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is broken ({error}). Get the weights again.",
            f"{file} 已损坏（{error}），请重新获取权重。",
        ) from error
    entries.pop("__metadata__", None)
    tensors = {}
    for name, entry in entries.items():
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = Tensor(file, entry["dtype"], tuple(entry["shape"]), start, end)
    return tensors


def _download(weights: str, revision: str | None) -> Path:
    parts = _HUB_ID.fullmatch(weights)
    if parts is None:
        raise CheckpointError(
            f"{weights} is neither a folder nor a Hugging Face id (owner/name or owner/name@revision).",
            f"{weights} 既不是本地文件夹，也不是 Hugging Face 编号（owner/name 或 owner/name@revision）。",
        )
    name, revision = parts["name"], parts["revision"] or revision
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_DOWNLOADED)))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} wants its terms accepted on huggingface.co first; then log in with `hf auth login`.",
            f"请先在 huggingface.co 上同意 {name} 的使用条款，再用 `hf auth login` 登录。",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"There is no folder {weights}, and Hugging Face has no {name} at revision {revision or 'main'}.",
            f"本地没有文件夹 {weights}，Hugging Face 上也没有 {name}（版本 {revision or 'main'}）。",
        ) from error
    except OSError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise CheckpointError(
            f"There is no folder {weights}, and {name} could not be downloaded ({reason}). Try again with a "
            "network connection, or copy the weights into a local folder and give its path.",
            f"本地没有文件夹 {weights}，也无法下载 {name}（{reason}）。"
            "请联网后重试，或将权重复制到本地文件夹并给出其路径。",
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. The exit status is 0 only for weights that are whole."""
    parser = argparse.ArgumentParser(
        prog="python -m models.checkpoint",
        description="Print the load certificate of weights: every missing, unexpected or reshaped tensor.",
    )
    parser.add_argument(
        "weights", metavar="PATH_OR_ID", help="a folder, or owner/name[@revision], which is downloaded first"
    )
    try:
        certificate = certify(parser.parse_args(arguments).weights)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(certificate)
    return 1 if certificate.faults else 0


if __name__ == "__main__":
    # The imported module, not this copy of it: what the registry's classes raise is its CheckpointError.
    from models.checkpoint import main as imported_main

    sys.exit(imported_main())
