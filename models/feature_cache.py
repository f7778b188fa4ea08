"""Features of frames that were looked at before, so that a follow-up question costs no second look.

LLaVA-Ultra (2024), section 3.3, runs every frame of a case through its encoders before it keeps one; in a
conversation the same frames come back with every turn. Features are found again by the frame's pixels
(SHA-256 of shape and bytes) and how they were read, and by nothing else: no name, no text, no visitor.

One cache belongs to one set of weights and so is shared by all who ask them. What that means: the features
of a visitor's frames stay in memory, never on a disk, until newer ones need the room or somebody asks about
any frame after `seconds` have passed; within these they are handed out only to somebody who brings the very
same pixels, and all that person can learn is, from a faster answer, that these pixels were asked about
before. A conversation itself is not kept.

Knows nothing of models or conversations: frames in, tensors out.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

from torch import Tensor

from imaging.frame import Frame

BUDGET = 256 * 2**20  # bytes; 120 frames of a 7B model in bfloat16. Chosen
SECONDS = 3600  # as long as the page keeps an upload


class FeatureCache:
    """The least recently used features go first. Safe to use from several threads."""

    def __init__(self, budget: int = BUDGET, seconds: float = SECONDS):
        self.budget, self.seconds = budget, seconds
        self._kept: OrderedDict[bytes, tuple[float, Tensor]] = OrderedDict()
        self._lock = Lock()

    def look(
        self,
        frames: Sequence[Frame],
        encode: Callable[[list[Frame]], Sequence[Tensor]],
        read_as: object = None,
    ) -> list[Tensor]:
        """The features of every frame, each on the CPU; `encode` is called once for those not known, if any.

        `read_as` is whatever else they depend on, such as a budget of pixels.
        """
        keys = [_key(frame, read_as) for frame in frames]
        known = {key: found for key in keys if (found := self._find(key)) is not None}
        missing = {key: frame for key, frame in zip(keys, frames, strict=True) if key not in known}
        if missing:
            fresh = encode(list(missing.values()))
            known |= {key: tensor.detach().cpu() for key, tensor in zip(missing, fresh, strict=True)}
            for key in missing:
                self._keep(key, known[key])
        return [known[key] for key in keys]

    @property
    def bytes(self) -> int:
        """What is held now."""
        with self._lock:
            return sum(tensor.nbytes for _, tensor in self._kept.values())

    def _find(self, key: bytes) -> Tensor | None:
        with self._lock:
            self._forget_old()
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def _keep(self, key: bytes, features: Tensor) -> None:
        own = features.clone()  # a view would hold the whole batch
        with self._lock:
            self._forget_old()
            self._kept[key] = (time.monotonic(), own)
            self._kept.move_to_end(key)
            held = sum(tensor.nbytes for _, tensor in self._kept.values())
            while held > self.budget:
                _, (_, oldest) = self._kept.popitem(last=False)
                held -= oldest.nbytes

    def _forget_old(self) -> None:
        limit = time.monotonic() - self.seconds
        for key in [key for key, (since, _) in self._kept.items() if since < limit]:
            del self._kept[key]


def _key(frame: Frame, read_as: object) -> bytes:
    digest = hashlib.sha256(repr((frame.pixels.shape, read_as)).encode())
    digest.update(frame.pixels.tobytes())
    return digest.digest()
