"""Words and images become the row of ids that LLaVA-Ultra reads.

LLaVA's way (llava/mm_utils.py): a token stands where the template names one, an image is as many
placeholders as it has tokens, and every text between tokens is read as a string of its own, which for
LLaMA's sentencepiece vocabulary gives it the word mark in front, as in training. Both kinds of tokenizer are
opened, a lone tokenizer.model and tokenizer.json; it has the template's tokens or the weights do not fit.

Knows nothing of wording (`prompts.py`) or of what images show (`images.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoTokenizer, LlamaTokenizer
from transformers.convert_slow_tokenizer import generate_merges

from assistants.base import Reply, Turn
from assistants.llava_ultra.configuration import LlavaUltraConfig
from assistants.llava_ultra.prompts import IMAGE, Part, build_prompt, template
from models.checkpoint import read_json
from models.encoding import IGNORED
from models.errors import ContextOverflow


class Encoder:
    """Tokenizer and template of one set of weights; one Encoder may be used from several threads.

    Raises ValueError where the configuration's template needs a token that the tokenizer has not got.
    """

    def __init__(self, tokenizer, config: LlavaUltraConfig):
        self.tokenizer = tokenizer
        self.config = config
        self.template = template(config.template)
        self._ids = {name: self._id_of(name) for name in self.template.tokens if name != IMAGE}
        self._reserve({*self._ids.values(), config.image_token_id})
        self._tokenizing = threading.Lock()  # the fast tokenizer keeps a flag while it encodes

    @classmethod
    def open(cls, folder: str | Path, config: LlavaUltraConfig) -> Encoder:
        """Read the tokenizer from a weights folder; OSError where there is none."""
        folder = Path(folder)
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            return cls(_from_sentencepiece(folder), config)
        return cls(AutoTokenizer.from_pretrained(folder, local_files_only=True), config)

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer where `open` finds it."""
        self.tokenizer.save_pretrained(folder)

    @property
    def stop(self) -> str | None:
        """The text that ends an answer, where no token does."""
        return self.template.stop

    def encode(self, conversation: Sequence[Turn | Reply], *, learn: bool = False) -> dict[str, Tensor]:
        """input_ids and attention_mask, int64 [1, T], of an alternating conversation.

        It ends with the Turn to be answered or, with `learn`, with a Reply; then `labels` [1, T] hold the ids
        of every answer and of what ends it, `IGNORED` elsewhere.
        """
        ids, labels = [], []
        for run in runs(build_prompt(conversation, self.template)):
            for id_, learned in self._read(run):
                ids.append(id_)
                labels.append(id_ if learned else IGNORED)
        input_ids = torch.tensor([ids])
        encoded = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        return {**encoded, "labels": torch.tensor([labels])} if learn else encoded

    def words(self, text: str) -> Tensor:
        """The ids [L] of a text alone: a question or findings, for Eq. 4.

        Raises ContextOverflow, with both numbers, where an image and the text do not fit in the context.
        """
        ids = self._text(text)
        limit = self.config.text_config.max_position_embeddings
        room = limit - self.config.image_tokens
        if len(ids) > room:
            raise ContextOverflow(
                f"The text has {len(ids)} tokens, and beside an image of {self.config.image_tokens} there is "
                f"room for {room}: this model reads at most {limit}. Shorten the text.",
                f"文本有 {len(ids)} 个 token，除图像的 {self.config.image_tokens} 个外只能容纳 {room} 个："
                f"该模型最多处理 {limit} 个。请缩短文本。",
            )
        return torch.tensor(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pad(self, items: Sequence[dict[str, Tensor]], side: str = "left") -> dict[str, Tensor]:
        """Several encoded conversations as one batch [B, T], padded on the left (for generation) or right."""
        length = max(item["input_ids"].shape[1] for item in items)
        fill = {"input_ids": self.tokenizer.pad_token_id or 0, "attention_mask": 0, "labels": IGNORED}
        batch = {}
        for name, value in fill.items():
            if name in items[0]:
                empty = [length - item[name].shape[1] for item in items]
                padding = [(count, 0) if side == "left" else (0, count) for count in empty]
                rows = [
                    torch.nn.functional.pad(item[name], pad, value=value)
                    for item, pad in zip(items, padding, strict=True)
                ]
                batch[name] = torch.cat(rows)
        return batch

    def _read(self, run: Sequence[Part]) -> Iterator[tuple[int, bool]]:
        """Ids of one token, or of neighbouring texts read as one string, each with whether it is learned.

        An id that holds both the end of a question and the beginning of its answer is learned: what the
        model reads when it is asked ends before it.
        """
        if run[0].token:
            ids = self._token(run[0].text)
            yield from ((id_, run[0].learned) for id_ in ids)
            return
        whole, done, text = self._text("".join(part.text for part in run)), 0, ""
        for part in run:
            text += part.text
            last = part is run[-1]
            reached = len(whole) if last else max(done, _common(whole, self._text(text)))
            yield from ((id_, part.learned) for id_ in whole[done:reached])
            done = reached

    def _token(self, name: str) -> list[int]:
        if name == IMAGE:
            return [self.config.image_token_id] * self.config.image_tokens
        return [self._ids[name]]

    def _text(self, text: str) -> list[int]:
        with self._tokenizing:
            return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _reserve(self, ids: set[int]) -> None:
        """Make special what the template alone may write. Published tokenizers do not always say so, and a
        token that is merely added would be read out of a person's words: an image that is not there."""
        added = self.tokenizer.added_tokens_decoder
        plain = [added[id_].content for id_ in sorted(ids & added.keys()) if not added[id_].special]
        reserved = [AddedToken(name, special=True, normalized=False) for name in plain]
        self.tokenizer.add_tokens(reserved, special_tokens=True)

    def _id_of(self, name: str) -> int:
        id_ = self.tokenizer.convert_tokens_to_ids(name)
        if id_ is None or (id_ == self.tokenizer.unk_token_id and name != self.tokenizer.unk_token):
            raise ValueError(
                f"the template {self.config.template!r} needs the token {name}, which the tokenizer lacks"
            )
        return id_


def _from_sentencepiece(folder: Path) -> LlamaTokenizer:
    """LLaMA's tokenizer from a lone tokenizer.model, with what added_tokens.json adds.

    Read with sentencepiece itself: the library's own way needs a second package for the same file.
    """
    processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocabulary = {processor.id_to_piece(id_): id_ for id_ in range(len(processor))}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, None))
    if (folder / "added_tokens.json").is_file():
        added = read_json(folder / "added_tokens.json")
        tokenizer.add_tokens(sorted(added, key=added.get), special_tokens=True)
        moved = [name for name, id_ in added.items() if tokenizer.convert_tokens_to_ids(name) != id_]
        if moved:
            raise ValueError(
                f"{folder / 'added_tokens.json'}: {', '.join(moved)} have no place in the vocabulary"
            )
    return tokenizer


def runs(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Tokens one by one, neighbouring texts together."""
    run: list[Part] = []
    for part in parts:
        if run and (part.token or run[-1].token):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _common(whole: Sequence[int], beginning: Sequence[int]) -> int:
    """How many ids two rows have in common from the start."""
    pairs = zip(whole, beginning, strict=False)
    return next(
        (at for at, (one, other) in enumerate(pairs) if one != other), min(len(whole), len(beginning))
    )
