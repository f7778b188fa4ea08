"""README.md's tree names what is there, and every folder."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tree_of(markdown: str) -> str:
    """The first fenced block under a heading that speaks of the tree or the layout."""
    found = re.search(
        r"^#+ .*(?:tree|layout).*\n(?:(?!#+ ).*\n)*?```.*\n((?:.*\n)*?)```", markdown, re.I | re.M
    )
    if not found:
        raise AssertionError("README.md has no fenced tree under a heading with 'tree' or 'layout' in it")
    return found.group(1)


def paths_of(tree: str) -> list[str]:
    """The paths of a tree, one a line: the first word after the indent (spaces or lines drawn by `tree`),
    below the last path that is indented less. What follows the word is its description. A lone "…"
    stands for more of the like."""
    paths: list[str] = []
    above: list[tuple[int, str]] = []
    for line in tree.splitlines():
        indent, word = re.match(r"([\s│├└─]*)(\S*)", line).groups()
        if word in ("", ".", "./", "…", "..."):
            continue
        while above and above[-1][0] >= len(indent):
            above.pop()
        path = (above[-1][1] + "/" if above else "") + word.rstrip("/")
        above.append((len(indent), path))
        paths.append(path)
    return paths


def top_folders() -> set[str]:
    ignored = {line.strip("/ ") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.iterdir())}
    return {name for name in folders if not name.startswith(".") and name not in ignored}


def readme() -> str:
    path = ROOT / "README.md"
    assert path.is_file(), "README.md is missing"
    return path.read_text(encoding="utf-8")


def test_the_tree_names_only_what_exists():
    paths = paths_of(tree_of(readme()))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_tree_names_every_folder():
    assert top_folders() - set(paths_of(tree_of(readme()))) == set()


def test_the_two_commands_stand_near_the_top():
    head = readme().split("\n## ")[0]
    assert "make demo" in head and "make test" in head


PLAIN = """\
app.py      opens the pages
apps/       what a person sees
  chat.py   shared parts
  …
imaging/
"""
DRAWN = """\
.
├── app.py
├── apps/
│   ├── chat.py  shared parts
│   └── deep
│       └── x.py
└── .ci/run  checks
"""


@pytest.mark.parametrize(
    "tree, paths",
    [
        (PLAIN, ["app.py", "apps", "apps/chat.py", "imaging"]),
        (DRAWN, ["app.py", "apps", "apps/chat.py", "apps/deep", "apps/deep/x.py", ".ci/run"]),
        ("a/\n    b/\n        c\n    d\n\ne  f g\n", ["a", "a/b", "a/b/c", "a/d", "e"]),
    ],
)
def test_trees_are_read_in_both_styles(tree, paths):
    assert paths_of(tree) == paths
    fenced = f"# Title\n\n```\nno/such\n```\n\n## The Layout\n\nWords.\n\n```text\n{tree}```\n"
    assert paths_of(tree_of(fenced)) == paths


def test_a_readme_without_a_tree_is_noticed():
    with pytest.raises(AssertionError, match="no fenced tree"):
        tree_of("# Layout\n\nnone\n\n# Other\n\n```\napp.py\n```\n")
