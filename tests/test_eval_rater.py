"""A rater's answers become Table I: settings, ways to decide, clusters without labels, sensitivity."""

import json

import numpy as np
import pytest

from assistants.qbench.clustering import load
from eval.__main__ import main
from eval.metrics import comparison, correlation, levels, prompts
from eval.metrics.correlation import ranks
from eval.pairs import PairError, pair_of
from eval.papers import paper_table
from eval.prediction import Summary
from eval.quality_sets import comparisons, read_quality_set
from eval.rater import (
    add_cut_points,
    by_setting,
    dataset_of,
    failures,
    fitted,
    pooled,
    with_cuts_noted,
)
from eval.scoring import Options, score_pairs
from eval.testsets import read_test_set

LEVELS = ("low", "medium", "high")
FAILED = {"id": "x", "prediction": None, "error": "x", "level": "low", "dataset": "IVUSQA"}


def answer(score, word="high", text="high"):
    """One prompt's answer whose likeliest level is always high, however low the score: the paper's bias."""
    return {"level": "high", "probabilities": {"low": 0.2, "medium": 0.3, "high": 0.5}, "score": score,
            "open_mass": 0.9, "wording": "w", "text": text, "word": word}  # fmt: skip


def row(number, level, points, dataset="IVUSQA", **more):
    by_prompt = {"basic": answer(points), "contextual": answer(10 - points)}
    return {"id": f"{dataset}-{number}", "prediction": "…", "level": level, "dataset": dataset,
            "language": "en", "task": "quality", "prediction_by_prompt": by_prompt,
            "prediction_model": "m", **more}  # fmt: skip


def rows(dataset="IVUSQA", each=12, shift=0.0):
    """Three groups of scores near 6, 7 and 8, in the order of the levels."""
    return [
        row(place * each + n, level, 6 + place + shift + 0.01 * n, dataset)
        for place, level in enumerate(LEVELS)
        for n in range(each)
    ]


def pairs(made):
    return [pair_of(values) for values in made]


def result(made, **options):
    return score_pairs(
        by_setting(pairs(made)), Options(group_by="setting", cluster="image", resamples=50, **options)
    )


def test_table_1_has_a_setting_for_each_prompt_and_a_way_for_each_strategy():
    found = result(rows())
    assert found.value("levels", "Accuracy", "IVUSQA basic") == pytest.approx(100 / 3)  # always "high"
    assert found.value("levels", "Accuracy softmax", "IVUSQA basic") == pytest.approx(100 / 3)
    assert found.value("levels", "Accuracy clustered", "IVUSQA basic") == 100
    assert found.value("levels", "Accuracy clustered", "IVUSQA contextual") == pytest.approx(
        100 / 3
    )  # reversed
    assert found.value("levels", "Recall medium clustered", "IVUSQA basic") == 100
    names = {name for group in paper_table("qbench-1").groups for name in group.ours}
    assert {"IVUSQA basic", "simulated IVUS quantitative", "CardiacUltraQA comparative"} <= names


def test_clusters_never_see_a_label():
    made = rows()
    before = by_setting(pairs(made))
    others = [{**values, "level": "low"} for values in made]
    after = by_setting(pairs(others))
    key = "prediction_level_clustered"
    assert [pair.values[key] for pair in before] == [pair.values[key] for pair in after]
    assert fitted(pairs(made)) == fitted(pairs(others))


def test_cuts_of_another_set_place_the_scores_and_are_named(tmp_path):
    path = tmp_path / "cuts.json"
    add_cut_points(tuple(fitted(pairs(rows("CardiacUltraQA", shift=1.0))).values()), path)
    placed = by_setting(pairs(rows()), load(path))
    basic = [pair for pair in placed if pair.values["setting"] == "IVUSQA basic"]
    assert {pair.values["cuts_of"] for pair in basic} == {"CardiacUltraQA"}
    assert [pair.values["prediction_level_clustered"] for pair in basic][
        -1
    ] == "medium"  # 8.1 by cuts at 7.6, 8.6
    add_cut_points(tuple(fitted(pairs(rows())).values()), path)
    add_cut_points(tuple(fitted(pairs(rows())).values()), path)
    assert len(load(path)) == 4  # two sets by two prompts, each once
    again = by_setting(pairs(rows()), load(path)[::-1])  # its own come first now
    assert {pair.values["cuts_of"] for pair in again} == {"CardiacUltraQA"}  # never the set's own


def test_a_set_that_is_rated_again_leaves_no_older_cuts(tmp_path):
    path = tmp_path / "cuts.json"
    for shift in (0.0, 1e-7, 0.5):  # rated again, another batch rounds otherwise
        add_cut_points(tuple(fitted(pairs(rows(shift=shift))).values()), path)
    assert len(load(path)) == 2  # one a prompt
    assert {each.prompt: round(min(each.centroids), 1) for each in load(path)}["basic"] == 6.6


def test_sets_together_have_cuts_of_their_own_which_place_none_of_them(tmp_path):
    path = tmp_path / "cuts.json"
    heart, vessel = rows("CardiacUltraQA", shift=1.0), rows()
    both = pairs(
        [values | {"organ": "heart"} for values in heart] + [v | {"organ": "vessel"} for v in vessel]
    )
    one, *_ = together = pooled(both)
    assert len(together) == 2 and one.population == "CardiacUltraQA + IVUSQA"
    assert one.n == 72 and one.organ is None
    assert {each.population: each.organ for each in fitted(both).values()} == {
        "CardiacUltraQA": "heart",
        "IVUSQA": "vessel",
    }
    assert pooled(pairs(vessel)) == ()
    add_cut_points((*together, *fitted(both).values()), path)
    placed = by_setting(pairs(vessel), load(path))
    assert {pair.values["cuts_of"] for pair in placed} == {"CardiacUltraQA"}
    fresh = by_setting(pairs([values | {"organ": "vessel"} for values in rows(shift=0.3)]), load(path))
    assert {pair.values["cuts_of"] for pair in fresh} == {"IVUSQA"}  # other images of the same organ


def test_a_setting_whose_words_no_cuts_were_fitted_for_is_left_unplaced_and_named(tmp_path):
    path = tmp_path / "cuts.json"
    add_cut_points(tuple(fitted(pairs(rows("other", shift=0.4))).values()), path)
    told = rows()
    for values in told:
        values["prediction_by_prompt"]["contextual"]["wording"] = "names the vessel"
    apart = by_setting(pairs(told), load(path))
    placed = {pair.values["setting"] for pair in apart if "prediction_level_clustered" in pair.values}
    assert placed == {"IVUSQA basic"}
    found = with_cuts_noted(score_pairs(apart, Options(resamples=0)), apart)
    (levels_,) = [section for section in found.sections if section.name == "levels"]
    assert "No cut points fit the words that were asked: IVUSQA contextual." in levels_.notes


def test_cuts_of_another_model_are_refused(tmp_path):
    path = tmp_path / "cuts.json"
    add_cut_points(tuple(fitted(pairs(rows("other"))).values()), path)
    foreign = [{**values, "prediction_model": "another"} for values in rows()]
    with pytest.raises(PairError, match="save-cut-points"):
        by_setting(pairs(foreign), load(path))


def test_a_failed_image_is_wrong_in_every_way_that_was_asked_and_named():
    made = [*rows(), FAILED | {"id": "broken.png", "task": "quality"}]
    found = result(made)
    assert found.cell("levels", "Accuracy clustered", "IVUSQA basic").n == 37
    assert found.value("levels", "Accuracy clustered", "IVUSQA basic") == pytest.approx(100 * 36 / 37)
    assert failures(pairs(made)) == ("1 of 37 images or comparisons failed: broken.png.",)


def test_without_a_written_word_there_is_no_raw_figure():
    made = rows()
    for values in made:
        for each in values["prediction_by_prompt"].values():
            each["text"] = each["word"] = None
    found = result([*made, FAILED])
    assert found.value("levels", "Accuracy") is None
    assert found.value("levels", "Accuracy softmax", "IVUSQA basic") == pytest.approx(100 * 12 / 37)


def test_an_unparsable_word_is_wrong_and_its_share_is_shown():
    made = rows()
    for values in made[:9]:
        values["prediction_by_prompt"]["basic"] |= {"word": None, "text": "I cannot say"}
    assert result(made).value("levels", "Unparsed", "IVUSQA basic") == pytest.approx(25)


def test_prompt_sensitivity_is_the_spread_on_the_same_images():
    apart = by_setting(pairs(rows()))
    columns = {column.name: column for column in prompts.measures(apart)}
    assert float(
        columns["Spread clustered"].of(columns["Spread clustered"].counts.sum(axis=0))
    ) == pytest.approx(200 / 3)
    deviation = columns["Deviation clustered"]
    assert float(deviation.of(deviation.counts.sum(axis=0))) == pytest.approx(100 / 3)
    one = [pair for pair in apart if pair.values["prompt"] == "basic"]
    assert prompts.measures(one) == []


def test_intervals_are_drawn_over_images():
    assert result(rows()).cluster == "image"
    cell = result(rows()).cell("prompts", "Spread clustered")
    assert cell.low is not None and cell.low <= cell.value <= cell.high


def test_correlations_are_those_of_the_textbook():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 10, 40).round(1)
    made = [row(n, "low", float(min(10, s + rng.normal())), score=float(s)) for n, s in enumerate(true)]
    apart = [pair for pair in by_setting(pairs(made)) if pair.values["prompt"] == "basic"]
    said = [pair.values["prediction_score"] for pair in apart]
    srcc, plcc = (float(m.of(m.counts.sum(axis=0))) for m in correlation.measures(apart))
    assert plcc == pytest.approx(np.corrcoef(true, said)[0, 1])
    assert srcc == pytest.approx(np.corrcoef(ranks(np.array(true)), ranks(np.array(said)))[0, 1])
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1, 2.5, 4]
    flat = [
        pair_of({**pair.values, "id": pair.id, "prediction": "", "prediction_score": 3.0}) for pair in apart
    ]
    assert all(np.isnan(m.of(m.counts.sum(axis=0))) for m in correlation.measures(flat))


@pytest.mark.parametrize(
    ("truth", "ranking", "right", "order"),
    [
        ({"best_first": [1, 0]}, [1, 0], 100, 100),
        ({"best_first": [1, 0]}, [0, 1], 0, 0),
        ({"levels": ["high", "high", "low"]}, [1, 0, 2], 100, 100),  # of equals any is best
        ({"levels": ["high", "medium", "low"]}, [0, 2, 1], 100, 100 * 2 / 3),
        ({"levels": ["high", "low"]}, None, 0, 0),
    ],
)
def test_the_best_of_several(truth, ranking, right, order):
    one = pair_of({"id": "a", "prediction": "…", "prediction_ranking": ranking, **truth})
    columns = {column.name: column for column in comparison.measures([one])}
    assert float(columns["Accuracy"].of(columns["Accuracy"].counts.sum(axis=0))) == right
    assert float(columns["Pairs in order"].of(columns["Pairs in order"].counts.sum(axis=0))) == pytest.approx(
        order
    )


def test_nobody_ranked_so_nothing_is_scored():
    assert comparison.measures([pair_of({"id": "a", "prediction": "A. image 1", "best_first": [0, 1]})]) == []


def test_ways_leave_the_plain_columns_as_they_were():
    plain = [pair_of({"id": str(n), "prediction": "x", "level": "low", "prediction_level": level})
             for n, level in enumerate(LEVELS)]  # fmt: skip
    assert not any("clustered" in column.name for column in levels.measures(plain))
    assert levels.confusion(plain).tolist()[0] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("values", "name"),
    [({"dataset": "X", "view": "ivus"}, "X"), ({"view": "ivus", "organ": "vessel"}, "simulated IVUS"),
     ({"organ": "liver"}, "liver"), ({}, "all images")],
)  # fmt: skip
def test_the_set_an_image_is_of(values, name):
    assert dataset_of(pair_of({"id": "a", "prediction": "", **values})) == name


@pytest.mark.parametrize(
    ("assistant", "more", "wanted"),
    [("qbench", [], 16), ("qbench", ["--batch-size", "3"], 3), ("echovlm", [], 1)],
)
def test_a_rater_is_asked_sixteen_images_at_once(monkeypatch, tmp_path, assistant, more, wanted):
    asked = []
    monkeypatch.setattr(
        "eval.prediction.predict",
        lambda *_, batch_size, **__: asked.append(batch_size) or Summary(0, 0, (), 0, tmp_path),
    )
    assert main(["predict", "--assistant", assistant, "--cases", "x", "--output", "y", *more]) == 0
    assert asked == [wanted]


# ---- folders of images with levels


@pytest.fixture
def labelled(tmp_path):
    folder = tmp_path / "IVUSQA"
    folder.mkdir()
    lines = ["image,label,view,vendor"]
    for n, label in enumerate(("High", "中等", "low quality", "medium")):
        (folder / f"{n}.png").write_bytes(b"")
        lines.append(f"{n}.png,{label},IVUS,A")
    (folder / "labels.csv").write_text("\n".join([*lines, "gone.png,high,IVUS,A"]), "utf-8-sig")
    return folder


def test_a_csv_is_read_from_its_folder_or_by_its_name(labelled):
    cases = read_test_set(labelled)
    assert cases == read_test_set(labelled / "labels.csv")
    assert [case.level for case in cases] == ["high", "medium", "low", "medium", "high"]
    assert {(case.task, case.organ, case.question, case.extra["dataset"]) for case in cases} == {
        ("quality", "vessel", None, "IVUSQA")
    }
    assert cases[-1].id == "gone.png" and cases[0].extra["vendor"] == "A"  # asked, and failing by name


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("new.png,splendid,,", "line 7.*splendid"),
        (",high,,", "line 7.*no image"),
        ("0.png,low,,", "line 7.*line 2"),
    ],
)
def test_a_bad_row_is_named(labelled, line, says):
    with (labelled / "labels.csv").open("a") as file:
        file.write(f"\n{line}")
    with pytest.raises(PairError, match=says):
        read_test_set(labelled)


def test_an_image_without_a_row_is_warned_about(labelled):
    (labelled / "stray.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 images.*stray\.png"):
        assert len(read_quality_set(labelled)) == 5


def test_a_folder_for_each_level(tmp_path):
    for name, count in (("high", 2), ("Medium", 1), ("low", 1)):
        (tmp_path / "CardiacUltraQA" / name).mkdir(parents=True)
        for n in range(count):
            (tmp_path / "CardiacUltraQA" / name / f"{n}.png").write_bytes(b"")
    (tmp_path / "CardiacUltraQA" / "low" / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"notes\.txt"):
        cases = read_test_set(tmp_path / "CardiacUltraQA")
    assert sorted((case.id, case.level) for case in cases) == [
        ("Medium/0.png", "medium"), ("high/0.png", "high"), ("high/1.png", "high"), ("low/0.png", "low")
    ]  # fmt: skip
    assert {case.organ for case in cases} == {"heart"}


@pytest.mark.parametrize("first", ["Image, Label", "image;label", "image\tlabel"])
def test_a_table_of_a_spreadsheet_is_read(tmp_path, first):
    between = "\t" if "\t" in first else ";" if ";" in first else ", "
    lines = [first, f"0.png{between}优", f"1.png{between}low"]
    (tmp_path / "labels.csv").write_text("\n".join(lines), "utf-8")
    assert [(case.id, case.level) for case in read_test_set(tmp_path)] == [
        ("0.png", "high"),
        ("1.png", "low"),
    ]


def test_a_table_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "labels.csv").write_bytes("image,label\n0.png,高质量\n".encode("gbk"))
    with pytest.raises(PairError, match="CSV UTF-8"):
        read_test_set(tmp_path)


def test_one_image_by_two_names_is_one_image(labelled):
    with (labelled / "labels.csv").open("a") as file:
        file.write("\n./0.png,low,,")
    with pytest.raises(PairError, match=r"line 7.*\./0\.png.*line 2"):
        read_test_set(labelled)


def test_images_in_no_folder_of_a_level_are_warned_about(tmp_path):
    for name in ("high/0.png", "low/0.png", "Splendid/0.png", "stray.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 images lie in no folder.*Splendid/0\.png.*stray\.png"):
        assert len(read_quality_set(tmp_path)) == 2


def levelled(each):
    lines = ["image,label", *(f"{level}{n}.png,{level}" for level in LEVELS for n in range(each))]
    return "\n".join(lines)


def test_comparisons_are_one_level_apart_and_both_orders_occur(tmp_path):
    (tmp_path / "labels.csv").write_text(levelled(20))
    cases = read_test_set(tmp_path)
    made = comparisons(cases, 40)
    assert made == comparisons(cases, 40) != comparisons(cases, 40, seed=1)
    known = {case.images[0]: case.level for case in cases}
    for case in made:
        assert [known[image] for image in case.images] == case.extra["levels"]
        ranks_of = [LEVELS.index(level) for level in case.extra["levels"]]
        assert abs(ranks_of[0] - ranks_of[1]) == 1
        assert ranks_of[case.extra["best_first"][0]] == max(ranks_of)
    assert {case.extra["best_first"][0] for case in made} == {0, 1}
    assert sum("low" in case.extra["levels"] for case in made) == 20
    shown = [image for case in made for image in case.images]
    assert all(shown.count(image) == (2 if level == "medium" else 1) for image, level in known.items())
    with pytest.raises(PairError, match="neighbouring"):
        comparisons([case for case in cases if case.level == "high"], 1)


def test_no_pair_is_compared_twice(tmp_path):
    (tmp_path / "labels.csv").write_text(levelled(2))
    with pytest.warns(UserWarning, match="8 pairs of images are one level apart, not 50"):
        made = comparisons(read_test_set(tmp_path), 50)
    assert len({frozenset(case.images) for case in made}) == len(made) == 8


# ---- the command


def test_the_command_prints_both_ways_beside_the_paper_and_draws(tmp_path, capsys):
    for name, shift in (("IVUSQA", 0.0), ("CardiacUltraQA", 0.8)):
        lines = [json.dumps(values) for values in rows(name, shift=shift)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    cuts, picture = tmp_path / "cuts.json", tmp_path / "heat.png"
    assert (
        main(
            [
                "score",
                str(tmp_path / "CardiacUltraQA.jsonl"),
                "--save-cut-points",
                str(cuts),
                "--bootstrap",
                "0",
            ]
        )
        == 0
    )
    capsys.readouterr()
    code = main(["score", str(tmp_path / "IVUSQA.jsonl"), "--cut-points", str(cuts), "--paper", "qbench-1",
                 "--bootstrap", "0", "--heat-map", str(picture)])  # fmt: skip
    text = capsys.readouterr().out
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")
    ours = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| IVUSQA")]
    assert [cell.strip() for cell in ours[0]] == ["IVUSQA", "33.33 / 100.00"]
    assert ours[1][0].strip() == "IVUSQA, cuts of CardiacUltraQA" and ours[1][1].strip() != "33.33 / 100.00"
    assert "mPLUG-Owl3, other images" in text and "CardiacUltraQA" in text


def test_sets_that_the_paper_lacks_are_in_its_table_and_in_its_picture(tmp_path, capsys):
    path = tmp_path / "hearts.jsonl"
    path.write_text("\n".join(json.dumps(values) for values in rows("my hearts")))
    table = ["score", str(path), "--paper", "qbench-1", "--heat-map", str(tmp_path / "h.png")]
    assert main([*table, "--bootstrap", "50"]) == 0
    text = capsys.readouterr().out
    assert "my hearts basic" in text and "33.33 / 100.00 [" in text  # with both intervals
    with_it = (tmp_path / "h.png").read_bytes()
    path.write_text("\n".join(json.dumps(values) for values in rows("IVUSQA")))
    assert main([*table, "--bootstrap", "0"]) == 0
    assert (tmp_path / "h.png").read_bytes() != with_it


def test_whose_cuts_placed_the_scores_is_a_note_and_no_warning(tmp_path, capsys):
    path = tmp_path / "IVUSQA.jsonl"
    path.write_text("\n".join(json.dumps(values) for values in rows()))
    assert main(["score", str(path), "--bootstrap", "0", "--sections", "levels"]) == 0
    printed = capsys.readouterr()
    assert "Clusters: IVUSQA by cuts of IVUSQA." in printed.out and "Clusters" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--heat-map", "x.png"], "--paper qbench-1"),
        (["--paper", "qbench-1", "--heat-map", "x.xyz"], "--heat-map x.xyz: a picture ends in"),
        (["--save-cut-points", "c.json"], "no ratings"),
        (["--cut-points", "gone.json"], "gone.json: there is no such file"),
    ],
)
def test_what_the_command_refuses(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a", "prediction": "x", "reference": "x"}))
    assert main(["score", "p.jsonl", "--bootstrap", "0", *arguments]) == 2
    assert says in capsys.readouterr().err
