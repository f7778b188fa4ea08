"""The demo tokenizer: nothing is lost, digits stand alone, special tokens and template as in Qwen2-VL."""

from __future__ import annotations

import pytest

from training.tokenizer import LONGEST_TOKEN, SPECIAL, train_tokenizer

CORPUS = [
    "甲状腺左叶见一低回声结节，大小约12 mm × 8 mm，边界清晰。",
    "A hypoechoic nodule, 12 mm × 8 mm.",
] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS, 420)


@pytest.mark.parametrize(
    "text", [*CORPUS[:2], "", " 两 spaces  ", "𠀀𪚥 🩻\u200b", "１２３ ½", "naïve\r\n\tend "]
)
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    normal = __import__("unicodedata").normalize("NFC", text)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == normal


def test_digits_stand_alone_and_words_merge(tokenizer):
    pieces = [tokenizer.decode([i]) for i in tokenizer("结节12 mm", add_special_tokens=False)["input_ids"]]
    assert "1" in pieces and "2" in pieces and any(len(piece) > 1 for piece in pieces)


def test_no_token_is_a_whole_sentence(tokenizer):
    assert len(tokenizer) <= 420
    lengths = [len(tokenizer.decode([i]).encode()) for i in range(len(SPECIAL), len(tokenizer))]
    assert max(lengths) <= LONGEST_TOKEN + 2  # a replacement character stands for one byte with three


def test_special_tokens_have_qwens_names_and_are_single(tokenizer):
    for token in SPECIAL:
        assert tokenizer(token, add_special_tokens=False)["input_ids"] == [
            tokenizer.convert_tokens_to_ids(token)
        ]
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_the_chat_template_writes_chatml_with_images_first(tokenizer):
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "哪个器官？"}]}
    answered = {"role": "assistant", "content": [{"type": "text", "text": "肝脏。"}]}
    text = tokenizer.apply_chat_template([asked, answered, asked], tokenize=False, add_generation_prompt=True)
    turn = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>哪个器官？<|im_end|>\n"
    assert text == f"{turn}<|im_start|>assistant\n肝脏。<|im_end|>\n{turn}<|im_start|>assistant\n"
