"""`python -m benchmarks.eval_metrics`: the text metrics beside the packages that define them, in one run.

Chinese report pairs of about 145 characters are made from a seed. Each profile is computed by `eval` and
by a loop over the reference packages as the projects' own scripts write it; CPU seconds of both,
tokenizing included, their ratio, and the largest difference between the two sets of values. Then what
1,000 bootstrap resamples add, and time and memory for ten times as many pairs. Compare ratios, not
seconds: another machine has others.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from eval import profiles
from eval.pairs import Pair
from eval.scoring import Options, measured, score_pairs
from eval.texts import Texts

SIDES = ("左", "右")
PLACES = (
    "甲状腺{}叶中部",
    "{}侧乳腺外上象限",
    "{}肾中极实质",
    "肝{}叶近被膜处",
    "{}侧卵巢旁",
    "{}侧颈总动脉分叉处",
    "{}心室前壁",
)
KINDS = ("低回声结节", "等回声团块", "高回声光团", "无回声区", "混合回声包块", "强回声斑块")
BOUNDARIES = ("边界清晰", "边界欠清", "边界不清", "边缘光整", "边缘呈毛刺状", "边缘分叶")
SHAPES = ("形态规则", "形态欠规则", "形态不规则", "呈椭圆形", "呈类圆形", "纵横比大于1")
INSIDES = (
    "内部回声均匀",
    "内部回声不均匀",
    "内可见点状强回声",
    "内可见分隔",
    "后方回声增强",
    "后方伴声影",
    "内见液性暗区",
)
FLOWS = (
    "CDFI：其内可见点状血流信号",
    "CDFI：周边可见环状血流",
    "CDFI：未见明显血流信号",
    "RI={:.2f}，Vmax={}cm/s",
)
NORMAL = (
    "余实质回声均匀", "未见明显占位性病变", "周围组织结构清晰", "血管走行正常", "双侧未见明显肿大淋巴结",
    "包膜完整", "胆囊壁光滑", "胆总管未见扩张", "门静脉内径正常", "腹腔未见积液", "瓣膜启闭可",
    "室壁运动协调", "子宫大小正常", "内膜厚约{}mm", "皮髓质分界清晰",
)  # fmt: skip
CATEGORIES = (
    "BI-RADS 3类",
    "BI-RADS 4A类",
    "TI-RADS 3类",
    "TI-RADS 4B类",
    "建议随访",
    "建议穿刺活检",
    "考虑良性",
    "请结合临床",
)


def report(chance: random.Random) -> list[str]:
    """One report of about 145 characters, clause by clause."""
    side, kind = chance.choice(SIDES), chance.choice(KINDS)
    size = f"大小约{chance.uniform(0.3, 6):.1f}×{chance.uniform(0.2, 4):.1f}cm"
    flow = chance.choice(FLOWS).format(chance.uniform(0.4, 0.9), chance.randint(5, 90))
    clauses = [chance.choice(PLACES).format(side) + "可见一" + kind, size]
    clauses += [chance.choice(BOUNDARIES), chance.choice(SHAPES), *chance.sample(INSIDES, 2), flow]
    clauses += [clause.format(chance.randint(2, 18)) for clause in chance.sample(NORMAL, 9)]
    return [*clauses, chance.choice(CATEGORIES)]


def predicted(reference: list[str], chance: random.Random) -> list[str]:
    """What a fair model writes: most clauses kept, some replaced, left out or told in another order."""
    other = report(chance)
    clauses = [chance.choice(other) if chance.random() < 0.3 else clause for clause in reference]
    clauses = [clause for clause in clauses if chance.random() > 0.08]
    at = chance.randrange(len(clauses))
    return clauses[at:] + clauses[:at] if chance.random() < 0.2 else clauses


def pairs_of(count: int, seed: int) -> list[Pair]:
    """`count` pairs of reports."""
    chance = random.Random(seed)
    pairs = []
    for index in range(count):
        reference = report(chance)
        texts = ["，".join(clauses) + "。" for clauses in (predicted(reference, chance), reference)]
        pairs.append(Pair(str(index), texts[0], (texts[1],), {"patient": str(index // 2)}))
    return pairs


Values = dict[str, list[float]]


def reference_echovlm(pairs: list[Pair]) -> Values:
    """jieba, nltk (one call for the four orders), rouge_chinese, nltk's METEOR, rouge_score, sacreBLEU."""
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from nltk.translate.meteor_score import single_meteor_score
    from rouge_chinese import Rouge
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import BLEU

    smooth, rouge = SmoothingFunction().method3, Rouge()
    google = RougeScorer(["rouge1", "rouge2"], tokenizer=_Spaces())
    weights = [(1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0), (1 / 3, 1 / 3, 1 / 3, 0), (1 / 4,) * 4]
    values: Values = {}
    for pair in pairs:
        said, true = (_words(jieba.lcut(text)) for text in (pair.prediction, pair.references[0]))
        orders = sentence_bleu([true], said, weights, smoothing_function=smooth)
        row = {f"BLEU-{n}": value for n, value in enumerate(orders, start=1)}
        scores = rouge.get_scores(" ".join(said), " ".join(true))[0]
        row |= {f"ROUGE-{name.upper()}": scores[f"rouge-{name}"]["f"] for name in ("1", "2", "l")}
        row["METEOR"] = single_meteor_score(true, said, stemmer=_Same(), wordnet=_NoSynonyms())
        counted = google.score(" ".join(true), " ".join(said))
        row |= {f"ROUGE-{n} multiset": counted[f"rouge{n}"].fmeasure for n in (1, 2)}
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    texts = [pair.prediction for pair in pairs], [[pair.references[0] for pair in pairs]]
    return values | {"BLEU corpus": [BLEU(tokenize="zh").corpus_score(*texts).score]}


def reference_llamafactory(pairs: list[Pair]) -> Values:
    """LLaMA-Factory's compute_metrics: jieba and rouge_chinese, nltk's BLEU-4 over characters."""
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    values: Values = {}
    for pair in pairs:
        said, true = (" ".join(jieba.cut(text)) for text in (pair.prediction, pair.references[0]))
        scores = Rouge().get_scores(said, true)[0]
        row = {
            f"ROUGE-{name.upper()}": round(scores[f"rouge-{name}"]["f"] * 100, 4) for name in ("1", "2", "l")
        }
        bleu = sentence_bleu([list(pair.references[0])], list(pair.prediction),
                             smoothing_function=SmoothingFunction().method3)  # fmt: skip
        for name, value in (row | {"BLEU-4": round(bleu * 100, 4)}).items():
            values.setdefault(name, []).append(value)
    return values


def reference_swift(pairs: list[Pair]) -> Values:
    """ms-swift's compute_rouge_bleu: jieba, rouge, nltk's BLEU-4 over words."""
    import jieba
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge import Rouge

    values: Values = {}
    for pair in pairs:
        said, true = (_words(jieba.lcut(text)) for text in (pair.prediction, pair.references[0]))
        scores = Rouge().get_scores(" ".join(said), " ".join(true))[0]
        row = {f"ROUGE-{name.upper()}": scores[f"rouge-{name}"]["f"] for name in ("1", "2", "l")}
        row["BLEU-4"] = sentence_bleu([true], said, smoothing_function=SmoothingFunction().method3)
        for name, value in row.items():
            values.setdefault(name, []).append(round(100 * value, 6))
    return values


def reference_llava(pairs: list[Pair]) -> Values:
    """LLaVA-Med's loop body on jieba words: nltk four times, its counting of words; our normalisation,
    which is faster than the script's."""
    from collections import Counter

    import jieba
    from nltk.translate.bleu_score import sentence_bleu

    from eval.metrics.llava_med import normalize

    weights = {f"BLEU-{n}": [float(i == n - 1) for i in range(4)] for n in (1, 2, 3)}
    weights["BLEU-uniform"] = [0.25] * 4
    values: Values = {}
    for pair in pairs:
        texts = (" ".join(_words(jieba.lcut(text))).lower() for text in (pair.prediction, pair.references[0]))
        once = [normalize(text) for text in texts]
        said, true = (text.split() for text in once)
        row = {name: sentence_bleu([true], said, weights=weight) for name, weight in weights.items()}
        found, wanted = (Counter(normalize(text).split()) for text in once)
        row["EM"] = sum(word in found for word in wanted) / sum(found.values())
        right = sum(count for word, count in found.items() if word in wanted)
        row["P"] = right / sum(found.values())
        row["R"] = right / (right + sum(count for word, count in wanted.items() if word not in found))
        row["F1"] = 2 * row["P"] * row["R"] / (row["P"] + row["R"]) if right else 0.0
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return values


def reference_sacrebleu(pairs: list[Pair]) -> Values:
    """sacreBLEU's corpus score with four tokenizers."""
    import jieba
    from sacrebleu import BLEU

    said, true = [pair.prediction for pair in pairs], [pair.references[0] for pair in pairs]
    values: Values = {}
    for tokenizer in ("zh", "char", "13a"):
        values[f"BLEU {tokenizer}"] = [BLEU(tokenize=tokenizer).corpus_score(said, [true]).score]
    said, true = ([" ".join(_words(jieba.lcut(text))) for text in texts] for texts in (said, true))
    return values | {"BLEU tokens": [BLEU(tokenize="none", force=True).corpus_score(said, [true]).score]}


def _words(tokens: list[str]) -> list[str]:
    return [token for token in tokens if token.strip()]


class _Spaces:
    def tokenize(self, text: str) -> list[str]:
        return text.split()


class _Same:
    def stem(self, word: str) -> str:
        return word


class _NoSynonyms:
    def synsets(self, word: str) -> list:
        return []


REFERENCES: dict[str, Callable[[list[Pair]], Values]] = {
    "echovlm": reference_echovlm,
    "llamafactory": reference_llamafactory,
    "swift": reference_swift,
    "llava": reference_llava,
    "sacrebleu": reference_sacrebleu,
}


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds of this process, and what `work` gave."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def ours(profile: str, pairs: list[Pair]) -> list:
    return profiles.measures(profile, Texts(pairs))


def difference(measures: Iterable, values: Values) -> float:
    """The largest distance between a column of ours and the package's, corpus scores by their sum."""
    worst = 0.0
    for measure in measures:
        peer = np.array(values[measure.name]) if measure.name in values else None
        if peer is None:
            continue
        own = measure.per_case * measure.case_scale
        if len(peer) == 1 != len(own):
            own = measure.of(measure.counts.sum(axis=0))
        worst = max(worst, float(np.abs(own - peer).max()))
    return worst


def compare(pairs: list[Pair], repeats: int) -> None:
    for profile in REFERENCES:  # imports, dictionaries and first calls belong to neither side
        ours(profile, pairs[:20])
        REFERENCES[profile](pairs[:20])
    print("| profile | eval, CPU s | packages, CPU s | ratio | largest difference |\n|---|---|---|---|---|")
    total = 0.0
    for profile, reference in REFERENCES.items():
        own = min((timed(partial(ours, profile, pairs)) for _ in range(repeats)), key=lambda run: run[0])
        peer = timed(partial(reference, pairs))
        total += peer[0]
        worst = difference(own[1], peer[1])
        print(
            f"| {profile} | {own[0]:.2f} | {peer[0]:.2f} | {peer[0] / own[0]:.1f}× | {worst:.1e} |",
            flush=True,
        )
    together = min(timed(partial(every_profile, pairs))[0] for _ in range(repeats))
    print(f"| all five | {together:.2f} | {total:.2f} | {total / together:.1f}× | |")


def every_profile(pairs: list[Pair]) -> None:
    """All of REFERENCES as `score --profile` does them: texts are cut once for all."""
    texts = Texts(pairs)
    for profile in REFERENCES:
        profiles.measures(profile, texts)


def intervals(pairs: list[Pair], repeats: int) -> None:
    """What the bootstrap adds to the default command's work."""
    options = {"sections": ("echovlm", "answers")}
    plain = min(timed(lambda: score_pairs(pairs, Options(resamples=0, **options)))[0] for _ in range(repeats))
    full = min(
        timed(lambda: score_pairs(pairs, Options(resamples=1000, **options)))[0] for _ in range(repeats)
    )
    print(
        f"\nscore without intervals {plain:.2f} CPU s, with 1,000 resamples {full:.2f}: "
        f"+{100 * (full / plain - 1):.0f} %"
    )
    everything = timed(lambda: measured(pairs, Options()))[0]
    print(f"with clinical agreement and every other section, before intervals: {everything:.2f} CPU s")


def scale(count: int, seed: int) -> None:
    """One process of its own for `count` pairs: CPU seconds and the largest memory."""
    code = f"from benchmarks.eval_metrics import alone; alone({count}, {seed})"
    subprocess.run([sys.executable, "-c", code], check=True)


def alone(count: int, seed: int) -> None:
    pairs = pairs_of(count, seed)
    seconds = timed(lambda: score_pairs(pairs, Options()))[0]
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    memory = int(peak.split()[1]) / 1024
    print(f"{count:,} pairs, every section and 1,000 resamples: {seconds:.2f} CPU s, {memory:.0f} MB at most")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eval_metrics", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--repeats", type=int, default=3, help="of ours; the best counts (the packages run once)"
    )
    args = parser.parse_args()
    pairs = pairs_of(args.pairs, args.seed)
    characters = np.mean([len(text) for pair in pairs for text in (pair.prediction, *pair.references)])
    print(f"{len(pairs):,} pairs, {characters:.0f} characters on average, seed {args.seed}\n")
    compare(pairs, args.repeats)
    intervals(pairs, args.repeats)
    for count in (args.pairs, 10 * args.pairs):
        scale(count, args.seed)


if __name__ == "__main__":
    main()
