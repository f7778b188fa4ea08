"""Named combinations of text metrics. "BLEU on Chinese" is not one number, so a score is always a
profile's score.

On one file of Chinese reports BLEU-4 is 52.3, 45.1, 46.2 or 50.5 depending on whose definition is meant;
each profile is one stated combination, and every column carries its receipt. Where a project's own script
prints single cases on a scale of 0–100, so does the profile's `case_scale`.

- `echovlm`: what EchoVLM's tables most likely are: jieba words, sentence means of nltk's cumulative BLEU
  with method3, rouge_chinese, METEOR by equal words; beside it ROUGE counted with repeats and sacreBLEU's
  corpus score.
- `llava`: LLaVA-Med's definitions on jieba words, as LLaVA-Ultra reports them, with strict exact match
  and clipped F1.
- `llamafactory`, `swift`: those projects' evaluation scripts.
- `sacrebleu`: corpus BLEU with its four usual tokenizers.
- `nltk`: sentence BLEU, every order cumulative and alone, unsmoothed and with method1 and method3.
- `rouge_score`: Google's ROUGE on the chosen tokens.

BERTScore needs a model and is added by `eval.scoring`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain

import numpy as np

from eval import tokenizers
from eval.measure import Measure, mean
from eval.metrics import answers, bleu, llava_med, meteor, rouge
from eval.texts import Cut, Texts

TITLES = {
    "echovlm": "Text, profile echovlm (EchoVLM's definitions)",
    "llava": "Text, profile llava (LLaVA-Med's definitions, open questions)",
    "llamafactory": "Text, profile llamafactory (LLaMA-Factory's script)",
    "swift": "Text, profile swift (ms-swift's script; pairs with a blank side are skipped)",
    "sacrebleu": "Text, profile sacrebleu (corpus BLEU)",
    "nltk": "Text, profile nltk (sentence BLEU)",
    "rouge_score": "Text, profile rouge_score (Google's ROUGE)",
}
ORDERS = (1, 2, 3, 4)


def measures(profile: str, texts: Texts) -> list[Measure]:
    """The columns of a profile over all pairs. ValueError for an unknown profile."""
    if profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; choose one of {', '.join(PROFILES)}, all")
    return list(PROFILES[profile](texts))


def _echovlm(texts: Texts) -> Iterable[Measure]:
    words = texts.words
    for order in ORDERS:
        receipt = _receipt(
            texts, f"agg:sent-mean|order:{order}|weights:cumulative|smooth:m3|like:nltk-3.10.4"
        )
        yield mean(f"BLEU-{order}", _nltk(texts, bleu.cumulative(order), "m3"), receipt)
    receipt = _receipt(texts, "f:2PR/(P+R+1e-8)|ngrams:sets|lcs:list|like:rouge_chinese-1.0.3")
    for name, variant in zip(("1", "2", "L"), rouge.chinese(_rouge_chinese_words(texts).shared), strict=True):
        yield mean(f"ROUGE-{name}", texts.best(variant.f), receipt)
    yield mean("METEOR", texts.best(_meteor(words)), _receipt(texts, f"{meteor.RECEIPT}|like:nltk-3.10.4"))
    receipt = _receipt(texts, "ngrams:clipped|like:rouge_score-0.1.2")
    for name, variant in zip(("1", "2"), rouge.google(words.shared), strict=False):
        yield mean(f"ROUGE-{name} multiset", texts.best(variant.f), receipt)
    yield _corpus_bleu("BLEU corpus", texts, "zh")


def _llava(texts: Texts) -> Iterable[Measure]:
    words = texts.words
    once = texts.cut("llava once", lambda text: _normalized(words.tokens(text)))
    twice = texts.cut("llava twice", lambda text: _normalized(once.tokens(text)))
    grams = twice.shared.grams[0]
    open_ones = _open(texts)
    receipt = _receipt(texts, "words:vqa-norm-2x|like:llava-med-ff616e7")
    figures = {"EM": llava_med.exact(grams)}
    figures |= dict(zip(("F1", "P", "R"), llava_med.f1_precision_recall(grams), strict=True))
    for name, rows in figures.items():
        yield mean(name, np.where(open_ones, texts.best(rows), np.nan), receipt)
    counts = once.bleu_counts(len(texts.pairs))
    for name, weights in [(f"BLEU-{n}", bleu.individual(n)) for n in (1, 2, 3)] + [
        ("BLEU-uniform", bleu.cumulative(4))
    ]:
        kind = "cumulative|order:4" if name == "BLEU-uniform" else f"individual|order:{name[-1]}"
        receipt = _receipt(texts, f"words:vqa-norm-1x|weights:{kind}|smooth:none|like:llava-med-ff616e7")
        values = np.where(open_ones & _has_text(texts), bleu.nltk_bleu(counts, weights, "m0"), np.nan)
        yield mean(name, values, receipt)
    yield mean("EM strict", np.where(open_ones, _strict(texts), np.nan), _plain(texts, "strip"), share=True)
    f1 = answers.token_scores(texts.words.shared.grams[0])[0]
    yield mean("F1 clipped", np.where(open_ones, texts.best(f1), np.nan), _receipt(texts, "tokens:clipped"))
    both = zip(texts.predictions, texts.references, strict=True)
    found = texts.best([llava_med.closed(prediction, reference) for prediction, reference in both])
    receipt = _plain(texts, "substring|like:llava-med-ff616e7")
    yield mean("closed by substring", np.where(open_ones, np.nan, found), receipt, share=True)


def _normalized(words: list[str]) -> list[str]:
    """LLaVA-Med's words of a text whose tokens are set apart by spaces."""
    return llava_med.normalize(" ".join(words).lower()).split()


def _llamafactory(texts: Texts) -> Iterable[Measure]:
    characters = texts.cut("every character", list)
    scores = {"BLEU-4": _best_bleu(texts, characters, bleu.cumulative(4), "m3")}
    words = texts.cut("llamafactory", _as_llamafactory_reads)
    spoken = (words.shared.predicted > 0) & (words.shared.referenced > 0)
    for name, variant in zip(("1", "2", "L"), rouge.chinese(words.shared), strict=True):
        scores[f"ROUGE-{name}"] = texts.best(np.where(spoken, variant.f, 0.0))
    tokens = {"BLEU-4": "tok:characters|order:4|weights:cumulative|smooth:m3"}
    for name, values in scores.items():
        receipt = f"{tokens.get(name, 'tok:jieba-0.42.1-hmm|ngrams:sets')}|round:4|{texts.signature}"
        rounded = [_round(100 * value, 4) / 100 for value in values]
        yield mean(name, rounded, f"{receipt}|like:llama-factory-ff6d4d1", case_scale=100.0)


def _as_llamafactory_reads(text: str) -> list[str]:
    """jieba's tokens, line breaks among them, as rouge_chinese counts them once they are joined by spaces."""
    if "\n" in text or _DOTS in text:
        return rouge.chinese_words(" ".join(tokenizers.jieba_whole(text)))
    return [token for token in tokenizers.jieba_spaced(text) if token.strip()]


_DOTS = "." * 7  # the package starts a new sentence after six full stops, inside a token too


def _rouge_chinese_words(texts: Texts) -> Cut:
    """The chosen tokens as rouge_chinese counts them: cut once more where it ends a sentence inside a
    token."""
    every = chain(texts.predictions, texts.references)
    if texts.token_signature.startswith("jieba-0.42.1-hmm") and not any(_DOTS in text for text in every):
        return texts.words
    return texts.cut("rouge_chinese", lambda text: rouge.chinese_words(" ".join(texts.tokens(text))))


def _swift(texts: Texts) -> Iterable[Measure]:
    words = texts.cut("swift", tokenizers.jieba_spaced)
    blank = (words.shared.predicted == 0) | (
        words.shared.referenced == 0
    )  # the script leaves these pairs out
    receipt = f"tok:jieba-0.42.1-hmm|round:6|{texts.signature}|like:ms-swift-3602360"
    values = _best_bleu(texts, words, bleu.cumulative(4), "m3")
    spoken = ~np.isnan(texts.best(np.where(blank, np.nan, 0.0)))
    details = {"case_scale": 100.0}
    bleu_receipt = f"order:4|weights:cumulative|smooth:m3|{receipt}"
    yield mean("BLEU-4", _rounded(np.where(spoken, values, np.nan)), bleu_receipt, **details)
    both = zip(texts.predictions, texts.references, strict=True)
    rows = [
        None if skip else rouge.pltrdy(words.tokens(prediction), words.tokens(reference))
        for skip, (prediction, reference) in zip(blank, both, strict=True)
    ]
    for i, name in enumerate(("1", "2", "L")):
        values = texts.best([np.nan if row is None else row[i] for row in rows])
        yield mean(f"ROUGE-{name}", _rounded(values), f"ngrams:sets|like:rouge-1.0.1|{receipt}", **details)
    yield mean("acc", _strict(texts, strip=False), _plain(texts, "equal"), share=True)


def _sacrebleu(texts: Texts) -> Iterable[Measure]:
    for name in ("zh", "char", "13a"):
        yield _corpus_bleu(f"BLEU {name}", texts, name)
    yield _corpus_bleu("BLEU tokens", texts, None)


def _corpus_bleu(name: str, texts: Texts, tokenizer: str | None) -> Measure:
    """A column of sums; alone, a case has sacreBLEU's sentence score with effective order."""
    cut = texts.words if tokenizer is None else texts.cut(tokenizer, tokenizers.tokenizer(tokenizer)[0])
    token = texts.token_signature if tokenizer is None else tokenizer
    receipt = f"agg:corpus|smooth:exp|eff:no|tok:{token}|{texts.signature}|like:sacrebleu-2.6.0"
    has_text = _has_text(texts)
    counts = np.column_stack([cut.bleu_counts(len(texts.pairs)), has_text])

    def finish(sums: np.ndarray, effective_order: bool) -> np.ndarray:
        score = bleu.sacrebleu(sums[..., :10], effective_order=effective_order) / 100
        return np.where(sums[..., 10] > 0, score, np.nan)

    corpus, sentence = partial(finish, effective_order=False), partial(finish, effective_order=True)
    return Measure(name, counts, corpus, receipt, case_scale=100.0, finish_case=sentence)


def _nltk_profile(texts: Texts) -> Iterable[Measure]:
    for method in bleu.METHODS:
        for kind, weights in (("cumulative", bleu.cumulative), ("individual", bleu.individual)):
            for order in ORDERS:
                name = f"BLEU-{order} {method}" + (" individual" if kind == "individual" else "")
                settings = f"agg:sent-mean|order:{order}|weights:{kind}|smooth:{method}|like:nltk-3.10.4"
                yield mean(name, _nltk(texts, weights(order), method), _receipt(texts, settings))


def _rouge_score(texts: Texts) -> Iterable[Measure]:
    receipt = _receipt(texts, "ngrams:clipped|like:rouge_score-0.1.2")
    for name, variant in zip(("1", "2", "L"), rouge.google(texts.words.shared), strict=True):
        for part, values in (("", variant.f), (" P", variant.precision), (" R", variant.recall)):
            yield mean(f"ROUGE-{name}{part}", texts.best(values), receipt)


def answer_measures(texts: Texts) -> list[Measure]:
    """Exact match and token scores: the section that stands beside every profile."""
    f1, precision, recall = map(texts.best, answers.token_scores(texts.words.shared.grams[0]))
    clipped = _receipt(texts, "tokens:clipped|agg:mean")
    return [
        mean("EM", _strict(texts), _plain(texts, "strip"), share=True),
        mean("EM normalised", _normalised(texts), _plain(texts, "nfkc+lower-space-punct"), share=True),
        *(mean(name, v, clipped) for name, v in (("F1", f1), ("P", precision), ("R", recall))),
    ]


def _nltk(texts: Texts, weights: tuple[float, ...], method: str) -> np.ndarray:
    return _best_bleu(texts, texts.words, weights, method)


def _best_bleu(texts: Texts, cut: Cut, weights: tuple[float, ...], method: str) -> np.ndarray:
    values = bleu.nltk_bleu(cut.bleu_counts(len(texts.pairs)), weights, method)
    return np.where(_has_text(texts), values, np.nan)


def _meteor(cut: Cut) -> np.ndarray:
    return meteor.meteor(cut.alignment, cut.shared.predicted, cut.shared.referenced)


def _has_text(texts: Texts) -> np.ndarray:
    """bool [pairs]: which pairs have a reference text."""
    return np.bincount(texts.pair, minlength=len(texts.pairs)) > 0


def _open(texts: Texts) -> np.ndarray:
    """bool [pairs]: every pair that is not marked as a closed question."""
    return np.array([str(pair.values.get("answer_type")).lower() != "closed" for pair in texts.pairs], bool)


def _strict(texts: Texts, *, strip: bool = True) -> np.ndarray:
    both = zip(texts.predictions, texts.references, strict=True)
    return texts.best([answers.strict(p, r) if strip else p == r for p, r in both])


def _normalised(texts: Texts) -> np.ndarray:
    both = zip(texts.predictions, texts.references, strict=True)
    return texts.best([answers.normalised(prediction, reference) for prediction, reference in both])


def _rounded(values: np.ndarray) -> list[float]:
    return [_round(100 * value, 6) / 100 for value in values]


def _round(value: float, digits: int) -> float:
    """Python's own rounding, which the scripts use; numpy's differs at ties."""
    return round(float(value), digits)


def _receipt(texts: Texts, settings: str) -> str:
    return f"tok:{texts.token_signature}|{settings}|{texts.signature}"


def _plain(texts: Texts, comparison: str) -> str:
    return f"match:{comparison}|{texts.signature}"


PROFILES: dict[str, Callable[[Texts], Iterable[Measure]]] = {
    "echovlm": _echovlm,
    "llava": _llava,
    "llamafactory": _llamafactory,
    "swift": _swift,
    "sacrebleu": _sacrebleu,
    "nltk": _nltk_profile,
    "rouge_score": _rouge_score,
}


def named(profiles: Iterable[str]) -> list[str]:
    """Profiles in the order of PROFILES, "all" standing for every one. ValueError for an unknown name."""
    wanted = set(chain.from_iterable(PROFILES if name == "all" else [name] for name in profiles))
    if unknown := wanted - set(PROFILES):
        raise ValueError(
            f"no profile is called {sorted(unknown)[0]!r}; choose from {', '.join(PROFILES)}, all"
        )
    return [name for name in PROFILES if name in wanted]
