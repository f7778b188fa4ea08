"""The image files of a hospital's export, found by the names that its reports give. Opens none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.hospital.rows import folded


class ImageIndex:
    """The files under a folder, found by name: with or without folders, with or without ending."""

    def __init__(self, folder: Path, leave_out: Path):
        self.folder = folder
        self.paths = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and not path.is_relative_to(leave_out)
        )
        self._by_name: dict[str, list[Path]] = {}
        self._by_folder: dict[str, list[Path]] = {}
        for path in self.paths:
            inner = path.relative_to(folder)
            for name in {inner.as_posix(), path.name, path.stem, inner.with_suffix("").as_posix()}:
                self._by_name.setdefault(folded(name), []).append(path)
            for part in inner.parts[:-1]:
                self._by_folder.setdefault(folded(part), []).append(path)

    def find(self, name: str, hints: Sequence[str]) -> list[Path]:
        """The files called `name`; of several, those in a folder called like one of the hints, if any."""
        name = name.replace("\\", "/").removeprefix("./")
        found = self._by_name.get(folded(name)) or self._by_name.get(folded(name.split("/")[-1]), [])
        for hint in hints if len(found) > 1 else ():
            inside = set(self.in_folder(hint))
            nearer = [path for path in found if path in inside]
            if nearer:
                return nearer
        return found

    def in_folder(self, name: str) -> list[Path]:
        return self._by_folder.get(folded(name), []) if name else []
