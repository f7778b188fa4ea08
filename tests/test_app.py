"""The page as a program sees it: one endpoint, true errors, no traces. What a person sees is test_browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pages
import pytest
import tiny
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import app
from apps import echovlm, language, privacy
from apps.chat import UnreadableUploads, read_uploads
from apps.opening import Opening
from apps.page import launch_options
from assistants import wording
from assistants.base import Reply, Settings, Turn
from assistants.echovlm import prompts

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def opening(tmp_path_factory):
    return Opening("echovlm", str(tiny.save(tmp_path_factory.mktemp("weights"))), device="cpu")


@pytest.fixture(scope="module")
def server(opening):
    with pages.served(opening) as (address, page):
        yield address, page


@pytest.fixture
def client(server):
    return Client(server[0], verbose=False)


# ---- the endpoint


def test_there_is_an_endpoint_for_each_tab_and_no_other(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/report", "/chat"}
    assert not client.view_api(return_format="dict")["unnamed_endpoints"]


def test_a_program_reads_what_the_assistant_writes(client, opening, tmp_path):
    files = [handle_file(pages.write_png(tmp_path)), handle_file(pages.write_dicom(tmp_path, frames=3))]
    texts = list(client.submit(files, "", "report", "liver", "zh", api_name="/report"))
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    frames = tuple(read_uploads([file["path"] for file in _as_uploads(files)]))
    assert len(frames) == 4
    turn = Turn("", frames, "report", "liver", "zh")
    assert texts[-1] == list(opening.assistant.stream(turn, (), Settings()))[-1].text


def _as_uploads(files):
    folder = Path(os.environ["GRADIO_TEMP_DIR"]) / "by-hand"
    folder.mkdir(exist_ok=True)
    copies = []
    for file in files:
        copy = folder / Path(file["path"]).name
        copy.write_bytes(Path(file["path"]).read_bytes())
        copies.append({"path": str(copy)})
    return copies


@pytest.mark.parametrize(("language_", "says"), [("zh", "不是可读取的图像"), ("en", "is not an image")])
def test_a_bad_file_is_named_in_the_callers_language(client, tmp_path, language_, says):
    (tmp_path / "letter.png").write_text("Dear colleague")
    files = [handle_file(pages.write_png(tmp_path)), handle_file(str(tmp_path / "letter.png"))]
    with pytest.raises(AppError, match=rf"letter\.png.*{says}|{says}.*letter\.png"):
        client.predict(files, "", "report", "any", language_, api_name="/report")


def call(address, data):
    """POST to the endpoint by hand, as a client of ill will might; everything the server answers."""
    request = urllib.request.Request(
        f"{address}gradio_api/call/report",
        json.dumps({"data": data}).encode(),
        {"Content-Type": "application/json"},
    )
    event = json.loads(urllib.request.urlopen(request).read())["event_id"]
    return urllib.request.urlopen(f"{address}gradio_api/call/report/{event}").read().decode()


META = {"_type": "gradio.FileData"}


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/hostname", "meta": META},
        {"path": "/etc/hostname"},
        {"path": "../../../../../../etc/hostname", "meta": META},
        {"path": str(ROOT / "README.md"), "meta": META},
        "/etc/hostname",
        {"no": "path"},
        None,
        17,
    ],
    ids=str,
)
def test_only_uploads_are_read(server, file):
    answer = call(server[0], [[file], "", "report", "any", "en"])
    assert "event: error" in answer
    assert "event: complete" not in answer


def test_a_link_out_of_the_upload_folder_is_not_followed(server, tmp_path):
    secret = pages.write_png(tmp_path)
    link = Path(os.environ["GRADIO_TEMP_DIR"]) / "link.png"
    link.symlink_to(secret)
    try:
        assert "event: error" in call(
            server[0], [[{"path": str(link), "meta": META}], "", "report", "any", "en"]
        )
    finally:
        link.unlink()


def test_the_server_fetches_no_web_address(server, monkeypatch):
    fetched = []

    async def fetch(url, cache_dir):
        fetched.append(url)
        raise OSError

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    url = "https://example.org/scan.png"
    for file in ({"path": url, "meta": META}, {"path": url, "url": url, "meta": META}, url):
        assert "event: error" in call(server[0], [[file], "", "report", "any", "en"])
    assert fetched == []


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "link.png", "../escaped.png", "https://example.org/x", None, 3]
)
def test_two_more_locks_on_the_same_door(tmp_path, monkeypatch, path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    (folder / "link.png").symlink_to(pages.write_png(tmp_path, "escaped.png"))
    named = str(folder / path) if isinstance(path, str) and path.endswith(".png") else path
    with pytest.raises(privacy.ForeignFile):
        privacy.own_upload(named)
    if isinstance(path, str):
        with pytest.raises(UnreadableUploads):
            read_uploads([named])


@pytest.mark.parametrize(
    "data",
    [
        [],
        [[]],
        [[], "", "poem", "any", "en"],
        [[], "", "report", "spleen", "en"],
        [[], "", "report", "any", "fr"],
    ],
)
def test_nonsense_is_answered_with_an_error(server, data):
    assert "event: error" in call(server[0], data)


def test_programs_at_once_each_get_their_own_text(server, client, tmp_path):
    files = [pages.write_png(tmp_path, f"{n}.png", seed=n) for n in range(3)]
    alone = [client.predict([handle_file(file)], f"{n}?", api_name="/report") for n, file in enumerate(files)]
    jobs = [
        Client(server[0], verbose=False).submit([handle_file(file)], f"{n}?", api_name="/report")
        for n, file in enumerate(files)
    ]
    assert [job.result() for job in jobs] == alone
    assert len(set(alone)) == 3


def test_programs_need_an_image_too(client):
    with pytest.raises(AppError, match="Please add"):
        client.predict([], "Hello?", api_name="/report")


def test_programs_read_the_notice_too(client, tmp_path, opening, monkeypatch):
    doubt = pages.Fixed(Reply("A report.", finished=True, stopped_by="end", unfamiliar=(0,)))
    monkeypatch.setattr(opening, "assistant", doubt)
    answer = client.predict([handle_file(pages.write_png(tmp_path))], "", api_name="/report")
    assert answer.startswith("⚠️ This image is unlike") and answer.endswith("\n\nA report.")


# ---- traces


def test_old_uploads_are_deleted_and_young_ones_are_not(client, tmp_path):
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    for name in ("old.png", "young.png"):
        client.predict([handle_file(pages.write_png(tmp_path, name, len(name)))], "", api_name="/report")
    (old,) = folder.rglob("old.png")
    os.utime(old, (time.time() - 3601,) * 2)
    (young,) = folder.rglob("young.png")
    privacy.delete_older(folder, privacy.KEPT_SECONDS)
    assert not old.exists() and young.exists()
    privacy.delete_older(folder, -1, keep={young})
    assert [path for path in folder.rglob("*") if path.is_file()] == [young]


def test_the_promise_of_an_hour_is_kept_by_a_thread(server):
    assert "delete uploads" in [thread.name for thread in threading.enumerate()]
    assert privacy.KEPT_SECONDS == 3600 and privacy.CHECK_SECONDS <= 600


def two_uploads(folder: Path) -> set[Path]:
    """Files in two folders; which of them a walk meets first is the disk's choice."""
    paths = {folder / name / "scan.png" for name in "ab"}
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("")
    return paths


def test_the_thread_outlives_a_folder_that_vanishes_while_it_looks(tmp_path, monkeypatch, caplog):
    """Each round deletes one upload, and with it the folder of the other goes."""
    unlink, start, done = Path.unlink, threading.Semaphore(0), threading.Semaphore(0)

    def unlink_and_more(path):
        unlink(path)
        for other in set(tmp_path.iterdir()) - {path.parent}:
            shutil.rmtree(other)

    def sleep(_):
        done.release()
        start.acquire()

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(Path, "unlink", unlink_and_more)
    monkeypatch.setattr(privacy, "KEPT_SECONDS", -1)
    monkeypatch.setattr(privacy, "time", SimpleNamespace(time=time.time, sleep=sleep))
    privacy.start_deleting()
    for _ in range(2):
        assert done.acquire(timeout=30)
        shutil.rmtree(tmp_path)
        paths = two_uploads(tmp_path)
        start.release()
        assert done.acquire(timeout=30), "the thread has died"
        assert not any(path.exists() for path in paths)
        done.release()
    assert not caplog.records


def test_what_cannot_be_deleted_is_said_and_keeps_nothing_else(tmp_path, monkeypatch, caplog):
    paths, unlink, held = two_uploads(tmp_path), Path.unlink, []

    def refuse_the_first(path):
        if not held:
            held.append(path)
            raise PermissionError(f"{path} is open")
        unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse_the_first)
    privacy.delete_older(tmp_path, -1)
    assert {path for path in paths if path.exists()} == set(held)
    assert "PermissionError" in caplog.text and "scan" not in caplog.text


def test_the_upload_folder_is_ours_alone():
    assert Path(os.environ["GRADIO_TEMP_DIR"]).stat().st_mode & 0o077 == 0


def test_what_a_killed_process_left_behind_is_deleted(tmp_path, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getppid()):
        (tmp_path / f"ultrasound-uploads-{process}-x").mkdir()
        (tmp_path / f"ultrasound-uploads-{process}-x" / "scan.png").write_text("")
    monkeypatch.setattr(privacy.tempfile, "gettempdir", lambda: str(tmp_path))
    privacy._delete_left_behind()
    assert [path.name for path in tmp_path.iterdir()] == [f"ultrasound-uploads-{os.getppid()}-x"]


def test_nothing_of_the_visitor_is_written_anywhere(client, tmp_path, capfd, caplog, monkeypatch, opening):
    path = pages.write_png(tmp_path, "ZHANG_SAN.png", seed=4)
    client.predict([handle_file(path)], "LI_SI asks", api_name="/report")
    monkeypatch.setattr(opening.assistant, "stream", lambda *_: explode("WANG_WU.dcm"))
    with pytest.raises(AppError, match="KeyError") as failed:
        client.predict([handle_file(path)], "LI_SI asks", api_name="/report")
    captured = "".join(capfd.readouterr()) + caplog.text + str(failed.value)
    assert "explode" in captured  # the developer's trace is there
    assert not re.search("ZHANG_SAN|LI_SI|WANG_WU|TEST", captured)


def explode(name):
    raise KeyError(name)
    yield


def test_gradio_tells_nobody(server):
    config = json.loads(urllib.request.urlopen(f"{server[0]}config").read())
    assert config["analytics_enabled"] is False
    options = launch_options()
    assert options["run_history"] is False and options["share"] is False
    assert options["enable_monitoring"] is False
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] in ("1", "True")


# ---- weights that are late, or never come


def test_a_failed_load_shows_its_true_cause(tmp_path):
    opening = Opening("echovlm", str(tmp_path / "nowhere"), device="cpu")
    with pages.served(opening) as (address, _):
        client = Client(address, verbose=False)
        with pytest.raises(AppError, match="nowhere"):
            client.predict([handle_file(pages.write_png(tmp_path))], "", api_name="/report")
    assert "failed" in opening.badge()
    assert "nowhere" in opening.failure_notice()
    assert "权重未能加载" in opening.failure_notice()


def test_the_badge_follows_the_weights(opening, server):
    late = Opening("echovlm")
    assert "loading" in late.badge() and not late.done
    assert "ready" in opening.badge() and "CPU" in opening.badge()
    late.assistant = pages.Fixed()
    assert language.text("badge_demo", "zh") in late.badge()


# ---- what it offers


def test_the_page_offers_what_the_assistant_knows():
    assert echovlm.ORGANS == prompts.organs()
    assert echovlm.TASKS == wording.TASKS
    assert language.LANGUAGES == wording.LANGUAGES


def test_examples_name_known_choices():
    listed = echovlm.examples()
    assert len(listed) == 3
    for example in listed:
        assert example.task in echovlm.TASKS
        assert example.organ is None or example.organ in echovlm.ORGANS


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--weights", "nobody=x"], "NAME one of echovlm"),
        (["--weights", "echovlm="], "is not NAME=PATH_OR_ID"),
        (["--quantize", "1bit"], "invalid choice"),
        (["--port", "many"], "invalid int"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        app.main(arguments)
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_the_command_refuses_without_a_trace():
    command = [sys.executable, "app.py", "--port", "many"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and "invalid int" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("choices", "listed"),
    [
        (("question", "any", "en"), "vqa"),
        (("report", "spleen", "en"), "liver"),
        (("report", "any", "fr"), "zh"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_known_ones(client, tmp_path, choices, listed):
    files = [handle_file(pages.write_png(tmp_path))]
    with pytest.raises(AppError, match=listed):
        client.predict(files, "", *choices, api_name="/report")
