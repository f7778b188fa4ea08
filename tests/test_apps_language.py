"""Every word a page shows, in both languages."""

import re
from pathlib import Path

import pages  # noqa: F401 (sets Gradio's environment before it is imported)

from apps import language

ROOT = Path(__file__).parents[1]


def test_every_text_is_in_both_languages_with_the_same_blanks():
    for key, text in language._texts().items():
        assert set(text) == {"zh", "en"}, key
        blanks = [set(re.findall(r"{(\w+)}", text[each])) for each in ("zh", "en")]
        assert blanks[0] == blanks[1], key
        assert all(text.values()), key


def test_every_text_is_used_and_every_used_text_is_there():
    source = "".join(path.read_text("utf-8") for path in (ROOT / "apps").glob("*.py"))
    source += (ROOT / "apps/examples/examples.yaml").read_text("utf-8")
    for key in language._texts():
        stem = re.sub(r"^(organ|task|tab|plane_flag)_\w+$", r"\1_{", key)
        assert f'"{key}"' in source or stem in source or f": {key}" in source, f"{key} is not used"
    for key in re.findall(r'(?:both|label|text)\("(\w+)"', source):
        assert key in language._texts()


def test_values_cannot_smuggle_html():
    assert "<script>" not in language.both("load_failed", cause="<script>alert(1)</script>")
