"""`python -m benchmarks.ablations BASE`: EchoVLM's Tables 5–7 at demo size, on simulated cases.

BASE is the output folder of the demo recipe (`runs/demo_echovlm`), whose cases every variant learns from; all
begin with the recipe's own base, the dense demo weights. Each variant then sees the same samples in the same
order for the same number of steps: stage I and stage II of the paper, or, for "0 experts", the dense
language model and then LoRA as in stage II. The answers to cases of a fresh seed are scored by `eval`.
What comes out is reported, also where it contradicts the paper: `ablations.md` with the tables,
`ablations.png` with the bars.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from assistants.base import open_assistant
from eval.pairs import read_pairs
from eval.picture import draw
from eval.prediction import predict
from eval.result import Result
from eval.scoring import Options, score_pairs
from eval.table import render
from training.recipe import Recipe, StageRecipe, read_recipe
from training.run import run, simulate

RECIPE = Path(__file__).parents[1] / "training" / "recipes" / "demo_echovlm.yaml"
COLUMNS = ("BLEU-1", "ROUGE-1", "ROUGE-L", "METEOR")  # the paper's, without BERTScore
VARIANTS: dict[str, dict | None] = {  # fields of the mixture; None has none
    "0 experts (dense)": None,
    "2 experts, top 2": {"num_experts": 2},
    "4 experts, top 1": {"num_experts_per_tok": 1},
    "4 experts, top 2": {},
    "4 experts, top 2, no shared expert": {"shared_expert_intermediate_size": 0},
}
HEADER = """# Ablations at demo size

Made by `python -m benchmarks.ablations`. EchoVLM's Tables 5 (shared expert), 6 (top-k) and 7 (number of
experts) asked again with the demo recipe: {steps} steps of {batch} examinations for every variant, all from
the same dense demo weights, seed {training}; {cases} examinations of seed {seed}, with a
report, a diagnosis and a question each. Profile `echovlm`, 95 % bootstrap intervals over examinations.
One run each: differences within the intervals say nothing.

![bars](ablations.png)
"""


def variant_recipe(recipe: Recipe, mixture: dict | None, steps: tuple[int, int]) -> Recipe:
    """The demo recipe with two stages of `steps` each and this mixture, or none."""
    stages = {stage.kind: stage for stage in recipe.stages}

    def short(kind: str, like: StageRecipe, count: int) -> StageRecipe:
        schedule = replace(like.schedule, steps=count, minutes=None)
        return replace(like, name=kind, kind=kind, schedule=schedule)

    first, second = ("captions", "lora") if mixture is None else ("moe", "instruct")
    both = (short(first, stages["moe"], steps[0]), short(second, stages["instruct"], steps[1]))
    own = None if mixture is None else recipe.mixture | mixture
    return replace(recipe, stages=both, mixture=own, held_out=None, familiarity_quantile=None)


def borrow(base: Path, output: Path) -> None:
    """Link into a variant's folder what the base run has made of the cases."""
    output.mkdir(parents=True, exist_ok=True)
    for name in ("cases", "seen"):
        link = output / name
        if not link.exists():
            link.symlink_to((base / name).resolve(), target_is_directory=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument("base", type=Path, help="output folder of the demo recipe")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--steps", type=int, nargs=2, default=(500, 300), help="of the two stages")
    parser.add_argument("--cases", type=int, default=300, help="examinations to answer")
    parser.add_argument("--seed", type=int, default=30303, help="of those; training used seeds 1 and 2")
    parser.add_argument("--workers", type=int, default=1, help="variants at once; set OMP_NUM_THREADS too")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("ablations.md"))
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(answered, recipe, name, own, args) for name, own in VARIANTS.items()]
        results = [job.result() for job in jobs]
    draw(results, args.output.with_suffix(".png"), columns=("BLEU-1", "ROUGE-L"))
    schedule = next(stage for stage in recipe.stages if stage.kind == "moe").schedule
    header = HEADER.format(
        steps=" + ".join(map(str, args.steps)),
        batch=schedule.batch_size,
        training=recipe.seed,
        cases=args.cases,
        seed=args.seed,
    )
    args.output.write_text(f"{header}\n{render(results, layout='systems')}", "utf-8")
    print(args.output)


def answered(recipe: Recipe, name: str, mixture: dict | None, args: argparse.Namespace) -> Result:
    """Train one variant unless that is done, let it answer the fresh cases, and score them by task."""
    output = args.base / "ablations" / "".join(c if c.isalnum() else "_" for c in name)
    own = variant_recipe(recipe, mixture, tuple(args.steps))
    borrow(args.base, output)
    weights = run(own, output)
    order = {"cases": args.cases, "seed": args.seed, "task": ["report", "diagnosis", "vqa"], "quiet": True}
    with tempfile.TemporaryDirectory() as folder:
        simulate(order, Path(folder), print)
        answers = output / f"answers-{args.cases}-{args.seed}.jsonl"
        assistant = open_assistant("echovlm", str(weights))
        predict(Path(folder) / "cases.jsonl", assistant, None, answers, batch_size=16)
    options = Options(group_by="task", cluster="patient", sections=("echovlm", "closed"))
    result = score_pairs(read_pairs(answers), options, system=name)
    kept = [
        replace(section, columns=tuple(c for c in section.columns if c.name in COLUMNS))
        if section.name == "echovlm"
        else section
        for section in result.sections
    ]
    return replace(result, sections=tuple(kept))


if __name__ == "__main__":
    main()
