"""The house's rules about who may know whom, read from the source without running it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_OURS = {"runs", "work", "build", "dist"}

# Who may import whom among the folders of the project; every folder may import itself.
FLOORS = {
    "app": {"apps", "assistants", "models", "imaging"},
    "apps": {"assistants", "models", "imaging"},
    "eval": {"assistants", "models", "imaging"},
    "training": {"assistants", "models", "imaging"},
    "assistants": {"models", "imaging"},
    "models": {"imaging"},
    "imaging": set(),
    "simulator": {"imaging"},
}
BENCHMARKS = {"app", *FLOORS}  # they measure all of it, and nothing depends on them
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc"}
SHADOWS = {"datasets", "evaluate", "tokenizers", "peft", "accelerate"}  # would hide the library of that name
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def sources() -> list[Path]:
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".") and top.name not in NOT_OURS]
    return sorted(
        path for top in tops for path in ([top] if top.is_file() else top.rglob("*")) if path.suffix == ".py"
    )


def imported(tree: ast.AST, path: Path) -> list[str]:
    """Every module that the code names in an import, in full: relative ones resolved, literal dynamic ones
    too."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(path.parent.parts[: len(path.parent.parts) + 1 - node.level]) if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            names += [
                a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
            ]
    return names


def violations(path: str, source: str) -> list[str]:
    """What a file at `path` (relative to the project) breaks of the house's rules, one sentence each."""
    at, tree = Path(path), ast.parse(source)
    names = imported(tree, at)
    found = [
        f"{part} is a drawer, not a room; name what it holds"
        for part in at.with_suffix("").parts
        if part in DRAWERS
    ]
    found += unsafe(tree, names)
    home = at.with_suffix("").parts[0]
    if home == "tests":
        return [f"{path}: {sentence}" for sentence in found]
    if home not in FLOORS and home != "benchmarks":
        found.append(f"{home} has no floor in the house; add it to FLOORS")
    for name in names:
        top = name.split(".")[0]
        if (
            top in BENCHMARKS | {"benchmarks", "tests"}
            and top != home
            and home in FLOORS
            and top not in FLOORS[home]
        ):
            found.append(f"{home} must not import {name}")
        if top == "gradio" and home not in ("app", "apps"):
            found.append("only apps and app.py import gradio")
        if top == "argparse" and home == "assistants":
            found.append("an assistant knows nothing of command lines")
        if (
            name.startswith("assistants.")
            and home == "assistants"
            and is_other_assistant(name.split(".")[1], at)
        ):
            found.append(f"an assistant must not import another: {name}")
    return [f"{path}: {sentence}" for sentence in found]


def is_other_assistant(name: str, at: Path) -> bool:
    own = at.parts[1] if len(at.parts) > 2 else None
    return name != own and ((ROOT / "assistants" / name).is_dir() or name in ASSISTANTS)


ASSISTANTS = {"echovlm", "llava_ultra", "qbench", "abvlm_q"}


def unsafe(tree: ast.AST, names: list[str]) -> list[str]:
    """Ways to let a file of weights or data run code."""
    found = [f"{name} runs what a file tells it to" for name in names if name.split(".")[0] in UNSAFE_MODULES]
    found += [f"{name} unpickles" for name in names if name == "torch.load"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            found.append("torch.load unpickles; use safetensors")
        pairs = []
        if isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [
                (getattr(key, "value", None), value)
                for key, value in zip(node.keys, node.values, strict=True)
            ]
        for key, value in pairs:
            is_off = isinstance(value, ast.Constant) and not value.value
            if key in ("trust_remote_code", "allow_pickle") and not is_off:
                found.append(f"{key} lets a file run code")
    return found


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for path in sources()])
def test_the_house_is_kept(path):
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_no_folder_hides_a_library():
    assert not [name for name in SHADOWS if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()]


def test_the_whole_project_is_looked_at():
    homes = {path.relative_to(ROOT).with_suffix("").parts[0] for path in sources()}
    assert {"app", "apps", "assistants", "models", "imaging", "simulator", "training", "tests"} <= homes
    assert len(sources()) > 40


# --- the checker itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path, source, complaint",
    [
        ("imaging/x.py", "import models", "imaging must not import models"),
        ("imaging/x.py", "from models.streaming import f", "imaging must not import models.streaming.f"),
        ("imaging/x.py", "def f():\n    from apps import chat", "imaging must not import apps.chat"),
        (
            "imaging/x.py",
            "from importlib import import_module\nimport_module('models')",
            "must not import models",
        ),
        ("models/x.py", "from assistants.base import Turn", "models must not import assistants.base.Turn"),
        ("assistants/qbench/x.py", "import apps.chat", "assistants must not import apps.chat"),
        ("assistants/qbench/x.py", "import eval", "assistants must not import eval"),
        ("assistants/qbench/x.py", "import training.loop", "assistants must not import training.loop"),
        ("simulator/x.py", "from models import y", "simulator must not import models.y"),
        ("simulator/x.py", "import training", "simulator must not import training"),
        ("training/x.py", "import simulator", "training must not import simulator"),
        ("training/x.py", "from eval.bleu import f", "training must not import eval.bleu.f"),
        ("eval/x.py", "import apps", "eval must not import apps"),
        ("apps/x.py", "import simulator.draw", "apps must not import simulator.draw"),
        ("apps/x.py", "import app", "apps must not import app"),
        ("models/x.py", "import tests.tiny", "models must not import tests.tiny"),
        ("models/x.py", "import benchmarks.page", "models must not import benchmarks.page"),
        ("cellar/x.py", "", "cellar has no floor in the house"),
        ("assistants/qbench/x.py", "import assistants.echovlm", "an assistant must not import another"),
        ("assistants/qbench/x.py", "from assistants import echovlm", "an assistant must not import another"),
        (
            "assistants/qbench/x.py",
            "from assistants.echovlm.prompts import p",
            "an assistant must not import another",
        ),
        ("assistants/qbench/x.py", "from ..echovlm import prompts", "an assistant must not import another"),
        ("assistants/base.py", "import assistants.echovlm", "an assistant must not import another"),
        ("assistants/qbench/x.py", "import gradio as gr", "only apps and app.py import gradio"),
        ("training/x.py", "def f():\n    from gradio import Blocks", "only apps and app.py import gradio"),
        ("assistants/qbench/x.py", "import argparse", "an assistant knows nothing of command lines"),
        ("models/utils.py", "", "utils is a drawer"),
        ("eval/helpers/x.py", "", "helpers is a drawer"),
        ("tests/common.py", "", "common is a drawer"),
        ("models/x.py", "import pickle", "pickle runs what a file tells it to"),
        ("tests/x.py", "from pickle import loads", "pickle.loads runs"),
        ("models/x.py", "import torch\ntorch.load('w.bin')", "torch.load unpickles"),
        ("models/x.py", "from torch import load", "torch.load unpickles"),
        ("models/x.py", "open_model('x', trust_remote_code=True)", "trust_remote_code lets a file run code"),
        ("models/x.py", "open_model('x', trust_remote_code=flag)", "trust_remote_code lets a file run code"),
        ("models/x.py", "options = {'trust_remote_code': True}", "trust_remote_code lets a file run code"),
        ("models/x.py", "np.load('x.npy', allow_pickle=True)", "allow_pickle lets a file run code"),
    ],
)
def test_a_violation_is_seen(path, source, complaint):
    assert any(complaint in sentence for sentence in violations(path, source))


@pytest.mark.parametrize(
    "path, source",
    [
        ("app.py", "import gradio\nfrom apps.chat import page\nfrom assistants.base import open_assistant"),
        ("apps/chat.py", "import gradio\nfrom imaging.files import load_frames"),
        (
            "assistants/qbench/x.py",
            "from assistants.base import Turn\nfrom assistants.qbench.rating import r",
        ),
        (
            "assistants/qbench/x.py",
            "from .rating import r\nfrom ..base import Turn\nfrom models import streaming",
        ),
        ("assistants/base.py", "import_module(f'assistants.{name}')"),
        ("eval/score.py", "import argparse\nfrom eval.metrics import bleu"),
        ("simulator/draw.py", "from imaging.frame import Frame\nimport simulator.probe"),
        ("benchmarks/page.py", "import app\nfrom simulator.draw import draw"),
        (
            "models/x.py",
            "open_model('x', trust_remote_code=False)\nimport torch\nnp.load('x', allow_pickle=False)",
        ),
        ("tests/test_x.py", "import gradio\nimport argparse\nfrom assistants.echovlm import config"),
    ],
)
def test_what_is_allowed_is_not_complained_of(path, source):
    assert violations(path, source) == []
