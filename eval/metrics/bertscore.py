"""BERTScore: how near the token vectors of an answer lie to those of its reference.

Zhang et al., "BERTScore: Evaluating Text Generation with BERT" (ICLR 2020), as the package bert-score 0.3.13
computes it and equal to it within 1e-4, on transformers alone. Every token takes the best cosine on the other
side; [CLS] and [SEP] may be that best but weigh nothing themselves. P is the mean over the answer's tokens, R
over the reference's. `idf` weighs a token by its rarity among the references; `rescale` puts the baseline
(random pairs of sentences) at 0. The defaults are the package's: bert-base-chinese at layer 8, roberta-large
at layer 17. SonoVLM reads bert-base-chinese at layer 12.

Where the package has no answer, or a doubtful one, this module chooses:

* A blank text (nothing but spaces, or characters that the tokenizer drops) scores 0 in every column, rescaled
  or not, and never reaches the model. The package raises under transformers 5; before, it gave a raw 0, which
  rescaling turns into b / (b - 1), -1.21 for bert-base-chinese.
* A text longer than the model reads is never cut in silence. "window" reads it whole and "refuse" raises.
  "cut" does what the package does without a word; it is there to reproduce its figures, and it warns.
* With several references P, R and F1 are those of the one with the best F1. The package takes the best of
  each column, which may come from different references; F1 is the same.
* Where idf leaves a text no weight (all references hold all of its tokens), its tokens weigh the same. The
  package divides 0 by 0 and prints F1 = 0.
* In the package a cosine below 0 counts as 0 where padding follows, so it depends on a text's neighbours.
  Here there is no padding to compare with. Trained models hardly ever leave a token only negative cosines.

"window" in full: let the model read C tokens beside [CLS] and [SEP]. Windows of C tokens start every C // 2
tokens, and the last one ends with the text. Each is read alone, between its own [CLS] and [SEP]. A token
takes its vector from the window whose middle lies nearest, the earlier of two (BERT's "max context" for the
long documents of SQuAD); [CLS] comes from the first window, [SEP] from the last. A text that fits is one
window.

Knows nothing of organs and tasks, nor whether a baseline suits the texts. RoBERTa reads the first word
without a space before it, as in the package under transformers 5; the package's baselines were made with one.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eval.measure import Measure, mean
from eval.pairs import Pair, PairError
from models.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

LAYERS = {"bert-base-chinese": 8, "roberta-large": 17}  # bert_score.utils.model2layers, from WMT16
HUB_IDS = {
    "bert-base-chinese": "google-bert/bert-base-chinese",
    "roberta-large": "FacebookAI/roberta-large",
}
LONG = ("window", "refuse", "cut")
COLUMNS = ("BERTScore-P", "BERTScore-R", "BERTScore")  # P, R and F1, in the order of a row of scores

_PAIRS_AT_ONCE = 4  # times the batch size: the token vectors held at one time
_CELLS = 1 << 24  # cosines held at one time: 64 MB


@dataclass(frozen=True)
class Baseline:
    """What random pairs of sentences score at one layer; `source` names the file for the receipt."""

    values: tuple[float, float, float]  # P, R, F1
    source: str


class _Window(NamedTuple):
    """A stretch of a text that the model reads at once; the rows from `first` to before `end` are kept."""

    text: str
    ids: list[int]  # with [CLS] and [SEP]
    first: int
    end: int


@dataclass(frozen=True, eq=False)
class BertScorer:
    """A model cut after `layer`, and how its token vectors are compared. Made by `open_scorer`."""

    model: Any  # transformers' PreTrainedModel, float32, in evaluation mode
    tokenizer: Any
    name: str  # "bert-base-chinese"
    weights: str  # the first 12 hex digits of the weights' sha256
    layer: int
    max_length: int  # tokens, [CLS] and [SEP] among them
    idf: bool
    baseline: Baseline | None  # None: raw scores
    long: str  # one of LONG
    batch_size: int

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        idf_texts: Sequence[str] | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """P, R and F1 of each prediction against the reference in the same place: float64 [n, 3]. Equal texts
        score 1; rescaled scores may be below 0.

        `ids` name the rows in errors. `idf_texts` are the texts whose tokens are counted for idf, blank ones
        aside; by default the references. Raises PairError for a text that is too long where long is "refuse",
        and ModelError when the model gives numbers that are not finite.
        """
        ids = [f"row {number}" for number in range(1, len(predictions) + 1)] if ids is None else ids
        sides = [[_encodable(text) for text in texts] for texts in (predictions, references)]
        documents = sides[1] if idf_texts is None else [_encodable(text) for text in idf_texts]
        tokens = self._fitted(self._tokenize({*sides[0], *sides[1], *documents}), ids, sides)
        weights = self._token_weights([tokens[text] for text in documents if text in tokens])
        rows = list(zip(*sides, strict=True))
        wanted = dict.fromkeys(row for row in rows if row[0] in tokens and row[1] in tokens)
        found = dict(self._compare(list(wanted), tokens, weights, progress))
        scores = np.array([found.get(row, (0.0, 0.0, 0.0)) for row in rows], dtype=np.float64).reshape(-1, 3)
        if not np.isfinite(scores).all():
            raise ModelError(
                f"{self.name} gave numbers that are not finite, so there is no BERTScore. "
                "Get its weights again.",
                f"{self.name} 输出了非有限数值，无法计算 BERTScore。请重新获取权重。",
            )
        return scores

    def receipt(self, documents: int) -> str:
        """How a figure came about; `documents` is the number of references that idf was counted in."""
        capacity = self.max_length - 2
        long = {"window": f"window-{capacity}/{max(1, capacity // 2)}", "cut": f"cut-at-{capacity}"}
        parts = {
            "model": f"{self.name}@sha256:{self.weights}",
            "layer": self.layer,
            "idf": f"{documents} references" if self.idf else "none",
            "rescale": self.baseline.source if self.baseline else "none",
            "max": self.max_length,
            "long": long.get(self.long, self.long),
            "blank": 0,
            "multi": "best-f1",
            "v": f"transformers-{version('transformers')},torch-{version('torch')}",
        }
        return "|".join(f"{key}:{value}" for key, value in parts.items())

    def _tokenize(self, texts: set[str]) -> dict[str, np.ndarray]:
        """Token ids [tokens], [CLS] first and [SEP] last, of every text that is not blank."""
        tokens = {}
        for block in _batches(sorted(text for text in texts if text), 1000):
            found = self.tokenizer(block, verbose=False)["input_ids"]
            tokens |= {text: np.array(ids, dtype=np.int32) for text, ids in zip(block, found, strict=True)}
        return {text: ids for text, ids in tokens.items() if not self._is_special(ids).all()}

    def _is_special(self, ids: np.ndarray) -> np.ndarray:
        return np.isin(ids, (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id))

    def _fitted(
        self, tokens: dict[str, np.ndarray], ids: Sequence[str], sides: Sequence[Sequence[str]]
    ) -> dict[str, np.ndarray]:
        """The tokens that are to be read. PairError for the first text too long, if that is refused."""
        long = [
            (row, side, text)
            for row, *pair in zip(ids, *sides, strict=True)
            for side, text in zip(("prediction", "reference"), pair, strict=True)
            if len(tokens.get(text, ())) > self.max_length
        ]
        reads = self.max_length - 2
        if long and self.long == "refuse":
            row, side, text = long[0]
            raise PairError(
                f"id {row!r}: the {side} has {len(tokens[text]) - 2} tokens, and {self.name} reads {reads}. "
                "Shorten it, or score with long='window'."
            )
        if self.long != "cut":
            return tokens
        if long:
            rows = list(dict.fromkeys(row for row, *_ in long))
            named = ", ".join(rows[:5]) + (" …" if rows[5:] else "")
            warnings.warn(
                f"BERTScore with long='cut' read only {reads} tokens of texts in {len(rows)} rows ({named}).",
                stacklevel=3,
            )
        return {
            text: np.append(found[: reads + 1], found[-1]) if len(found) > self.max_length else found
            for text, found in tokens.items()
        }

    def _token_weights(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """What each id of the vocabulary weighs, float32 [ids]: 1, or log((N + 1) / (n + 1)) where n of N
        documents hold it (Zhang et al., section 3); [CLS] and [SEP] weigh 0."""
        size = self.model.get_input_embeddings().num_embeddings
        weights = np.ones(size)
        if self.idf:
            counts = np.zeros(size)
            for ids in documents:
                counts[np.unique(ids)] += 1
            weights = np.log((len(documents) + 1) / (counts + 1))
        weights[[self.tokenizer.cls_token_id, self.tokenizer.sep_token_id]] = 0.0
        return weights.astype(np.float32)

    def _weigh(self, ids: np.ndarray, weights: np.ndarray) -> Tensor:
        """The weights of a text's tokens, float32 [tokens], which sum to 1."""
        import torch

        found = weights[ids]
        if not found.any():
            found = np.where(self._is_special(ids), np.float32(0), np.float32(1))
        return torch.from_numpy(found / found.sum()).to(self.model.device)

    def _compare(
        self,
        wanted: list[tuple[str, str]],
        tokens: Mapping[str, np.ndarray],
        weights: np.ndarray,
        progress: bool,
    ) -> Iterator[tuple[tuple[str, str], list[float]]]:
        """Each pair of texts with its P, R and F1. A text is read once and let go after its last pair."""
        import torch
        from tqdm import tqdm

        wanted = sorted(wanted, key=lambda pair: max(map(len, pair)), reverse=True)  # like lengths together
        uses = Counter(text for pair in wanted for text in pair)
        vectors: dict[str, Tensor] = {}
        total = sum(len(_stretches(len(tokens[text]) - 2, self.max_length - 2)) for text in uses)
        with tqdm(total=total, desc="BERTScore", unit="window", mininterval=1, disable=not progress) as bar:
            for chunk in _batches(wanted, _PAIRS_AT_ONCE * self.batch_size):
                texts = {text: tokens[text] for pair in chunk for text in pair if text not in vectors}
                vectors |= self._embed(texts, bar)
                rows = [
                    _match(
                        vectors[prediction],
                        vectors[reference],
                        self._weigh(tokens[prediction], weights),
                        self._weigh(tokens[reference], weights),
                    )
                    for prediction, reference in chunk
                ]
                yield from zip(chunk, self._rescaled(torch.stack(rows)).tolist(), strict=True)
                uses.subtract(text for pair in chunk for text in pair)
                vectors = {text: kept for text, kept in vectors.items() if uses[text]}

    def _embed(self, texts: Mapping[str, np.ndarray], bar: Any) -> dict[str, Tensor]:
        """Unit vectors [tokens, hidden] of each text's tokens, from batches of windows of like length."""
        import torch

        windows = [window for text, ids in texts.items() for window in self._windows(text, ids)]
        windows.sort(key=lambda window: len(window.ids), reverse=True)  # stable: a text's own stay in order
        parts: dict[str, list[Tensor]] = {text: [] for text in texts}
        for batch in _like_lengths(windows, self.batch_size):
            for window, hidden in zip(batch, self._read([w.ids for w in batch]), strict=True):
                rows = hidden[window.first : window.end]
                parts[window.text].append(rows / rows.norm(dim=-1, keepdim=True))
            bar.update(len(batch))
        return {text: torch.cat(found) for text, found in parts.items()}

    def _windows(self, text: str, ids: np.ndarray) -> Iterator[_Window]:
        length = len(ids) - 2
        for start, end, kept, kept_end in _stretches(length, self.max_length - 2):
            inner = ids[1 + start : 1 + end].tolist()
            first = 1 + kept - start if start else 0  # with [CLS]
            last = 1 + kept_end - start + (end == length)  # with [SEP]
            yield _Window(text, [int(ids[0]), *inner, int(ids[-1])], first, last)

    def _read(self, ids: Sequence[list[int]]) -> Tensor:
        """What the layer says of each window's tokens: [windows, longest, hidden]."""
        import torch

        longest = max(map(len, ids))
        padded = torch.full((len(ids), longest), self.tokenizer.pad_token_id)  # [B, T]
        mask = torch.zeros_like(padded)
        for row, window in enumerate(ids):
            padded[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        with torch.inference_mode():
            return self.model(
                padded.to(self.model.device), attention_mask=mask.to(self.model.device)
            ).last_hidden_state

    def _rescaled(self, raw: Tensor) -> Tensor:
        """float64 [n, 3] on the CPU."""
        raw = raw.double().cpu()
        if self.baseline is None:
            return raw
        floor = raw.new_tensor(self.baseline.values)
        return (raw - floor) / (1 - floor)


def open_scorer(
    model: str | Path,
    *,
    layer: int | None = None,
    idf: bool = False,
    rescale: bool = True,
    device: str = "auto",
    language: str = "zh",
    long: str = "window",
    baseline: str | Path | None = None,
    batch_size: int = 64,
) -> BertScorer:
    """Open "bert-base-chinese", "roberta-large", another Hugging Face id (owner/name) or a local folder.

    `layer` has a default for the two models named; with any other it must be given. `rescale` takes the
    baseline that bert-score ships for the model and `language` ("zh", "en" …); a folder counts as the model
    that its name or its config.json states. `baseline` is a file of the same form (LAYER,P,R,F) instead.
    `long` says what becomes of texts that the model cannot read at once: "window", "refuse" or "cut".

    Raises ModelError (CheckpointError, DeviceUnavailable) for a model, layer, device or baseline that is not
    there, and ValueError for an unknown option.
    """
    if long not in LONG:
        raise ValueError(f"long {long!r} is not one of {', '.join(LONG)}")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size!r} is not a positive number")
    from models.backbone import choose_device
    from models.checkpoint import read_json, resolve, weight_files

    place = choose_device(device)
    known = str(model) in HUB_IDS and not Path(model).is_dir()
    folder = resolve(HUB_IDS[str(model)] if known else model)
    name = _name(model, folder, read_json(folder / "config.json"))
    layer = _layer(name, layer)
    found = _baseline(name, layer, language, baseline) if rescale else None
    encoder, tokenizer = _load(folder, name, layer)
    return BertScorer(
        model=encoder.to(place),
        tokenizer=tokenizer,
        name=name,
        weights=_sha256(weight_files(folder))[:12],
        layer=layer,
        max_length=_max_length(encoder, tokenizer),
        idf=idf,
        baseline=found,
        long=long,
        batch_size=batch_size,
    )


def measures(pairs: Sequence[Pair], scorer: BertScorer, *, progress: bool = True) -> list[Measure]:
    """The columns "BERTScore-P", "BERTScore-R" and "BERTScore" (F1).

    A missing or blank prediction scores 0; a pair without a reference is left out. idf counts the references
    of all pairs, whatever was predicted, so that two systems meet the same weights. Raises what
    `BertScorer.score` raises.
    """
    rows = [
        (index, pair.prediction or "", reference)
        for index, pair in enumerate(pairs)
        # A blank one among others would win with its 0 where rescaling leaves them below 0.
        for reference in [text for text in pair.references if text.strip()] or pair.references[:1]
    ]
    indices, predictions, references = zip(*rows, strict=True) if rows else ((), (), ())
    scores = scorer.score(predictions, references, ids=[pairs[i].id for i in indices], progress=progress)
    best = np.full((len(pairs), len(COLUMNS)), np.nan)
    for index, row in zip(indices, scores, strict=True):
        if not row[2] <= best[index, 2]:  # NaN, before the first, is never greater
            best[index] = row
    receipt = scorer.receipt(sum(bool(reference.strip()) for reference in references))
    return [mean(name, best[:, column], receipt) for column, name in enumerate(COLUMNS)]


def _encodable(text: str) -> str:
    """The text as the model may see it: no spaces around it, and "?" for half of a surrogate pair."""
    return text.strip().encode("utf-8", "replace").decode("utf-8")


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _like_lengths(windows: Sequence[_Window], size: int) -> Iterator[Sequence[_Window]]:
    """Batches of at most `size` sorted windows, none of them more than a quarter padding (or 8 tokens)."""
    batch: list[_Window] = []
    for window in windows:
        longest = len(batch[0].ids) if batch else 0
        if len(batch) == size or len(window.ids) < min(longest * 3 // 4, longest - 8):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _stretches(length: int, size: int) -> list[tuple[int, int, int, int]]:
    """Windows of `size` over `length` tokens: (start, end, first token kept, end of those kept)."""
    if length <= size:
        return [(0, length, 0, length)]
    starts = [*range(0, length - size, max(1, size // 2)), length - size]
    between = [(left + right + size + 1) // 2 for left, right in pairwise(starts)]  # nearest middle
    kept = pairwise((0, *between, length))
    return [(start, start + size, *edges) for start, edges in zip(starts, kept, strict=True)]


def _match(prediction: Tensor, reference: Tensor, precise: Tensor, recalled: Tensor) -> Tensor:
    """P, R and F1, [3], of unit vectors [p, hidden] and [r, hidden] and weights [p] and [r] that sum to 1."""
    import torch

    nearest, best = [], None
    for block in prediction.split(max(1, _CELLS // len(reference))):
        cosines = block @ reference.T  # [block, r]
        nearest.append(cosines.amax(1))
        best = cosines.amax(0) if best is None else torch.maximum(best, cosines.amax(0))
    p, r = torch.cat(nearest) @ precise, best @ recalled
    return torch.stack((p, r, torch.where(p + r == 0, 0.0, 2 * p * r / (p + r))))


def _name(model: str | Path, folder: Path, config: Mapping[str, Any]) -> str:
    """A name in LAYERS that the id, the folder or its configuration states; else the id's or folder's own."""
    stated = (str(model).partition("@")[0], str(folder.absolute()), str(config.get("_name_or_path") or ""))
    names = [Path(text).name.rpartition("--")[2] for text in stated]  # owner--name, as hub folders are called
    return next((name for name in names if name in LAYERS), names[0] or names[1])


def _layer(name: str, layer: int | None) -> int:
    layer = LAYERS.get(name) if layer is None else layer
    if layer is None:
        raise ModelError(
            f"There is no usual layer of {name} for BERTScore; give one. {', '.join(LAYERS)} have one.",
            f"{name} 没有默认的 BERTScore 层，请指定层号；{'、'.join(LAYERS)} 有默认值。",
        )
    return layer


def _load(folder: Path, name: str, layer: int) -> tuple[Any, Any]:
    """The encoder without what lies above `layer`, float32, and its tokenizer. ModelError for weights with
    holes, for a model that is no encoder like BERT and for a layer that it has not got."""
    import torch
    from transformers import AutoModel, AutoTokenizer, logging

    options = {"trust_remote_code": False, "local_files_only": True}
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its list of what it does not need, such as the head, reads like a fault
    try:
        model, report = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    finally:
        logging.set_verbosity(verbosity)
    holes = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))  # not read here
    if holes:
        raise ModelError(
            f"{folder} lacks {len(holes)} tensors of {name}, the first is {holes[0]}. Get the weights again.",
            f"{folder} 缺少 {name} 的 {len(holes)} 个张量，首个为 {holes[0]}。请重新获取权重。",
        )
    stack = getattr(model, "transformer", None) or getattr(model, "encoder", None)  # DistilBERT; all others
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    marks = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    if not hasattr(stack, "layer") or None in marks:
        raise ModelError(
            f"{name} is no encoder like BERT or RoBERTa, and BERTScore reads only those.",
            f"{name} 不是 BERT 或 RoBERTa 类编码器，无法用于 BERTScore。",
        )
    if not 0 <= layer <= len(stack.layer):
        raise ModelError(
            f"{name} has {len(stack.layer)} layers; layer {layer} is not one of 0 to {len(stack.layer)}.",
            f"{name} 共有 {len(stack.layer)} 层；层号 {layer} 不在 0 至 {len(stack.layer)} 之间。",
        )
    stack.layer = stack.layer[:layer]
    return model.eval(), tokenizer


def _max_length(model: Any, tokenizer: Any) -> int:
    """The most tokens that the model reads at once: what its positions and its tokenizer allow. A tokenizer
    that was never told says 10^30."""
    positions = model.config.max_position_embeddings
    table = getattr(model.embeddings, "position_embeddings", None)
    if table is not None and table.padding_idx is not None:  # RoBERTa's first token stands behind the padding
        positions -= table.padding_idx + 1
    return min(positions, tokenizer.model_max_length)


def _sha256(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _baseline(name: str, layer: int, language: str, file: str | Path | None) -> Baseline:
    """The baseline of a layer, from `file` or from the package bert-score. ModelError where there is none."""
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise ModelError(f"There is no baseline file {path}.", f"没有基线文件 {path}。")
        return Baseline(_baseline_row(path, layer), f"{path.name}@sha256:{_sha256([path])[:12]}")
    package = find_spec("bert_score")
    if package is None:
        raise ModelError(
            "The baselines come with the package bert-score: pip install bert-score. Or give a baseline "
            "file, or score without rescaling.",
            "基线随 bert-score 软件包提供：请先 pip install bert-score，或提供基线文件，或不做重标定。",
        )
    shipped = Path(package.submodule_search_locations[0]) / "rescale_baseline"
    found = {path.relative_to(shipped).parts[0]: path for path in shipped.rglob("*.tsv") if path.stem == name}
    if language not in found:
        others = ", ".join(sorted(found)) or "–"
        raise ModelError(
            f"bert-score has no baseline of {name} for language {language!r} (it has: {others}). "
            "Give a baseline file, or score without rescaling.",
            f"bert-score 没有 {name} 在语言 {language!r} 上的基线（现有：{others}）。"
            "请提供基线文件，或不做重标定。",
        )
    return Baseline(_baseline_row(found[language], layer), f"bert-score-{version('bert-score')}/{language}")


def _baseline_row(path: Path, layer: int) -> tuple[float, float, float]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {int(row["LAYER"]): tuple(float(row[k]) for k in "PRF") for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} is not a baseline: expected lines LAYER,P,R,F of numbers ({error}).",
            f"{path} 不是基线文件：应为 LAYER,P,R,F 的数值行（{error}）。",
        ) from None
    if layer not in rows:
        raise ModelError(
            f"{path.name} has no baseline for layer {layer}; it has {', '.join(map(str, rows)) or 'none'}.",
            f"{path.name} 没有第 {layer} 层的基线；现有 {'、'.join(map(str, rows)) or '无'}。",
        )
    return rows[layer]
