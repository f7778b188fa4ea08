"""Teach a CLIP vision tower from scratch, by contrast: an image and the caption that belongs to it.

As CLIP was (Radford et al., 2021, section 2.3): among all images and captions of a batch, each image is to
find its own caption, and each caption its own image. LLaVA-Ultra (section 3.2) starts from CLIP's published
weights; this stands in for their making, on simulated images and captions of what each of them shows
(captions.yaml). Images that show the same share their caption, and all of them count as right. Two images of
an examination go into a batch together, one with the lesion and one without where there are both, so that
the organ alone does not tell them apart.

The words' tower and both projections are thrown away afterwards: only the vision tower goes on. Under several
processes each contrasts its own batch.

Knows nothing of language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionModel

from assistants.llava_ultra.encoding import Encoder
from assistants.llava_ultra.images import encode_frames
from imaging.case import Case, CaseError
from imaging.files import load_frames

LANGUAGES = ("zh", "en")
WIDTH = 128  # of the words' tower and of the common space; chosen
LONGEST = 96  # tokens of a caption
TEMPERATURE = 0.07  # where it starts, as CLIP's
SHARPEST = 100.0  # largest factor on the similarities, as CLIP's


class Pairing(nn.Module):
    """The vision tower, a small tower for words, and what brings both into one space."""

    def __init__(self, clip: CLIPVisionModel, words: int):
        """`words` is the size of the vocabulary."""
        super().__init__()
        sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 4}
        sizes |= {
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": None,
        }  # the mean is read, not one of these
        self.clip = clip
        self.words = CLIPTextModel(
            CLIPTextConfig(vocab_size=words, num_hidden_layers=2, max_position_embeddings=LONGEST, **sizes)
        )
        self.from_image = nn.Linear(clip.config.hidden_size, WIDTH, bias=False)
        self.from_words = nn.Linear(WIDTH, WIDTH, bias=False)
        self.sharpness = nn.Parameter(torch.tensor([1 / TEMPERATURE]).log())

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """pixels [n, 3, S, S], ids and mask [n, L] -> similarities [n images, n captions]."""
        images = self.from_image(self.clip(pixels).pooler_output)
        words = self.words(ids, attention_mask=mask).last_hidden_state  # [n, L, WIDTH]
        share = mask[..., None] / mask.sum(1)[:, None, None]
        captions = self.from_words((words * share).sum(1))
        factor = self.sharpness.exp().clamp(max=SHARPEST)
        return factor * F.normalize(images.float(), dim=-1) @ F.normalize(captions.float(), dim=-1).T


class Contrast:
    """A `training.loop.Stage`. One sample is one examination, of which two images at most are looked at."""

    name = "contrast"
    lengths = None  # all images have the same size

    def __init__(self, clip: CLIPVisionModel, encoder: Encoder, cases: Sequence[Case]):
        """CaseError for a case that did not come from the simulator."""
        self.cases = list({case.images: case for case in cases}.values())  # one examination has many rows
        for case in self.cases:
            if "examination" not in case.extra:
                raise CaseError(
                    f"case {case.id} has no truth to make captions of (key examination): the kind contrast "
                    "needs simulated cases"
                )
        self.encoder = encoder
        torch.manual_seed(0)
        self.module = Pairing(clip, len(encoder.tokenizer))

    def __len__(self) -> int:
        return len(self.cases)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> dict[str, Tensor]:
        picked = [(self.cases[i], k) for i in indices for k in _two(self.cases[i], rng)]
        frames = load_frames([case.images[k] for case, k in picked], max_files=len(picked))
        pixels = encode_frames(frames, self.encoder.config)["pixel_values"]
        texts = [caption(case, k, str(rng.choice(LANGUAGES))) for case, k in picked]
        rows = [self.encoder.words(text)[:LONGEST] for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        known = {facts: number for number, facts in enumerate({_facts(case, k) for case, k in picked})}
        return {
            "pixels": pixels,
            "ids": ids,
            "mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "facts": torch.tensor([known[_facts(case, k)] for case, k in picked]),
        }

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy over captions and over images; the figure is the share of images that find theirs."""
        device = self.module.sharpness.device
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        near = self.module(batch["pixels"], batch["ids"], batch["mask"])
        alike = batch["facts"][:, None] == batch["facts"]  # [n, n]
        target = alike / alike.sum(1, keepdim=True)
        loss = (F.cross_entropy(near, target) + F.cross_entropy(near.T, target)) / 2
        found = alike.gather(1, near.argmax(1, keepdim=True)).float().mean()
        return loss, {"found": float(found)}


def caption(case: Case, image: int, language: str) -> str:
    """What one image of a simulated case shows, in a sentence."""
    organ, side, lesion = _facts(case, image)
    words = _wording()[language]
    said = {"organ": words["organ"][organ], "side": words["side"][side]}
    if lesion is None:
        return words["none"].format(**said).strip()
    *names, long_mm = lesion
    for field, name in zip(("kind", "shape", "margin", "posterior"), names, strict=True):
        said[field] = words[field][name]
    return words["lesion"].format(**said, mm=long_mm).strip()


def _facts(case: Case, image: int) -> tuple:
    """What the caption of an image depends on, beside its language."""
    exam = case.extra["examination"]
    lesion = exam["lesion"] if image in case.valid_images else None
    fields = ("kind", "shape", "margin", "posterior")
    shown = lesion and (*(lesion[field] for field in fields), round(lesion["long_mm"]))
    return exam["organ"], str(exam["side"] or "none"), shown


def _two(case: Case, rng: np.random.Generator) -> list[int]:
    """An image that shows the lesion and one that does not, or two of a kind where there is no other."""
    shows = [i for i in range(len(case.images)) if i in case.valid_images]
    empty = [i for i in range(len(case.images)) if i not in case.valid_images]
    if shows and empty:
        return [int(rng.choice(shows)), int(rng.choice(empty))]
    return [int(i) for i in rng.permutation(len(case.images))[:2]]


@cache
def _wording() -> dict:
    return yaml.safe_load(Path(__file__).with_name("captions.yaml").read_text("utf-8"))
