"""Models of a hundred thousand random parameters and a tokenizer trained on the spot, for tests that need
something to generate. What it says is noise; that it says it, streams it and stops is what they look at.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from assistants.echovlm import EchoVLMConfig, EchoVLMForConditionalGeneration
from imaging.frame import Frame

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)
CORPUS = (
    "甲状腺左叶大小形态正常，实质回声均匀，未见占位性病变。请根据这些超声图像书写超声报告。",
    "The left lobe of the thyroid is normal in size. A hypoechoic nodule of 7 mm. Please write a report.",
)
TEMPLATE = (  # Qwen2-VL's, without its system message
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Qwen's: one Chinese character is often several tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return fast


def image_processor() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})


VISION = {"depth": 1, "num_heads": 2}
ARCHITECTURES = {  # config class, model class, vision tower, what the language model has beside Qwen2's
    "qwen2_vl": (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        VISION | {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        {},
    ),
    "qwen2_5_vl": (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        VISION
        | {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48, "fullatt_block_indexes": [0]},
        {},
    ),
    "echovlm": (
        EchoVLMConfig,
        EchoVLMForConditionalGeneration,
        VISION | {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32},
    ),
}


def model(vocabulary: PreTrainedTokenizerFast, architecture: str, **text):
    """A model with random weights; `text` overrides fields of its language model."""
    config, model_class, vision, more = ARCHITECTURES[architecture]
    ids = {token: vocabulary.convert_tokens_to_ids(token) for token in SPECIAL}
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    made = model_class(
        config(
            text_config=sizes | more | text,
            vision_config=vision,
            image_token_id=ids["<|image_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
    )
    made.generation_config.eos_token_id = vocabulary.eos_token_id
    made.generation_config.pad_token_id = vocabulary.pad_token_id
    return made


def save(folder: Path, architecture: str = "echovlm", *, seed: int = 0, **text) -> Path:
    """Write a whole weights folder: model, tokenizer, chat template, image processor."""
    torch.manual_seed(seed)
    vocabulary = tokenizer()
    model(vocabulary, architecture, **text).save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def frame(height: int = 84, width: int = 84, *, source: str = "still.png", seed: int = 0) -> Frame:
    """A frame of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(pixels, None, source)


class Watched:
    """A model that counts its tokens, and can be made slow or faulty at one of them."""

    def __init__(self, model, *, slow=0.0, fails_at=None):
        self._model = model
        self._slow = slow
        self._fails_at = fails_at
        self.steps = 0
        self.running = 0
        self.most_running = 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def generate(self, *, streamer, **options):
        outer = self

        class Counter(type(streamer)):
            def put(self, value):
                outer.steps += 1
                time.sleep(outer._slow)
                if outer.steps == outer._fails_at:
                    raise LookupError("the disk of the GPU is on fire")
                super().put(value)

        streamer.__class__ = Counter
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return self._model.generate(streamer=streamer, **options)
        finally:
            self.running -= 1
