"""Which weights this suite knows, what a page calls them, and which class opens which architecture:
weights/registry.yaml, as data.

Knows nothing of files or downloads; `models.checkpoint` opens what stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import yaml

REGISTRY = Path(__file__).parents[1] / "weights" / "registry.yaml"


@dataclass(frozen=True)
class KnownWeights:
    """One set of weights.

    `id` is a Hugging Face id or a folder of this repository, `licence` None where the publisher states none,
    `memory_gb` the weights' own need by number format, `max_pixels` the budget of one image, `demo` true for
    the small weights trained on simulated images.
    """

    id: str
    title: str
    architecture: str
    licence: str | None
    memory_gb: Mapping[str, float]
    max_pixels: int
    demo: bool = False


@dataclass(frozen=True)
class Registry:
    """`classes`: architecture, as config.json names it, to dotted class path. `weights`: id to entry.

    `encoders`: of some of these architectures the dotted path of their own `models.likelihood.PromptEncoder`.
    """

    classes: Mapping[str, str]
    weights: Mapping[str, KnownWeights]
    encoders: Mapping[str, str]


@cache
def registry() -> Registry:
    """The registry file, read once."""
    content = yaml.safe_load(REGISTRY.read_text("utf-8"))
    weights = {name: KnownWeights(id=name, **entry) for name, entry in content["weights"].items()}
    classes, encoders = (MappingProxyType(content[key]) for key in ("classes", "encoders"))
    return Registry(classes, MappingProxyType(weights), encoders)


def title_of(
    system: str,
    weights: str | Path,
    *,
    demo: bool,
    quantize: str | None = None,
) -> str:
    """What a page's badge calls a system on these weights: "EchoVLM · EchoVLM v1 · 4bit".

    In the middle stands "demo weights" for a demo, else the registry's title of a known id (whatever its
    @revision) or the last part of the path or id.
    """
    known = registry().weights.get(str(weights).partition("@")[0])
    label = "demo weights" if demo else known.title if known else Path(weights).name
    return " · ".join(part for part in (system, label, quantize) if part)
