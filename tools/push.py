"""Publish a run on the Hugging Face Hub, with a model card: python tools/push.py --run out/coop --to user/name

Learned tensors, config, result and card are uploaded: no image, no pickle, no path of this machine.
promptvision.load("hf-hub:user/name") loads it.
"""

from pathlib import Path

from promptvision.cli import one_sentence, say, tool_parser


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run")
    parser.add_argument("--to", required=True, metavar="USER/NAME", help="name of the model on the Hub")
    parser.add_argument(
        "--licence", "--license", required=True, help="the Hub's identifier of a licence: mit, cc-by-4.0"
    )
    parser.add_argument("--private", action="store_true", help="only you, or your organisation, can see it")
    parser.add_argument("--overwrite", action="store_true", help="replace a model of that name")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write the files to a folder, and upload nothing")
    return parser.parse_args()


def main():
    args = arguments()
    if args.output:
        from promptvision.deploy.publication import write_publication

        write_publication(args.run, args.output, args.to, args.licence)
        say(f"files of {args.to}: {args.output}; nothing was uploaded")
    else:
        from promptvision.deploy.push import push

        say(push(args.run, args.to, args.licence, private=args.private, overwrite=args.overwrite))


if __name__ == "__main__":
    with one_sentence():
        main()
