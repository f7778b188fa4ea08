"""Boxes in text: what is written is read again, whatever a model writes is read or refused, never a crash."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from models.boxes import (
    BOX_END,
    BOX_START,
    CORRECTIONS,
    MARKS,
    REF_END,
    REF_START,
    REFUSALS,
    RELATIVE,
    RESIZED,
    BoxReader,
    Canvas,
    NamedBox,
    canvas_for,
    convention_of,
    read_boxes,
    readable,
    write_boxes,
)

PICTURE = Canvas((1000, 1000))  # a unit is a pixel


def ref(name):
    return f"{REF_START}{name}{REF_END}"


def boxed(inside):
    return f"{BOX_START}{inside}{BOX_END}"


def read(text, canvas=PICTURE):
    found, counts = read_boxes(text, canvas)
    return [(named.label, named.box) for named in found], dict(+counts)


# --- coordinates -----------------------------------------------------------------------------------------


def test_qwen2_vl_counts_in_thousandths_of_the_original_image():
    canvas = canvas_for(RELATIVE, (640, 480), (1, 34, 46), 14)
    assert canvas.written((64, 48, 320, 480)) == (100, 100, 500, 1000)
    assert canvas.pixels((100, 100, 500, 1000)) == (64, 48, 320, 480)


def test_qwen2_5_vl_counts_in_pixels_of_the_resized_image():
    height, width = smart_resize(480, 640, 28, 56 * 56, 320 * 240)
    assert (width, height) == (308, 224)
    canvas = canvas_for(RESIZED, (640, 480), (1, height // 14, width // 14), 14)
    assert canvas.units == (308, 224)
    assert canvas.written((0, 0, 640, 240)) == (0, 0, 308, 112)
    assert canvas.pixels((154, 0, 308, 112)) == (320, 0, 640, 240)


def test_halves_go_up_and_what_is_narrower_than_a_unit_keeps_one():
    assert Canvas((2000, 2000)).written((3, 3, 5, 5)) == (2, 2, 3, 3)
    assert Canvas((5000, 5000)).written((10, 11, 12, 12)) == (2, 2, 3, 3)
    assert Canvas((5000, 5000)).written((4998, 4999, 5000, 5000)) == (999, 999, 1000, 1000)
    assert Canvas((100, 100)).pixels((993, 996, 994, 998)) == (99, 99, 100, 100)


def test_coarser_places_lie_within_half_a_step_and_inside_the_picture():
    fine, coarse = Canvas((1000, 1000)), Canvas((1000, 1000), step=10)
    for box in ((0, 4, 996, 1000), (5, 14, 26, 995), (500, 501, 503, 504), (991, 997, 1000, 999)):
        for axis in (0, 1):
            low, high = coarse.written(box)[axis::2]
            assert low % 10 == high % 10 == 0 and 0 <= low < high <= 1000
            if box[axis + 2] - box[axis] >= 10:
                assert abs(low - box[axis]) <= 5 and abs(high - box[axis + 2]) <= 5
        assert fine.written(box) == box
    assert Canvas((308, 224), (308, 224), step=10).written((3, 3, 308, 224)) == (0, 0, 300, 220)


def test_a_picture_cut_out_of_another_reports_on_the_other():
    canvas = Canvas((500, 500), origin=(120, 80))
    assert canvas.pixels((0, 0, 1000, 500)) == (120, 80, 620, 330)
    assert canvas.written((120, 80, 620, 330)) == (0, 0, 1000, 500)


@pytest.mark.parametrize(
    "model_type, convention", [("qwen2_vl", RELATIVE), ("echovlm", RELATIVE), ("qwen2_5_vl", RESIZED)]
)
def test_the_convention_comes_with_the_backbone(model_type, convention):
    assert convention_of(model_type) == convention


def test_an_unknown_backbone_or_convention_is_named():
    with pytest.raises(ValueError, match="'llava'"):
        convention_of("llava")
    with pytest.raises(ValueError, match="'polar'"):
        canvas_for("polar", (10, 10), (1, 2, 2), 14)


SIDES = st.integers(1, 3000)


@st.composite
def canvases_and_boxes(draw):
    size = draw(SIDES), draw(SIDES)
    units = draw(st.sampled_from([(1000, 1000), (308, 224), (28, 1120)]))
    origin = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    ends = [
        sorted(draw(st.tuples(*[st.integers(0, side)] * 2).filter(lambda e: e[0] != e[1]))) for side in size
    ]
    (x1, x2), (y1, y2) = ends
    box = x1 + origin[0], y1 + origin[1], x2 + origin[0], y2 + origin[1]
    return Canvas(size, units, origin), box


@settings(max_examples=400, deadline=None)
@given(canvases_and_boxes())
def test_an_edge_moves_by_half_a_unit_at_most_and_no_box_is_lost(drawn):
    canvas, box = drawn
    written = canvas.written(box)
    back = canvas.pixels(written)
    for axis in (0, 1):
        unit = canvas.size[axis] / canvas.units[axis]  # in pixels
        assert 0 <= written[axis] < written[axis + 2] <= canvas.units[axis]
        assert canvas.origin[axis] <= back[axis] < back[axis + 2] <= canvas.origin[axis] + canvas.size[axis]
        narrow = box[axis + 2] - box[axis] < unit
        for edge in (axis, axis + 2):
            exact = written[edge] * unit + canvas.origin[axis]
            assert abs(exact - box[edge]) <= (1 if narrow else 0.5) * unit + 1e-6
            if unit < 1:  # then a written box is the box itself
                assert back[edge] == box[edge]


# --- one text after another ------------------------------------------------------------------------------

TEXTS = [
    # text, boxes, counts
    (ref("胆囊颈") + boxed("(1,2),(3,4)"), [("胆囊颈", (1, 2, 3, 4))], {}),
    (
        ref("a") + boxed("(1,2),(3,4)") + boxed("(5,6),(7,8)") + ", then " + boxed("(5,6),(7,9)"),
        [("a", (1, 2, 3, 4)), ("a", (5, 6, 7, 8)), ("a", (5, 6, 7, 9))],
        {},
    ),
    (
        ref("a") + boxed("(1,2),(3,4)") + ref("a") + boxed("(5,6),(7,8)"),
        [("a", (1, 2, 3, 4)), ("a", (5, 6, 7, 8))],
        {},
    ),
    (ref(" left \t lobe ") + boxed(" ( 1 , 2 ) ( 3.4 , 4 ) "), [("left lobe", (1, 2, 3, 4))], {}),
    (ref("a") + boxed("（1，2），（3，4）"), [("a", (1, 2, 3, 4))], {}),
    (ref("a") + boxed("[1, 2, 3, 4]"), [("a", (1, 2, 3, 4))], {}),
    (ref("a") + boxed("(3,4),(1,2)"), [("a", (1, 2, 3, 4))], {"reversed": 1}),
    (ref("a") + boxed("(-5,2),(3,4000)"), [("a", (0, 2, 3, 1000))], {"clipped": 1}),
    (ref("a") + boxed("(1,2),(1,4)"), [], {"empty": 1}),
    (ref("a") + boxed("(1000,2),(1200,4)"), [], {"outside": 1}),
    (ref("a") + boxed("(-9,2),(0,4)"), [], {"outside": 1}),
    (ref("a") + boxed("(1,2),(3,4)") * 2, [("a", (1, 2, 3, 4))], {"duplicate": 1}),
    (
        ref("a") + boxed("(1,2),(3,4)") + ref("b") + boxed("(1,2),(3,4)"),
        [("a", (1, 2, 3, 4)), ("b", (1, 2, 3, 4))],
        {},
    ),
    (boxed("(1,2),(3,4)"), [], {"nameless": 1}),
    (ref("a") + "\n" + boxed("(1,2),(3,4)"), [], {"nameless": 1}),
    (ref("  ") + boxed("(1,2),(3,4)"), [], {"nameless": 1}),
    (REF_START + "no end\n" + boxed("(1,2),(3,4)"), [], {"nameless": 1}),
    *[
        (ref("a") + boxed(inside), [], {"malformed": 1})
        for inside in (
            "",
            "(1,2),(3)",
            "(1,2),(3,4),(5,6)",
            "one",
            "(1,2),(3,x4)",
            "(1;2),(3;4)",
            "(1,2),(3,1234567890)",
        )
    ],
    (ref("a") + boxed("(1,2),(3," + "9" * 5000 + ")"), [], {"malformed": 1}),
    (ref("a") + BOX_END, [], {"malformed": 1}),
    (ref("a") + BOX_START + "(1,2),(3,4", [], {"unfinished": 1}),
    (
        ref("a") + BOX_START + "(1,2)" + ref("b") + boxed("(1,2),(3,4)"),
        [("b", (1, 2, 3, 4))],
        {"unfinished": 1},
    ),
    (ref("a") + BOX_START + boxed("(1,2),(3,4)"), [("a", (1, 2, 3, 4))], {"unfinished": 1}),
    ("", [], {}),
    ("no box < here > at <| all |> {}", [], {}),
    # as Qwen2.5-VL writes on its own
    (
        '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "liver"},\n'
        '\t{"label": "胆囊", "bbox_2d": [5.2, 6, 7, 8]}\n]\n```',
        [("liver", (1, 2, 3, 4)), ("胆囊", (5, 6, 7, 8))],
        {},
    ),
    ('{"found": [{"bbox_2d": [1, 2, 3, 4], "label": "a"}]}', [("a", (1, 2, 3, 4))], {}),
    ('{"bbox_2d": [1, 2, 3], "label": "a"}', [], {"malformed": 1}),
    ('{"bbox_2d": [1, 2, 3, NaN], "label": "a"}', [], {"malformed": 1}),
    ('{"bbox_2d": [1, 2, 3, true], "label": "a"}', [], {"malformed": 1}),
    ('{"bbox_2d": "1,2,3,4", "label": "a"}', [], {"malformed": 1}),
    ('{"bbox_2d": [1, 2, 3, 4], "label": 7}', [], {"nameless": 1}),
    ('{"bbox_2d": [1, 2, 3, 4]}', [], {"nameless": 1}),
    ('{"bbox_2d": [1, 2, 3, 4], label', [], {"unfinished": 1}),
    ('{"bbox_2d": [1, 2, 3, 4], label}', [], {"malformed": 1}),
    ('{"bbox_2d": ' + "[" * 600, [], {"malformed": 1}),
]


@pytest.mark.parametrize("text, boxes, counts", TEXTS)
def test_what_is_read_and_what_is_refused(text, boxes, counts):
    assert read(text) == (boxes, counts)


@pytest.mark.parametrize("text, boxes, counts", TEXTS)
def test_one_character_at_a_time_is_the_same(text, boxes, counts):
    reader = BoxReader(PICTURE)
    found = [named for character in text for named in reader.feed(character)]
    reader.close()
    assert [(named.label, named.box) for named in found] == boxes and dict(+reader.counts) == counts


PIECES = st.one_of(
    st.sampled_from(MARKS),
    st.sampled_from(
        ["(1,2),(3,4)", "(7,9),(5,6)", "胆囊颈", "\n", '{"bbox_2d": [1, 2, 3, 4], "label": "a"}', "<|", "{"]
    ),
    st.text(max_size=8),
    st.sampled_from([text for text, _, _ in TEXTS]),
)
ANY_TEXT = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=500, deadline=None)
@given(ANY_TEXT, st.lists(st.integers(0, 400), max_size=8))
@example(ref("a") + boxed("(1,2),(3,4)"), [3, 4, 40, 41])
def test_any_text_is_read_alike_however_it_is_cut(text, cuts):
    whole, counts = read_boxes(text, PICTURE)
    reader, found = BoxReader(PICTURE), []
    edges = [0, *sorted(cuts), len(text)]
    for start, end in zip(edges, edges[1:], strict=False):
        found += reader.feed(text[start:end])
    reader.close()
    assert found == whole and +reader.counts == +counts
    assert set(counts) <= {*REFUSALS, *CORRECTIONS}
    for named in whole:
        x1, y1, x2, y2 = named.box
        assert named.label and 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000
    assert len(set(whole)) == len(whole)


def test_a_box_is_there_with_its_last_character():
    text = ref("a") + boxed("(1,2),(3,4)")
    reader = BoxReader(PICTURE)
    assert reader.feed(text[:-1]) == [] and reader.feed(">") == [NamedBox("a", (1, 2, 3, 4))]


@settings(deadline=None)
@given(
    st.text(st.characters(blacklist_characters="<>\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), min_size=1),
    st.lists(canvases_and_boxes().map(lambda drawn: drawn[1]), min_size=1, max_size=4, unique=True),
)
def test_boxes_that_were_written_are_read(name, boxes):
    canvas = Canvas((4000, 4000), (4000, 4000))
    label = " ".join(name.split())
    found, counts = read_boxes(write_boxes(name, boxes, canvas), canvas)
    assert ([(named.label, named.box) for named in found] == [(label, box) for box in boxes]) or not label
    assert not label or not +counts


def test_a_person_reads_no_marks():
    text = f"检测：{ref('胆囊颈')}{boxed('(1,2),(3,4)')}\n切面"
    assert readable(text) == "检测：胆囊颈\n切面"
    assert readable(text[:-12]) == "检测：胆囊颈"  # while the box is still being written
