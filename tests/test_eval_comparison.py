"""Two systems on the same cases: what is found, what is adjusted, what is left out."""

import json

import numpy as np
import pytest

from eval import Options, Pair, PairError
from eval.__main__ import DONE, INCOMPLETE, REFUSED, main
from eval.comparison import compare, render
from eval.result import MACRO, MICRO


def system(hits, organ=lambda i: "liver" if i % 2 else "kidney") -> list[Pair]:
    values = lambda i: {"organ": organ(i), "patient": f"p{i // 5}"}  # noqa: E731
    return [Pair(str(i), "结节" if hit else "囊肿", ("结节",), values(i)) for i, hit in enumerate(hits)]


def cells(comparison, section="answers", column="EM") -> dict:
    return {c.group: c for c in comparison.cells if (c.section, c.column) == (section, column)}


def test_equal_systems_do_not_differ():
    same = system([True, False] * 30)
    for cell in compare(same, same, Options(resamples=200), trials=500).cells:
        assert (cell.difference, cell.p_randomisation, cell.p_adjusted) == (0, 1, 1)


def test_a_clearly_better_system_is_found_in_every_group():
    first, second = system([i % 3 == 0 for i in range(120)]), system([i % 10 != 0 for i in range(120)])
    found = cells(compare(first, second, Options(group_by="organ", sections=("answers",)), trials=5000))
    assert list(found) == ["kidney", "liver", MICRO, MACRO]
    for cell in found.values():
        assert cell.difference > 40 and cell.low > 20 and cell.p_adjusted < 0.05
        assert cell.p_adjusted >= cell.p_randomisation
    halves = [found[name] for name in ("kidney", "liver")]
    assert found[MACRO].difference == pytest.approx(np.mean([half.difference for half in halves]))
    assert found[MICRO].n == 120 and found["liver"].n == 60


def test_swapping_the_systems_turns_the_sign_and_keeps_p():
    rng = np.random.default_rng(1)
    first, second = system(rng.random(80) < 0.5), system(rng.random(80) < 0.6)
    options = Options(sections=("answers",))
    one, other = (
        cells(compare(*both, options, trials=2000))[MICRO] for both in ((first, second), (second, first))
    )
    assert one.difference == -other.difference
    assert one.p_randomisation == other.p_randomisation


def test_a_patients_cases_are_swapped_together():
    """Five equal cases a patient: with patients as units there is far less evidence."""
    hits = np.repeat(np.arange(20) % 4 == 0, 5), np.repeat(np.arange(20) % 4 != 3, 5)
    options = [Options(sections=("answers",)), Options(sections=("answers",), cluster="patient")]
    alone, together = (cells(compare(*map(system, hits), o, trials=4000))[MICRO] for o in options)
    assert alone.difference == together.difference
    assert together.p_randomisation > alone.p_randomisation
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_cases_of_one_file_alone_are_named_and_other_references_refused():
    first, second = system([True] * 40), system([True] * 45)
    comparison = compare(first[1:], second, Options(resamples=50), trials=50)
    assert comparison.n == 39 and not comparison.complete
    assert "6 cases are in second alone" in comparison.warnings[0] and "0, 40" in comparison.warnings[0]
    with pytest.raises(PairError, match="no id in common"):
        compare(first[:3], second[10:])
    with pytest.raises(PairError, match="id '0' has another reference"):
        compare(first, [Pair("0", "结节", ("囊肿",))])


def test_a_missing_prediction_counts_as_wrong_and_is_named():
    first = system([True] * 40)
    second = [Pair("0", None, ("结节",)), *first[1:]]
    comparison = compare(first, second, Options(sections=("answers",), resamples=50), trials=50)
    assert cells(comparison)[MICRO].second == pytest.approx(97.5)
    assert "1 cases of second have no prediction" in comparison.warnings[0]


def test_the_command_line(tmp_path, capsys):
    paths = []
    for name, pairs in {"a": system([True, False] * 20), "b": system([True] * 40)}.items():
        rows = [{"id": p.id, "prediction": p.prediction, "reference": p.references[0]} for p in pairs]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    flags = ["--trials", "500", "--sections", "answers"]
    assert main(["compare", *map(str, paths), *flags]) == DONE
    table = capsys.readouterr().out
    assert "| answers | EM | all cases | 40 | 50.00 | 100.00 | +50.00 [" in table and "* |" in table
    assert main(["compare", *map(str, paths), *flags, "--format", "json"]) == DONE
    assert json.loads(capsys.readouterr().out)["cells"][0]["column"] == "EM"
    paths[1].write_text(paths[1].read_text("utf-8").split("\n", 1)[1], "utf-8")
    assert main(["compare", *map(str, paths), *flags]) == INCOMPLETE
    assert main(["compare", str(paths[0]), str(tmp_path / "none.jsonl")]) == REFUSED


def test_markdown_names_the_test():
    first = system([True, False] * 20)
    text = render(compare(first, first, Options(sections=("answers",), cluster="patient"), trials=100))
    assert "approximate randomisation, 100 trials, a patient's cases swapped" in text
    with pytest.raises(ValueError, match="no format is called 'xml'"):
        render(compare(first, first, Options(resamples=20), trials=10), "xml")
