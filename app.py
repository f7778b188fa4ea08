"""Start the Ultrasound Assistant in the browser. Also the entry of a Hugging Face Space.

python app.py [--host 127.0.0.1] [--port 7860] [--weights NAME=PATH_OR_ID …] [--device auto]
              [--quantize none|8bit|4bit] [--planes FILE]
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

from apps.privacy import prepare_environment

prepare_environment()  # before gradio is imported

from apps.opening import Opening  # noqa: E402
from apps.page import ASSISTANTS, compose, launch_options  # noqa: E402
from assistants.base import demo_weights  # noqa: E402
from imaging.planes import PlanesError, load_planes  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page, then load the weights behind it."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    weights = dict(options.weights)
    quantize = None if options.quantize == "none" else options.quantize
    openings = {
        name: Opening(
            name,
            weights.get(name),
            device=options.device,
            quantize=quantize,
            planes=options.planes if name == "abvlm_q" else None,
        )
        for name in ASSISTANTS
        if name in weights or demo_weights(name)
    }
    page = compose(openings)
    try:
        _, address, _ = page.launch(
            server_name=options.host, server_port=options.port, prevent_thread_lock=True, **launch_options()
        )
    except OSError:
        raise SystemExit(
            "The port is taken, or the host is not this machine's. Try another --port."
        ) from None
    print(f"Ultrasound Assistant · 超声助手  {address}  (research use only · 仅供研究)", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads are deleted on the way out
    for opening in openings.values():
        opening.start()
    page.block_thread()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Open the Ultrasound Assistant in the browser.")
    parser.add_argument("--host", help="address to listen on (default: GRADIO_SERVER_NAME, else 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help="port (default: GRADIO_SERVER_PORT, else the first free from 7860)"
    )
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        type=_named_weights,
        metavar="NAME=PATH_OR_ID",
        help=f"weights for an assistant ({', '.join(ASSISTANTS)}) instead of its demo weights; repeatable",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    parser.add_argument("--quantize", choices=("none", "8bit", "4bit"), default="none", help="needs a GPU")
    parser.add_argument(
        "--planes",
        type=_protocol,
        metavar="FILE",
        help="your hospital's protocol of standard planes, in the shape of imaging/planes.yaml",
    )
    return parser


def _protocol(path: str) -> str:
    try:
        load_planes(path)
    except (OSError, PlanesError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def _named_weights(value: str) -> tuple[str, str]:
    name, equals, weights = value.partition("=")
    if not (equals and weights) or name not in ASSISTANTS:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not NAME=PATH_OR_ID with NAME one of {', '.join(ASSISTANTS)}"
        )
    return name, weights


if __name__ == "__main__":
    main()
