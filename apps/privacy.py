"""What keeps one visitor's images from the next, from the network and from the disk.

Gradio's defaults are not made for a hospital: usage statistics, a history of every run in the browser's
storage, a button that publishes an image, uploads that stay in the temporary folder, and clients that
may name any web address as their "file" for the server to fetch. Each is answered here, in one place.

Knows nothing of any page.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

log = logging.getLogger(__name__)

KEPT_SECONDS = 3600  # an upload's life; looked at every CHECK_SECONDS
CHECK_SECONDS = 300
_PREFIX = "ultrasound-uploads-"


def prepare_environment() -> None:
    """Switch statistics off and give uploads a folder of their own. Call before gradio is imported.

    The folder can be read by this user only and goes when the process ends; what a killed process left
    behind goes now. pydicom is hushed: what it warns about it quotes, and a DICOM header quotes a patient.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if "GRADIO_TEMP_DIR" not in os.environ:
        _delete_left_behind()
        folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


LAUNCH = {  # for Blocks.launch
    "run_history": False,
    "enable_monitoring": False,
    "show_error": True,
    "max_file_size": "500mb",  # a long uncompressed cine
    "footer_links": ["api", "settings"],
    "share": False,
    "ssr_mode": False,
    "mcp_server": False,
}


def _delete_left_behind() -> None:
    """Delete the upload folders of processes that no longer run."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdecimal() and not _runs(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether a process of this number runs. Our own number was an earlier one's: we have no folder yet."""
    if process == os.getpid():
        return False
    if os.name != "posix":  # no harmless way to ask
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start_deleting() -> None:
    """Watch the upload folder and delete what has been there for KEPT_SECONDS, all but what is there now.

    Gradio's `delete_cache` forgets the files of a component that an event has updated; this looks at
    the folder.
    """
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    ours = set(_files(folder))

    def watch():
        while True:
            time.sleep(CHECK_SECONDS)
            delete_older(folder, KEPT_SECONDS, keep=ours)

    Thread(target=watch, name="delete uploads", daemon=True).start()


def delete_older(folder: Path, seconds: float, *, keep: Collection[Path] = ()) -> None:
    """Delete the files under `folder` that were last written more than `seconds` ago.

    Raises no OSError, because the thread that calls it must outlive a bad disk: what cannot be deleted now
    is logged, without its name, and met again next time.
    """
    for path in _files(folder):
        try:
            if path not in keep and time.time() - path.stat().st_mtime > seconds:
                path.unlink()
        except OSError as error:
            _not_deleted(error)


def _files(folder: Path) -> Iterator[Path]:
    """The files under `folder`. Unlike `Path.rglob` it goes on when a folder vanishes on the way."""
    for where, _, names in os.walk(folder, onerror=_not_deleted):
        yield from (Path(where, name) for name in names)


def _not_deleted(error: OSError) -> None:
    """Say that uploads may stay, and why; what has vanished does not. A path could name a patient."""
    if not isinstance(error, FileNotFoundError):
        log.error("uploads could not be deleted: %s", type(error).__name__)


class ForeignFile(PermissionError):
    """A request names a file that its sender did not upload. The message names no path."""


def check_inputs(data: Any) -> None:
    """Refuse, anywhere inside a request, a file given as a web address or outside the upload folder.

    Raises ForeignFile. Chat messages holding whole components are refused too: Gradio builds them from
    arguments the sender chooses.
    """
    if isinstance(data, dict):
        if "path" in data:
            own_upload(data["path"])
        if data.get("type") == "component":
            raise ForeignFile("a chat message of this page holds text and images only")
        check_inputs(list(data.values()))
    elif isinstance(data, list):
        for item in data:
            check_inputs(item)


def own_upload(path: Any) -> Path:
    """`path` as a Path when it lies in the upload folder, links followed; else ForeignFile.

    It may be gone by now. A file's folder is named by the sha256 of its bytes, so a visitor cannot name
    another visitor's file without having it.
    """
    folder = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    if isinstance(path, str) and (real := Path(path).resolve()).is_relative_to(folder):
        return real
    raise ForeignFile("only files uploaded in this session can be read")
