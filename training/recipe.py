"""A recipe: everything a training run needs to know, read from one commented YAML file and checked before
it starts.

An unknown, missing or unfitting key is an error that names it, in the first second. Every number in a recipe
says where it comes from in a comment beside it.

Does not know what can be ordered from the simulator (`training.simulated` asks it), nor whether files and
published weights are there (`training.run` looks).
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Collection
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig, MistralConfig, PreTrainedConfig, SamVisionConfig
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

from assistants.abvlm_q.prompts import FORMS
from assistants.echovlm.configuration import MIXTURE_FIELDS, EchoVLMTextConfig
from assistants.llava_ultra.configuration import LlavaUltraConfig
from training.loop import Schedule
from training.tokenizer import SMALLEST

PRECISIONS = ("no", "bf16", "fp16")
OF_LLAVA_ULTRA = ("contrast", "masks", "llava_language", "llava_align", "llava_instruct")
KINDS = ("vision_warmup", "captions", "moe", "instruct", "lora_language", "lora", *OF_LLAVA_ULTRA)
OF_ABVLM_Q = ("vision_warmup", "lora_language", "lora")
LEAVES_LORA = ("vision_warmup", "lora_language")  # to the stage that goes on with it
WITH_LORA = ("instruct", "lora_language", "lora", "llava_instruct")
WITH_OR_WITHOUT_LORA = ("vision_warmup",)
WITH_DISTILLATION = ("llava_instruct",)
WITH_LABELS = ("vision_warmup", "masks")
OF_CONVERSATIONS = ("captions", "moe", "instruct", "lora_language", "lora")
OF_SOME_KINDS = {  # keys with a default that other kinds would pass over
    "sharpness": WITH_DISTILLATION,
    "score_rate": WITH_DISTILLATION,
    "most_turns": OF_CONVERSATIONS,
    "turn_weight": OF_CONVERSATIONS,
    "option_orders": OF_CONVERSATIONS,
    "grounding": ("lora",),
}
COARSEST = 50  # units between two places of an edge; an image is a thousand across, or its pixels
ABVLM_Q_FIELDS = ("prompt", "planes", "step")
BESIDE_THE_BASE = {"base", "clip", "sam"}  # arguments of assistants.llava_ultra.published.open_published

# Fields of the libraries' configurations that a run fills in itself, so no recipe does.
FILLED_IN = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
ULTRA_FIELDS = {*LlavaUltraConfig.__annotations__}
ULTRA_FILLED_IN = {"vision_config", "text_config", "image_token_id", "template", "tie_word_embeddings"}
DECODERS = {"llama": LlamaConfig, "mistral": MistralConfig}

# What stands in an output folder beside the stages' folders (`training.run`).
OF_ORDERS = "cases groups more_cases held_out tokenizer_cases".split()
OF_THE_OUTPUT = [*OF_ORDERS, "seen", "weights", "adapter"]

_PLAIN = {"int": int, "float": float, "str": str, "bool": bool}

# Keys, what their values must be, and the words for it. Numbers must be finite in any case.
_BOUNDS = (
    (
        "steps epochs minutes batch_size accumulation learning_rate gradient_clip checkpoint_every rank "
        "alpha vocabulary min_pixels max_pixels max_length sharpness score_rate most_turns option_orders "
        # of the libraries' configurations
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "max_position_embeddings depth embed_dim num_heads mlp_ratio mlp_dim patch_size spatial_merge_size "
        "temporal_patch_size in_channels num_channels image_size output_channels num_experts "
        "num_experts_per_tok moe_intermediate_size shared_expert_intermediate_size",
        lambda value: value > 0,
        "above zero",
    ),
    (
        "weight_decay distillation grounding seed router_aux_loss_coef",
        lambda value: value >= 0,
        "zero or more",
    ),
    ("warmup_ratio dropout places familiarity_quantile", lambda value: 0 <= value < 1, "from 0 to below 1"),
    ("turn_weight", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("betas", lambda value: all(0 <= beta < 1 for beta in value), "made of numbers from 0 to below 1"),
    ("base", str.strip, "a folder or a Hugging Face id"),
    ("cases", lambda value: value and all(value), "a file or several"),
    # Names become folders.
    ("name", lambda value: re.fullmatch(r"\w[\w-]*", value), "a name of letters, digits, _ and -"),
    ("precision", lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
)


class RecipeError(ValueError):
    """Something in a recipe file is wrong; the message names the file and the key."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation: rank, scale and dropout, and which linear layers get it (a regular expression).

    With `words` the embeddings of the words that are taught learn beside it (peft's trainable tokens). Words
    that a small base never met all have one embedding, nearly: where the output's embeddings are tied to the
    input's, none of them can be said.
    """

    rank: int
    alpha: int
    dropout: float
    targets: str
    words: bool = False


@dataclass(frozen=True)
class StageRecipe:
    """One stage: `kind` says what learns (`training.stages`), `schedule` how long and how fast.

    A vision_warmup with `lora`, and a lora_language, leave it on the model: the next stage goes on with it.
    `distillation` is the weight of Eq. 5 beside the answers' loss; 0 leaves the frame score to itself.
    `sharpness` is the power that Eq. 5's Norm takes the attention shares to; 1 leaves them as they are.
    The frame score has `score_rate` times the learning rate.
    A conversation has up to `most_turns` turns. One of n words counts n ** `turn_weight` in the loss: with 1
    every word counts the same, as in the library's mean, with 0 every turn. A question with lettered options
    is put `option_orders` times, if more than once in other orders of them.
    Of AbVLM-Q, `grounding` is the weight of the warm-up's loss beside the answers'; with 0 it is not asked.
    """

    name: str
    kind: str
    schedule: Schedule
    lora: Lora | None = None
    distillation: float | None = None
    sharpness: float = 1.0
    score_rate: float = 1.0
    most_turns: int = 3
    turn_weight: float = 1.0
    option_orders: int = 1
    grounding: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """What learns from what, and in which order.

    Cases: `simulate`, the arguments of `python -m simulator` that makes them, or `cases`, JSONL files.
    Model: `base`, published weights by folder or Hugging Face id, or a fresh one of `vocabulary` tokens with
    the configuration fields `vision` and `text`. `adapter` is the folder of an adapter on the base: the first
    stage's LoRA goes on from it, with the words that it taught. `mixture` holds EchoVLM's own fields.
    `tokenizer_cases`, orders of the simulator, widen what a fresh tokenizer reads; nothing else learns from
    them.
    `held_out` (arguments of the simulator) and `familiarity_quantile`, the share of its images that must
    pass, make the familiarity statistics. `max_pixels` is the budget of one image, below `min_pixels` it is
    enlarged; `max_length` is the budget of one conversation in tokens; None leaves all to the weights.
    `places` is the share of an image's colours that says where each pixel lies (`models.encoding`).
    `keep_features` computes what a frozen vision tower sees once for each image; the images must have one
    size then. `weights` is the place for --publish.

    Of LLaVA-Ultra, `ultra` holds the fields of LlavaUltraConfig beside vision and text of a fresh model, or
    what `published.open_published` takes beside the base (sam, clip, base, fields); `groups` is a second
    order of the simulator, cases of several frames; all its stages learn from both.

    Of AbVLM-Q, `abvlm_q` holds `prompt`, the form that is taught ("full" or "short"), and may hold `planes`,
    the file of a hospital's own protocol, and `step`, of which boxes are taught in multiples. What is taught
    is then the assistant's own answer, written from each case's boxes, planes, deductions and score. After a
    stage of the kind lora, --publish puts the adapter in its place.

    With `qbench` the stages teach Ultrasound-QBench's rater: its own probes, with the level that each case
    knows at the score's place. Its adapter is published likewise. `more_cases`, orders of the simulator, are
    learned from as those of `simulate` are.
    """

    name: str
    seed: int
    precision: str
    stages: tuple[StageRecipe, ...]
    simulate: dict[str, object] | None = None
    cases: str | list[str] | None = None
    base: str | None = None
    adapter: str | None = None
    vocabulary: int | None = None
    tokenizer_cases: list[dict] | None = None
    vision: dict[str, object] | None = None
    text: dict[str, object] | None = None
    mixture: dict[str, object] | None = None
    ultra: dict[str, object] | None = None
    groups: dict[str, object] | None = None
    abvlm_q: dict[str, str | int] | None = None
    qbench: bool = False
    more_cases: list[dict] | None = None
    held_out: dict[str, object] | None = None
    familiarity_quantile: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    places: float | None = None
    max_length: int | None = None
    gradient_checkpointing: bool = False
    keep_features: bool = False
    weights: str | None = None

    @property
    def of_llava_ultra(self) -> bool:
        """Whether its stages teach a LLaVA-Ultra."""
        return any(stage.kind in OF_LLAVA_ULTRA for stage in self.stages)

    @property
    def orders(self) -> dict[str, dict[str, object]]:
        """What is ordered from the simulator, by the key that says it."""
        named = {key: getattr(self, key) for key in ("simulate", "groups", "held_out")}
        lists = {"more_cases": self.more_cases, "tokenizer_cases": self.tokenizer_cases}
        more = {f"{key}[{i}]": order for key, orders in lists.items() for i, order in enumerate(orders or ())}
        return {key: order for key, order in (named | more).items() if order is not None}

    @property
    def box_step(self) -> int:
        """Of how many units AbVLM-Q's boxes are taught in multiples."""
        return (self.abvlm_q or {}).get("step", 1)

    @property
    def ships_adapter(self) -> bool:
        """Whether an adapter, of AbVLM-Q or of the rater, is what comes out."""
        return (self.abvlm_q is not None or self.qbench) and self.stages[-1].kind == "lora"


def read_recipe(
    path: Path, *, base: str | None = None, adapter: str | None = None, cases: list[str] | None = None
) -> Recipe:
    """Read and check a recipe; `base`, `adapter` and `cases`, when given, take the place of its own.

    Raises RecipeError naming the key at fault.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: the recipe is not UTF-8 text: {error.reason}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: the recipe is not YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        raise RecipeError(f"{path}: the recipe is empty")
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected keys and values, found {type(raw).__name__}")
    if base is not None:
        raw["base"] = base
    if adapter is not None:
        raw["adapter"] = adapter
    if cases is not None:
        raw = {key: value for key, value in raw.items() if key != "simulate"} | {"cases": cases}
    stages = raw.pop("stages", None)
    recipe = _build(Recipe, path, "", raw | {"stages": ()})
    recipe = replace(recipe, stages=_stages(path, stages, recipe.seed))
    if complaint := _complaint(recipe):
        raise RecipeError(f"{path}: {complaint}")
    return replace(recipe, cases=[recipe.cases] if isinstance(recipe.cases, str) else recipe.cases)


def _stages(path: Path, raw: object, seed: int) -> tuple[StageRecipe, ...]:
    if not raw or not isinstance(raw, list):
        raise RecipeError(f"{path}: stages: at least one stage is needed")
    for i, stage in enumerate(raw):
        if not isinstance(stage, dict):
            raise RecipeError(f"{path}: stages[{i}]: expected keys and values, found {stage!r}")
    stages = tuple(_stage(path, f"stages[{i}]", dict(stage), seed) for i, stage in enumerate(raw))
    names = [stage.name.lower() for stage in stages]  # there are disks on which case makes no difference
    for i, name in enumerate(names):
        if name in OF_THE_OUTPUT:
            raise RecipeError(f"{path}: stages[{i}].name: {name} is another folder of the output")
        if name in names[:i]:
            raise RecipeError(f"{path}: stages[{i}].name: two stages have the same name")
    return stages


def _stage(path: Path, where: str, raw: dict, seed: int) -> StageRecipe:
    kind = raw.get("kind")
    if kind not in KINDS:
        raise RecipeError(f"{path}: {where}.kind: {kind!r} is not one of {', '.join(KINDS)}")
    parts = {}
    for key, part in (("schedule", Schedule), ("lora", Lora)):
        values = raw.pop(key, None)
        if values is not None and not isinstance(values, dict):
            raise RecipeError(f"{path}: {where}.{key}: expected keys and values, found {values!r}")
        own = {"seed": seed} if key == "schedule" else {}
        if values is not None or key == "schedule":
            parts[key] = _build(part, path, f"{where}.{key}", own | (values or {}))
    if ("lora" in parts) != (kind in WITH_LORA) and kind not in WITH_OR_WITHOUT_LORA:
        raise RecipeError(
            f"{path}: {where}.lora: the kind {kind} {'needs it' if kind in WITH_LORA else 'has none'}"
        )
    if ("distillation" in raw) != (kind in WITH_DISTILLATION):
        needs = "needs it" if kind in WITH_DISTILLATION else "has none"
        raise RecipeError(f"{path}: {where}.distillation: the kind {kind} {needs}")
    for key, kinds in OF_SOME_KINDS.items():
        if key in raw and kind not in kinds:
            raise RecipeError(f"{path}: {where}.{key}: the kind {kind} has none")
    if "lora" in parts:
        _check_pattern(path, f"{where}.lora.targets", parts["lora"].targets)
    return _build(StageRecipe, path, where, raw | parts)


def _check_pattern(path: Path, where: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise RecipeError(f"{path}: {where}: {pattern!r} is not a regular expression: {error}") from error


def _complaint(recipe: Recipe) -> str | None:
    """What does not go together, beginning with the keys; None for a sound recipe."""
    fresh = (recipe.vocabulary, recipe.vision, recipe.text)
    kinds = [stage.kind for stage in recipe.stages]
    if (recipe.simulate is None) == (recipe.cases is None):
        return "simulate, cases: give one of the two"
    if recipe.base is None and None in fresh:
        return "base, or all of vocabulary, vision and text: one is needed to know the model"
    if recipe.base is not None and any(value is not None for value in fresh):
        return "base: it brings its own vocabulary, vision and text; leave those out"
    if recipe.adapter is not None and (recipe.base is None or recipe.stages[0].lora is None):
        return "adapter: it goes on with a base, and the first stage's lora goes on with it"
    if recipe.base is not None and recipe.tokenizer_cases is not None:
        return "base: it brings its own tokenizer; leave tokenizer_cases out"
    if recipe.base is None and "moe" in kinds and recipe.mixture is None:
        return "mixture: the kind moe needs it"
    if "moe" in kinds and "instruct" in kinds[: kinds.index("moe")]:
        return "stages: the kind instruct teaches the experts that the kind moe makes; put moe before it"
    if recipe.base is None and "instruct" in kinds and "moe" not in kinds:
        return "stages: the kind instruct teaches experts; a stage of the kind moe must make them before"
    if recipe.vocabulary is not None and recipe.vocabulary < SMALLEST:
        return f"vocabulary: {recipe.vocabulary} is less than {SMALLEST}, the bytes and the special tokens"
    if (recipe.held_out is None) != (recipe.familiarity_quantile is None):
        return "held_out, familiarity_quantile: give both or neither"
    if None not in (recipe.min_pixels, recipe.max_pixels) and recipe.min_pixels > recipe.max_pixels:
        return f"min_pixels: {recipe.min_pixels} is more than max_pixels {recipe.max_pixels}"
    if recipe.min_pixels is not None and recipe.base is None:
        return "min_pixels: only a base's images are enlarged"
    if recipe.places is not None and recipe.base is None:
        return "places: only a base's images get them"
    return (
        _complaint_about_orders(recipe)
        or _complaint_about_adapters(recipe)
        or _complaint_about_abvlm_q(recipe)
        or _complaint_about_qbench(recipe)
        or _complaint_about_ultra(recipe)
        or _complaint_about_sizes(recipe)
    )


def _complaint_about_sizes(recipe: Recipe) -> str | None:
    """What the libraries' configurations would not take, or take and not look at."""
    mixture = _unfit("mixture", recipe.mixture, EchoVLMTextConfig, MIXTURE_FIELDS)
    if mixture or recipe.base is not None:
        return mixture
    if not recipe.of_llava_ultra:
        own = {*Qwen2VLVisionConfig.__annotations__} - {"hidden_size"}  # the tower has the text's width
        known = {*Qwen2VLTextConfig.__annotations__, "tie_word_embeddings"} - FILLED_IN
        return (
            _unfit("vision", recipe.vision, Qwen2VLVisionConfig, own)
            or _unfit("text", recipe.text, Qwen2VLTextConfig, known)
            or (None if "hidden_size" in recipe.text else "text.hidden_size: not given")
            or _uneven(Qwen2VLVisionConfig(**recipe.vision), Qwen2VLTextConfig(**recipe.text))
        )
    if (decoder := recipe.text.get("model_type", "llama")) not in DECODERS:
        return f"text.model_type: {decoder!r} is not one of {', '.join(DECODERS)}"
    known = {*DECODERS[decoder].__annotations__, "model_type"} - FILLED_IN
    sam = (recipe.ultra or {}).get("sam_config")
    return (
        _unfit("vision", recipe.vision, CLIPVisionConfig)
        or _unfit("text", recipe.text, DECODERS[decoder], known)
        or _unfit("ultra.sam_config", sam, SamVisionConfig)
        or _unshared("text", DECODERS[decoder](**recipe.text), "num_attention_heads", "num_key_value_heads")
        or _unshared("ultra.sam_config", SamVisionConfig(**sam or {}), "hidden_size", "num_attention_heads")
    )


def _uneven(vision: Qwen2VLVisionConfig, text: Qwen2VLTextConfig) -> str | None:
    """Sizes that a Qwen2-VL cannot be made of, each fitting alone. Rotary embeddings turn a head's numbers
    in pairs, in the tower by row and by column."""
    if shared := (
        _unshared("vision", vision, "embed_dim", "num_heads", 4)
        or _unshared("text", text, "hidden_size", "num_attention_heads", 2)
        or _unshared("text", text, "num_attention_heads", "num_key_value_heads")
    ):
        return shared
    pairs = text.hidden_size // text.num_attention_heads // 2
    section = text.rope_parameters.get("mrope_section", [16, 24, 24])  # the library's own
    where = "text.rope_parameters.mrope_section"
    if not isinstance(section, list) or len(section) != 3 or not all(_fits(n, int) for n in section):
        return f"{where}: {section!r} is not a list of 3 whole numbers (time, height, width)"
    if min(section) < 0 or sum(section) != pairs:
        return f"{where}: {section} does not add up to {pairs}, half the width of a head"
    return None


def _unshared(where: str, config: PreTrainedConfig, key: str, heads: str, multiple: int = 1) -> str | None:
    """Where `key` cannot be shared evenly among the heads, each getting a multiple of `multiple`."""
    whole, count = getattr(config, key), getattr(config, heads)
    if whole % (count * multiple) == 0:
        return None
    words = f", a multiple of {multiple} to each" if multiple > 1 else ""
    return f"{where}.{heads}: {key}, {whole}, cannot be shared evenly among {count}{words}"


def _unfit(
    where: str, values: object, config: type[PreTrainedConfig], known: Collection[str] | None = None
) -> str | None:
    """The first of the values that `config` does not take or, if it is not `known`, would not look at."""
    if values is None:
        return None
    if not isinstance(values, dict):
        return f"{where}: {values!r} is not keys and values"
    hints = {field.name: field.type for field in fields(config)}
    known = sorted(config.__annotations__ if known is None else known)
    for key, value in values.items():
        if key not in known:
            return f"{where}.{key}: unknown key; known are {', '.join(known)}"
        hint = _PLAIN.get(getattr(hints.get(key), "__name__", hints.get(key)))  # a type, or its name
        if hint and not _fits(value, hint):
            return f"{where}.{key}: {value!r} is not {_words(hint)}"
        if key == "rope_parameters" and not _fits(value, dict | None):
            return f"{where}.{key}: {value!r} is not {_words(dict)}"
        if _fits(value, float) and (bound := _bound(key, value)):
            return f"{where}.{key}: {value!r} is not {bound}"
    try:
        config(**values)
    except (StrictDataclassError, ValueError, TypeError) as error:
        return f"{where}: {' '.join(str(error).split())}"
    return None


def _complaint_about_orders(recipe: Recipe) -> str | None:
    """What an order of the simulator must have, whatever else it may say."""
    for key, order in recipe.orders.items():
        count = order.get("cases")
        if not _fits(count, int) or count < 1:
            return f"{key}.cases: {count!r} is not a whole number above zero"
    for stage in recipe.stages:
        for key in ("simulate", "groups"):
            needed = stage.kind in WITH_LABELS and not recipe.qbench
            if not (needed or stage.grounding) or key not in recipe.orders:
                continue
            if not recipe.orders[key].get("labels"):
                what = f"the kind {stage.kind}" if needed else "grounding"
                return f"{key}.labels: {what} needs the label maps; say true"
    return None


def _complaint_about_adapters(recipe: Recipe) -> str | None:
    """What does not go together where a LoRA stays on from one stage to another."""
    for i, stage in enumerate(recipe.stages):
        if stage.kind in LEAVES_LORA and stage.lora is not None:
            following = recipe.stages[i + 1 :]
            if not following or following[0].lora != stage.lora or following[0].kind not in OF_ABVLM_Q:
                kinds = " or ".join(OF_ABVLM_Q)
                return f"stages[{i}].lora: the next stage, of the kind {kinds}, must go on with the same lora"
        if stage.lora is not None and stage.lora.words and recipe.abvlm_q is None and not recipe.qbench:
            return f"stages[{i}].lora.words: only abvlm_q and qbench say which words they are"
    return None


def _complaint_about_abvlm_q(recipe: Recipe) -> str | None:
    """What does not go together where AbVLM-Q's answers are taught."""
    if recipe.abvlm_q is None:
        grounded = [i for i, stage in enumerate(recipe.stages) if stage.grounding]
        return f"stages[{grounded[0]}].grounding: only abvlm_q has it" if grounded else None
    for key in recipe.abvlm_q:
        if key not in ABVLM_Q_FIELDS:
            return f"abvlm_q.{key}: unknown key; known are {', '.join(ABVLM_Q_FIELDS)}"
    if recipe.abvlm_q.get("prompt") not in FORMS:
        return f"abvlm_q.prompt: {recipe.abvlm_q.get('prompt')!r} is not one of {', '.join(FORMS)}"
    step = recipe.box_step
    if not isinstance(step, int) or not 1 <= step <= COARSEST:
        return f"abvlm_q.step: {step!r} is not a whole number from 1 to {COARSEST}"
    return _complaint_about_one_adapter(recipe, "abvlm_q")


def _complaint_about_qbench(recipe: Recipe) -> str | None:
    """What does not go together where the rater is taught, or cases are ordered in several ways."""
    if recipe.more_cases is not None and recipe.simulate is None:
        return "more_cases: orders of the simulator, which go with simulate"
    if not recipe.qbench:
        return None
    if recipe.abvlm_q is not None:
        return "qbench, abvlm_q: an adapter learns one of the two"
    return _complaint_about_one_adapter(recipe, "qbench")


def _complaint_about_one_adapter(recipe: Recipe, key: str) -> str | None:
    """What keeps the stages from leaving one adapter with all that was learned."""
    if any(stage.kind not in OF_ABVLM_Q for stage in recipe.stages):
        return f"{key}: only the kinds {', '.join(OF_ABVLM_Q)} teach it"
    if any(stage.kind == "lora" for stage in recipe.stages[:-1]):
        return f"{key}: the stage of the kind lora comes last"
    if recipe.ships_adapter and any(stage.lora is None for stage in recipe.stages):
        return f"{key}: a vision_warmup before the kind lora needs its lora, or the adapter has not all"
    return None


def _complaint_about_ultra(recipe: Recipe) -> str | None:
    """What does not go together where a stage teaches LLaVA-Ultra, or an entry is for it alone."""
    ours = [stage.kind in OF_LLAVA_ULTRA for stage in recipe.stages]
    if any(ours) != all(ours):
        return f"stages: the kinds {', '.join(OF_LLAVA_ULTRA)} teach another model than the rest"
    for key in ("ultra", "groups"):
        if getattr(recipe, key) is not None and not any(ours):
            return f"{key}: only the kinds {', '.join(OF_LLAVA_ULTRA)} have a use for it"
    for key in ("min_pixels", "max_pixels", "mixture"):
        if getattr(recipe, key) is not None and any(ours):
            return f"{key}: LLaVA-Ultra has no use for it"
    known = ULTRA_FIELDS - ULTRA_FILLED_IN if recipe.base is None else ULTRA_FIELDS | BESIDE_THE_BASE
    if unknown := [key for key in recipe.ultra or () if key not in known]:
        return f"ultra.{unknown[0]}: unknown key; known are {', '.join(sorted(known))}"
    if recipe.groups is not None and recipe.simulate is None:
        return "groups: an order of the simulator, which goes with simulate"
    return None


def _build(kind: type, path: Path, where: str, values: dict):
    """The dataclass `kind` of checked values. RecipeError naming the key, found at `where` in the file."""
    hints = typing.get_type_hints(kind)
    known = {field.name: field.default for field in fields(kind)}
    dot = f"{where}." if where else ""
    for key, value in values.items():
        if key not in known:
            raise RecipeError(f"{path}: {dot}{key}: unknown key; known are {', '.join(sorted(known))}")
        if problem := _problem(key, value, hints[key]):
            raise RecipeError(f"{path}: {dot}{key}: {value!r} is not {problem}")
    needed = [key for key, default in known.items() if default is MISSING and key not in values]
    if needed:
        raise RecipeError(f"{path}: {where or 'top level'}: not given: {', '.join(needed)}")
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{path}: {where}: {error}") from error


def _problem(key: str, value: object, hint: object) -> str | None:
    """What `value` should be and is not; None where it fits its field."""
    if not _fits(value, hint):
        return f"{_words(hint)}{' (YAML wants 1.0e-3, not 1e-3)' if _looks_like_a_number(value) else ''}"
    if value is None:
        return None
    return _bound(key, value)


def _bound(key: str, value: object) -> str | None:
    """What a value of the right type should be and is not."""
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    bounds = ((fits, words) for keys, fits, words in _BOUNDS if key in keys.split())
    return next((words for fits, words in bounds if not fits(value)), None)


def _fits(value: object, hint: object) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, option) for option in inner)
    if origin is tuple:
        like = inner if inner[-1] is not Ellipsis else (inner[0],) * len(value)
        return isinstance(value, list | tuple) and len(value) == len(like) and all(map(_fits, value, like))
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else origin or hint)


def _words(hint: object) -> str:
    """A type for people who write YAML."""
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(option) for option in inner if option is not type(None))
    several = {dict: "keys and values", str: "texts", float: "numbers"}
    if origin is list:
        return f"a list of {several[inner[0]]}"
    if origin is tuple:
        return f"a list of {len(inner)} {several[inner[0]]}"
    return names.get(hint) or several[origin or hint]


def _looks_like_a_number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None
