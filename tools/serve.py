"""Classify images on a local web page: python tools/serve.py --run out/coop"""

import time
from pathlib import Path

from promptvision.cli import add_trust, one_sentence, positive, say, tool_parser


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860, help="port (default 7860; 0 for any free one)")
    parser.add_argument("--megabytes", type=positive, default=20, metavar="N", help="size of a file (default 20)")
    add_trust(parser)
    return parser.parse_args()


def main():
    args = arguments()
    from promptvision.deploy.serve import LOOPBACK, Place, answers_of, check_gradio, free_port, serve
    from promptvision.engine.progress import log_to_terminal

    check_gradio()
    place = Place(args.host, args.port, args.megabytes)
    free_port(place)  # before a model is loaded
    log_to_terminal()
    if args.host not in LOOPBACK:
        say(f"--host {args.host}: everyone who reaches this machine there can send images; there is no password")
    name = args.run.resolve().name

    def announce(address):
        say(f"{name}: {address} (Ctrl-C ends it)")

    try:
        serve(answers_of(args.run, trust=args.trust), place, name, announce, forever)
    except KeyboardInterrupt:
        say("ended")


def forever():
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    with one_sentence():
        main()
