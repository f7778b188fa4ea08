"""Texts into tokens: the tokenizers that the field's scores are defined on, each with a signature.

`jieba` gives the tokens of jieba 0.42.1 (default dictionary, HMM on) with tokens of white space left out.
Most texts go through rjieba, the same algorithm in Rust, whose tokens are split again where jieba splits
runs of Latin letters and digits; texts with characters outside U+4E00–9FD5 that are ideographs all the
same, and all texts once there is a user dictionary, go through jieba itself. `zh`, `13a` and `char` are
sacreBLEU 2.6.0's.

Knows nothing of predictions or scores.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

Tokenize = Callable[[str], list[str]]
NAMES = ("jieba", "char", "zh", "13a", "ws")

# Ideographs that jieba's own block pattern (U+4E00–9FD5) leaves out, where rjieba's Unicode classes do not:
# radicals, extensions, compatibility forms, and everything outside the basic plane that may be one. Halves of
# characters (surrogates, which JSON can hold) are no text to Rust.
_RARE = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u9fd6-\u9fff"
    "\ud800-\udfff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LATIN_RUN = re.compile(r"([a-zA-Z0-9]+(?:\.\d+)?%?)")  # what jieba cuts a run outside its dictionary by
_SPACE_BUT_BLANK = re.compile(r"[^\S ]")
_IN_DICTIONARY = {"AT&T", "c#", "C#", "c++", "C++"}  # the only such entries of jieba's dictionary


class UserDictionaryError(ValueError):
    """A user dictionary that jieba cannot read."""


def tokenizer(name: str = "jieba", user_dictionary: str | Path | None = None) -> tuple[Tokenize, str]:
    """The tokenizer called `name` (one of NAMES) and its signature.

    A user dictionary (jieba's format: word, count, tag) is for `jieba` alone; the hash of its bytes stands in
    the signature. Raises ValueError for an unknown name, UserDictionaryError for a file jieba cannot read.
    """
    if name not in NAMES:
        raise ValueError(f"no tokenizer is called {name!r}; choose one of {', '.join(NAMES)}")
    if name == "jieba":
        return _jieba(user_dictionary)
    if user_dictionary is not None:
        raise ValueError(f"a user dictionary belongs to the tokenizer jieba, not to {name}")
    return {"char": _characters, "zh": _zh, "13a": _13a, "ws": str.split}[name], name


def jieba_whole(text: str) -> list[str]:
    """jieba's tokens with all of white space kept, as `jieba.lcut` returns them: joined they are the text."""
    return _python_jieba().lcut(text)


def jieba_spaced(text: str) -> list[str]:
    """jieba's tokens with those of white space kept, except single spaces: what ms-swift counts."""
    if _SPACE_BUT_BLANK.search(text):
        return [token for token in _python_jieba().lcut(text) if token.strip(" ")]
    return _cut(text)


def _jieba(user_dictionary: str | Path | None) -> tuple[Tokenize, str]:
    if user_dictionary is None:
        return _cut, "jieba-0.42.1-hmm"
    words = Path(user_dictionary).read_bytes()
    cut = _user_jieba(words)
    digest = hashlib.sha256(words).hexdigest()[:8]
    return partial(_spoken, cut), f"jieba-0.42.1-hmm-dict:{digest}"


def _cut(text: str) -> list[str]:
    fast = _rjieba()
    if fast is None or _RARE.search(text):
        return _spoken(_python_jieba().lcut, text)
    tokens: list[str] = []
    for token in fast(text):
        if len(token) > 1 and token.isascii() and token not in _IN_DICTIONARY:
            tokens.extend(piece for piece in _LATIN_RUN.split(token) if piece and not piece.isspace())
        elif not token.isspace():
            tokens.append(token)
    return tokens


def _spoken(cut: Tokenize, text: str) -> list[str]:
    return [token for token in cut(text) if token.strip()]


@lru_cache(maxsize=1)
def _rjieba() -> Tokenize | None:
    try:
        from rjieba import cut
    except ImportError:  # no wheel for this machine: jieba alone gives the same tokens, more slowly
        return None
    return cut


_loading = threading.Lock()


@lru_cache(maxsize=1)
def _python_jieba():
    """A private jieba: the global one can be changed by any import, and its cache file in the temporary
    folder is shared by all users and read with marshal (fxsjy/jieba#903, #26)."""
    import jieba

    with _loading:
        own = jieba.Tokenizer()
        own.FREQ, own.total = own.gen_pfdict(own.get_dict_file())
        own.initialized = True
    return own


def _user_jieba(words: bytes) -> Tokenize:
    import io

    _python_jieba.cache_clear()  # the words must not reach the tokenizer without them
    own = _python_jieba()
    _python_jieba.cache_clear()
    try:
        text = words.decode("utf-8-sig")
        own.load_userdict(io.StringIO(text))
    except (UnicodeDecodeError, ValueError) as error:
        raise UserDictionaryError(
            f"the user dictionary is not in jieba's format (word, count, tag): {error}"
        ) from None
    return own.lcut


def _characters(text: str) -> list[str]:
    return list("".join(text.split()))


class _SetApart(dict):
    """A table for `str.translate` that puts spaces around the characters of a class, filled as they occur."""

    def __init__(self, characters: str):
        super().__init__()
        self._member = re.compile(characters)

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = f" {character} " if self._member.match(character) else character
        return self[code]


_13A_MARKS = r"\{-\~\[-\` -\&\(-\+\:-\@\/"
# sacreBLEU's table of "Chinese" characters, two typing errors included: "\u20000" there is U+2000 followed by
# "0", so U+2001–2A6D counts as Chinese (① and − do) and extension B does not.
_SACREBLEU_CHINESE = (
    "\u3400-\u4db5\u4e00-\u9fbb\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\u2001-\u2a6d\u2f81-\u2fa1\uff00-\uffef"
    "\u2e80-\u2eff\u3000-\u303f\u31c0-\u31ef\u2f00-\u2fdf\u2ff0-\u2fff\u3100-\u312f\u31a0-\u31bf\ufe10-\ufe1f"
    "\ufe30-\ufe4f\u3200-\u33ff"
)
_ZH_APART, _13A_APART = _SetApart(f"[{_SACREBLEU_CHINESE}{_13A_MARKS}]"), _SetApart(f"[{_13A_MARKS}]")
_13A_POINTS = (
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
)
_13A_DASH = re.compile(r"([0-9])(-)")
_13A_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


def _zh(text: str) -> list[str]:
    return _13a_words(text.rstrip().strip().translate(_ZH_APART))


def _13a(text: str) -> list[str]:
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _13A_ENTITIES:
        text = text.replace(entity, character)
    return _13a_words(f" {text} ".translate(_13A_APART))


def _13a_words(text: str) -> list[str]:
    """The rest of mteval-v13a's language-dependent part: points, commas and dashes beside digits."""
    if "." in text or "," in text:
        for pattern, spaced in _13A_POINTS:
            text = pattern.sub(spaced, text)
    if "-" in text:
        text = _13A_DASH.sub(r"\1 \2 ", text)
    return text.split()
