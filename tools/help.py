"""Explain keys and methods: python tools/help.py keys, python tools/help.py OPTIM, python tools/help.py coop

A method is explained by its docstring, its options and the number of parameters that it learns; your own too, as
module:Class.
"""

from promptvision.cli import one_sentence, tool_parser
from promptvision.config.docs import keys_help, method_help
from promptvision.config.families import FAMILIES
from promptvision.config.own_method import family_of, own_class
from promptvision.config.schema import KEYS
from promptvision.errors import InputError, unknown
from promptvision.own_code import names_code

CLASSES = 10
"""Classes of the example whose learned parameters are counted."""


def arguments():
    parser = tool_parser(__doc__)
    parser.add_argument(
        "topic", help="keys; a section or a key, such as OPTIM or OPTIM.LR; or a method, such as coop or module:Class"
    )
    return parser.parse_args()


def main():
    topic = arguments().topic
    keys = keys_help("" if topic == "keys" else topic)
    families = families_of(topic)
    if not keys and not families:
        methods = [name for family in FAMILIES.values() for name in family.METHODS]
        raise unknown("topic", topic, ["keys", *methods, *(key.name for key in KEYS)])
    print(keys, end="")
    for family in families:
        print(method_help(family.METHODS, topic), flush=True)
        print(learned_parameters(family, topic))


def families_of(topic):
    """Return the families that have a method, or that can build your own class."""
    if not names_code(topic):
        return [family for family in FAMILIES.values() if topic in family.METHODS]
    known = family_of(own_class(topic))
    return [FAMILIES[known]] if known else [*FAMILIES.values()]


def learned_parameters(family, name):
    """Return a sentence on the size of a method with its default options."""
    try:
        method = family.build(name, family.load_backbone("embedded"), [f"class {label}" for label in range(CLASSES)])
    except InputError as error:
        return f"Learned parameters depend on the backbone: {error}."
    count = method.learned_parameters()
    return f"Learned parameters: {count:,} with these defaults, {CLASSES} classes and BACKBONE.NAME embedded."


if __name__ == "__main__":
    with one_sentence():
        main()
