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
    families = r"^(organ|task|tab|plane_flag|prompt|indicator|level|column|asked|meaning)_\w+$"
    for key in language._texts():
        used = {f'"{key}"', f"'{key}'", f": {key}"}
        used |= {re.sub(families, r"\1_{", key)} - {key}  # f"organ_{name}"
        used |= {re.sub(r"^(quality|compare)_(start|hint)$", r"}_\2", key)} - {key}  # f"{name}_hint"
        assert any(words in source for words in used), f"{key} is not used"
    for key in re.findall(r'(?:both|label|text)\("(\w+)"', source):
        assert key in language._texts()


def test_values_cannot_smuggle_html():
    assert "<script>" not in language.both("load_failed", cause="<script>alert(1)</script>")
