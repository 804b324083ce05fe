"""List the methods: python tools/methods.py

`python tools/help.py coop` explains one.
"""

from promptvision.cli import one_sentence, tool_parser
from promptvision.config.docs import methods_help
from promptvision.config.families import FAMILIES


def main():
    tool_parser(__doc__).parse_args()
    print(methods_help(FAMILIES), end="")


if __name__ == "__main__":
    with one_sentence():
        main()
