"""Open what a rater can run on: whole weights of any model, or a LoRA adapter on the base that it names.

Ultrasound-QBench rates zero-shot and asks for tuning on the domain (section V.B c). Weights as they come may
be of any architecture; an adapter is what such tuning leaves here (`models.adapter`).

Knows nothing of prompts, levels or scores.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from models import checkpoint
from models.adapter import TENSORS, adapter_folder, open_backbone
from models.any_model import Opened, SuiteEncoder, open_any


def open_weights(
    weights: str | Path, *, device: str, dtype: str, quantize: str | None
) -> tuple[Opened, tuple[Path, ...]]:
    """What `models.any_model.open_any` opens, or an adapter on its base, and the folders that answers come
    from, the adapter's first.

    Raises what `open_any` and `models.adapter.open_backbone` do: CheckpointError for an adapter that names no
    base of the suite's own architectures or does not fit it.
    """
    options = {"device": device, "dtype": dtype, "quantize": quantize}
    if adapter_folder(weights) is None:
        opened = open_any(str(weights), **options)
        return opened, (opened.folder,)
    backbone, folders = open_backbone(weights, **options)
    return Opened(backbone.model, SuiteEncoder(backbone.encoder), backbone.folder, backbone), folders


def fingerprint(folders: tuple[Path, ...]) -> str:
    """`models.checkpoint.fingerprint` of the weights; with an adapter, another one for each adapter."""
    base = checkpoint.fingerprint(folders[-1])
    if len(folders) == 1:
        return base
    return hashlib.sha256(base.encode() + (folders[0] / TENSORS).read_bytes()).hexdigest()[:16]
