"""A person's files become the frames of an examination.

Files are told apart by their first bytes, never by the ending of their name. Each is read by `pictures` or
`dicom`, and cut to the scan sector. What one person sends cannot harm the machine: `limits` is asked before
anything is decoded, and with `within` no path outside the given folders is opened.

Knows nothing of models or pages. Nothing is written and nothing is logged.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging import dicom, pictures
from imaging.errors import UnreadableFile
from imaging.frame import Frame
from imaging.limits import MAX_FILES, Budget
from imaging.sector import crop, find_sector

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
HEAD = 2048  # bytes that tell what a file is
STILLS = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # brands of the video container that hold a picture


@dataclass(frozen=True)
class Problem:
    """A file that could not be used: its name without the folder, and why."""

    source: str
    error: UnreadableFile

    def message(self, language: str) -> str:
        return self.error.message(language)


def load_frames(
    paths: Paths, *, max_frames: int = 16, max_files: int = MAX_FILES, cut_to_sector: bool = True
) -> list[Frame]:
    """All frames of the files, in order; raises UnreadableFile at the first bad one.

    From a cine, an animation or a multi-page file at most `max_frames` are read, evenly spaced with the first
    and the last. `cut_to_sector=False` keeps whole pictures, for cases whose boxes are in pixels of the file.
    """
    frames: list[Frame] = []
    for outcome in _outcomes(_listed(paths), max_frames, max_files, None, cut_to_sector):
        if isinstance(outcome, Problem):
            raise outcome.error
        frames += outcome
    return frames


def read_examination(
    paths: Paths,
    *,
    max_frames: int = 16,
    max_files: int = MAX_FILES,
    within: str | Path | Sequence[str | Path] | None = None,
    cut_to_sector: bool = True,
) -> tuple[list[Frame], list[Problem]]:
    """The frames of the good files and a problem for each bad one; never raises UnreadableFile.

    More than `max_files` files are one problem and no frames: a report on a silent selection would mislead.
    `within` names the folder or folders that the files must lie in once every symbolic link is followed.
    """
    folders = None if within is None else [Path(folder).resolve() for folder in _listed(within)]
    frames: list[Frame] = []
    problems: list[Problem] = []
    for outcome in _outcomes(_listed(paths), max_frames, max_files, folders, cut_to_sector):
        if isinstance(outcome, Problem):
            problems.append(outcome)
        else:
            frames += outcome
    return frames, problems


def _listed(paths: Paths) -> list[Path]:
    if isinstance(paths, str | os.PathLike):
        return [Path(paths)]
    return [Path(path) for path in paths]


def _outcomes(
    paths: list[Path], max_frames: int, max_files: int, folders: list[Path] | None, cut_to_sector: bool
) -> Iterator[list[Frame] | Problem]:
    """For each file its frames or its problem."""
    if max_frames < 1 or max_files < 1:
        raise ValueError(f"max_frames and max_files must be at least 1, not {max_frames} and {max_files}")
    if len(paths) > max_files:
        name = paths[0].name
        yield Problem(name, UnreadableFile("too_many_files", name, count=len(paths), limit=max_files))
        return
    budget = Budget(max_frames)
    for path in paths:
        try:
            frames = _read(path, folders, budget, cut_to_sector)
        except UnreadableFile as error:
            yield Problem(path.name, error)
        else:
            budget.keep(frames)
            yield frames


def _read(path: Path, folders: list[Path] | None, budget: Budget, cut_to_sector: bool) -> list[Frame]:
    name = path.name
    real = _checked(path, folders)
    head = _head(real, name)
    choose = budget.chooser(name)
    box = None
    if dicom.has_preamble(head):
        frames, box = dicom.read(real, name, choose)
    elif kind := pictures.kind_of(head):
        frames = pictures.read(real, kind, name, choose)
    elif _is_video(head):
        raise UnreadableFile("video", name)
    elif dicom.may_lack_preamble(head):
        frames, box = dicom.read(real, name, choose)
    else:
        raise UnreadableFile("not_an_image", name)
    if not cut_to_sector:
        return frames
    return [crop(frame, box) for frame in frames] if box else _cropped_alike(frames)


def _cropped_alike(frames: list[Frame]) -> list[Frame]:
    """Every frame cut to the found sector. Frames of one size are one loop: one box holds them all."""
    shapes = {frame.pixels.shape for frame in frames}
    boxes = {
        shape: find_sector(
            np.maximum.reduce([frame.pixels for frame in frames if frame.pixels.shape == shape])
        )
        for shape in shapes
    }
    return [crop(frame, boxes[frame.pixels.shape]) for frame in frames]


def _checked(path: Path, folders: list[Path] | None) -> Path:
    """`path` with every symbolic link followed, if it is an ordinary file, not empty, in one of `folders`."""
    name = path.name
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        # Links that lead in a circle, a null byte in the name.
        raise UnreadableFile("unreadable", name) from error
    if folders is not None and not any(real.is_relative_to(folder) for folder in folders):
        raise UnreadableFile("outside", name)
    try:
        status = real.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnreadableFile("missing", name) from error
    except OSError as error:
        raise UnreadableFile("unreadable", name) from error
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableFile("folder", name)
    if not stat.S_ISREG(status.st_mode):  # a device or a pipe, which may never end
        raise UnreadableFile("unreadable", name)
    if status.st_size == 0:
        raise UnreadableFile("empty", name)
    return real


def _head(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise UnreadableFile("unreadable", name) from error


def _is_video(head: bytes) -> bool:
    """MP4, MOV and other ISO media, AVI, Matroska and WebM, MPEG-1 and -2, Windows Media, Flash and Ogg."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return head[8:12] not in STILLS
    if head.startswith((b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")):
        return True
    if head.startswith((b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\x01", b"OggS")):
        return True
    return head.startswith(b"RIFF") and head[8:12] == b"AVI "
