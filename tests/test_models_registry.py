"""What weights are called on the page."""

import pytest

from models.registry import registry, title_of

KNOWN = "chaoyinshe/EchoVLM"


@pytest.mark.parametrize(
    ("weights", "options", "title"),
    [
        (KNOWN, {}, "EchoVLM · EchoVLM v1"),
        (KNOWN + "@main", {"quantize": "4bit"}, "EchoVLM · EchoVLM v1 · 4bit"),
        ("somewhere/else/checkpoint-12", {}, "EchoVLM · checkpoint-12"),
        ("weights/demo/echovlm", {"demo": True}, "EchoVLM · demo weights"),
    ],
)
def test_titles_say_system_weights_and_quantisation(weights, options, title):
    assert title_of("EchoVLM", weights, **({"demo": False} | options)) == title


def test_every_known_set_names_a_class_that_is_known():
    known = registry()
    assert {entry.architecture for entry in known.weights.values()} <= set(known.classes)
    assert set(known.encoders) <= set(known.classes)
