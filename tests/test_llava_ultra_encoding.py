"""Words become ids as LLaVA's own code does it, with both kinds of tokenizer."""

import json

import pytest
import sentencepiece
import tiny
import torch
import ultra
from tokenizers import AddedToken

from assistants.base import Reply, Turn
from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.prompts import build_prompt
from models.encoding import IGNORED
from models.errors import ContextOverflow

CORPUS = [*tiny.CORPUS, "A chat between a curious user and an assistant. USER: ASSISTANT: [INST] [/INST] ###"]
CONVERSATION = [Turn("甲状腺 nodule?", (tiny.frame(),)), Reply("The left lobe"), Turn("Q2")]


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
    """A lone tokenizer.model, as LLaMA's first folders have it."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "corpus.txt").write_text("\n".join(CORPUS * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return folder


@pytest.fixture(scope="module", params=["sentencepiece", "fast"])
def llama(request, sentencepiece_folder, tmp_path_factory):
    if request.param == "sentencepiece":
        return sentencepiece_folder
    folder = tmp_path_factory.mktemp("fast")
    Encoder.open(sentencepiece_folder, config()).save(folder)
    assert not (folder / "tokenizer.model").exists()
    return folder


def config(template="vicuna_v1", image=9999, **text):
    sizes = {"vocab_size": 500, "max_position_embeddings": 4096} | text
    return ultra.config(template=template, image_token_id=image, text_config=sizes)


def chatml():
    tokenizer = tiny.tokenizer()
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    return Encoder(tokenizer, config("chatml", image))


@pytest.mark.parametrize("template, bos", [("vicuna_v1", 1), ("mistral_instruct", 1)])
def test_text_between_tokens_is_read_as_sentencepiece_reads_it_alone(
    llama, sentencepiece_folder, template, bos
):
    encoder = Encoder.open(llama, config(template))
    ids = encoder.encode(CONVERSATION)["input_ids"][0].tolist()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    written = "".join(part.text for part in build_prompt(CONVERSATION, encoder.template))
    before, _, rest = written.removeprefix("<s>").partition("<image>")
    answered, _, second = rest.partition("</s>")
    expected = [bos, *processor.encode(before), *[9999] * ultra.TOKENS, *processor.encode(answered)]
    assert ids == [*expected, 2, *processor.encode(second)]


def test_both_tokenizers_read_alike(sentencepiece_folder, llama):
    one = Encoder.open(sentencepiece_folder, config()).encode(CONVERSATION)["input_ids"]
    assert torch.equal(one, Encoder.open(llama, config()).encode(CONVERSATION)["input_ids"])


def test_an_image_is_as_many_placeholders_as_it_has_tokens():
    encoder = chatml()
    ids = encoder.encode([Turn("Q", (tiny.frame(), tiny.frame()))])["input_ids"][0].tolist()
    assert ids.count(encoder.config.image_token_id) == 2 * ultra.TOKENS
    start = encoder.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert ids[ids.index(start) + 1] == encoder.config.image_token_id


def test_only_answers_and_their_ends_are_learned(llama):
    for encoder in (Encoder.open(llama, config()), chatml()):
        encoded = encoder.encode([*CONVERSATION, Reply("甲状腺")], learn=True)
        ids, labels = encoded["input_ids"][0], encoded["labels"][0]
        learned = labels != IGNORED
        assert torch.equal(ids[learned], labels[learned])
        text = encoder.tokenizer.decode(ids[learned], skip_special_tokens=True)
        assert text.replace(" ", "") == "Theleftlobe甲状腺"
        end = encoder.tokenizer.convert_tokens_to_ids(encoder.template.answer_ends)
        assert (ids[learned] == end).sum() == 2


def test_a_lesson_begins_as_the_question_that_is_asked(llama):
    for encoder in (Encoder.open(llama, config()), chatml()):
        asked = encoder.encode(CONVERSATION)["input_ids"][0]
        lesson = encoder.encode([*CONVERSATION, Reply("甲状腺")], learn=True)
        assert torch.equal(lesson["input_ids"][0][: len(asked)], asked)
        assert (lesson["labels"][0][: len(asked)] != IGNORED).sum() == _first_answer(lesson, len(asked))


def _first_answer(lesson, asked):
    return (lesson["labels"][0] != IGNORED)[:asked].sum()


def test_typed_tokens_are_text(llama):
    encoder = Encoder.open(llama, config())
    ids = encoder.encode([Turn("</s><s><unk>")])["input_ids"][0].tolist()
    assert ids.count(2) == 0 and ids.count(1) == 1


def test_a_placeholder_that_its_tokenizer_calls_a_plain_word_cannot_be_typed(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=False, normalized=False)])
    image = tokenizer.convert_tokens_to_ids("<image>")
    encoder, words = Encoder(tokenizer, config("chatml", image)), len(tokenizer)
    ids = encoder.encode([Turn("What is <image>?", (tiny.frame(),))])["input_ids"][0].tolist()
    assert ids.count(image) == ultra.TOKENS and len(tokenizer) == words
    encoder.save(tmp_path)
    again = Encoder.open(tmp_path, config("chatml", image))
    assert image not in again.words("<image>") and again.decode(again.words("<image>")) == "<image>"


def test_tokens_added_to_llama_are_read(sentencepiece_folder, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((sentencepiece_folder / "tokenizer.model").read_bytes())
    known = len(Encoder.open(sentencepiece_folder, config()).tokenizer)
    added = {name: known + at for at, name in enumerate(("[PAD]", "<im_patch>", "<im_start>", "<im_end>"))}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    encoder = Encoder.open(tmp_path, config("llava_med_v1", known + 1))
    ids = encoder.encode(CONVERSATION)["input_ids"][0].tolist()
    assert ids.count(known + 1) == ultra.TOKENS
    assert ids[ids.index(known + 1) - 1] == known + 2 and known + 3 in ids
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<im_patch>": known + 7}))
    with pytest.raises(ValueError, match="<im_patch>"):
        Encoder.open(tmp_path, config())


def test_a_token_that_is_not_there_is_named(llama):
    with pytest.raises(ValueError, match=r"'llava_med_v1' needs the token <im_start>"):
        Encoder.open(llama, config("llava_med_v1"))
    with pytest.raises(ValueError, match=r"<\|im_start\|>"):
        Encoder.open(llama, config("chatml"))


def test_findings_longer_than_the_context_are_refused_with_both_numbers():
    encoder = Encoder(tiny.tokenizer(), config("chatml", max_position_embeddings=40))
    assert len(encoder.words("甲状腺左叶")) <= 24
    with pytest.raises(ContextOverflow, match=r"has (\d+) tokens.*room for 24.*at most 40") as refused:
        encoder.words("甲状腺左叶" * 40)
    assert "24" in refused.value.message("zh") and "40" in refused.value.message("zh")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_where_it_should_be(side):
    encoder = chatml()
    short, long = (encoder.encode([Turn(q), Reply("A")], learn=True) for q in ("Q", "Q" * 40))
    batch = encoder.pad([short, long], side)
    length = short["input_ids"].shape[1]
    own = slice(-length, None) if side == "left" else slice(None, length)
    for name, tensor in short.items():
        assert torch.equal(batch[name][0][own], tensor[0])
    assert batch["attention_mask"][0].sum() == length
    assert (batch["labels"][0] != IGNORED).sum() == (short["labels"] != IGNORED).sum()
