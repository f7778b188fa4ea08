"""Pixels and examinations in: files become frames, test sets become cases. Knows nothing of models or
pages."""

from imaging.errors import UnreadableFile
from imaging.files import Problem, load_frames, read_examination
from imaging.frame import Frame

__all__ = ["Frame", "Problem", "UnreadableFile", "load_frames", "read_examination"]
