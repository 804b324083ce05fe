"""Explain what a run has learned, in words and maps: python tools/explain.py --run out/coop photos/"""

from pathlib import Path

from promptvision.cli import add_trust, one_sentence, say, tool_parser
from promptvision.errors import InputError


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    parser.add_argument("images", nargs="*", help="files, folders and globs (default: a test image of some classes)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder to write (default RUN/explain)")
    parser.add_argument("--words", type=int, default=5, metavar="N", help="nearest words of each vector (default 5)")
    parser.add_argument("--plane", choices=("tsne", "pca"), default="tsne", help="map of features (default tsne)")
    add_trust(parser)
    args = parser.parse_args()
    if args.words < 1:
        raise InputError(f"--words is {args.words}; it must be at least 1")
    return args


def main():
    args = arguments()
    from promptvision.deploy.classifier import load
    from promptvision.deploy.explain.page import check_output, write_explanation
    from promptvision.deploy.explain.parts import explain
    from promptvision.deploy.explain.subject import load_subject
    from promptvision.engine.progress import log_to_terminal

    if args.output:
        check_output(args.output)
    classifier = load(args.run, trust=args.trust, overrides=["COMPUTE.WAY", "plain"])
    log_to_terminal()
    parts, cfg = explain(load_subject(classifier, args.images), args.words, args.plane), classifier.cfg
    lead = f"{cfg.METHOD.NAME} on {cfg.BACKBONE.NAME}, trained on {cfg.DATASET.NAME}: what the run has learned."
    page = write_explanation(args.run.resolve().name, lead, parts, args.output or args.run / "explain")
    for part in parts:
        say(f"{part.title}: {' '.join(part.sentences)}")
    say(f"page: {page}")


if __name__ == "__main__":
    with one_sentence():
        main()
