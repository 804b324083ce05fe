"""OpenAI's tokens of known strings."""

from __future__ import annotations

from open_clip.tokenizer import SimpleTokenizer

from promptvision.backbones import TextTower
from promptvision.verify.check import ABSENT, Answer, judged

START, END = 49406, 49407
TOKENS = {
    "a photo of a cat.": (320, 1125, 539, 320, 2368, 269),
    "X X X X McDonnell Douglas DC-9-30.": (343, 343, 343, 343, 34360, 10065, 2743, 268, 280, 268, 274, 271, 269),
    "X X X X Washington D.C..": (343, 343, 343, 343, 4365, 323, 269, 322, 852),
    "X X X X bird's nest.": (343, 343, 343, 343, 3329, 568, 8719, 269),
    "a  photo of\ta T-shirt": (320, 1125, 539, 320, 339, 268, 2523),
    "Kombucha &amp; tea": (48615, 261, 3274),
    "crème brûlée": (1075, 12138, 614, 711, 127, 119, 75, 13489),
}
"""Text -> its byte-pair tokens between start and end; those with X are in the official code's prompts."""


def known_tokens(text: TextTower) -> Answer:
    """Compare the tokens of a text tower with those that are known."""
    if not isinstance(getattr(text, "tokenizer", None), SimpleTokenizer):
        return Answer(ABSENT, "a tokenizer of its own, not OpenAI's")
    faults = []
    for string, wanted in TOKENS.items():
        ids = text.tokenize([string])[0].tolist()
        given = [*ids[: ids.index(END)], END] if END in ids else ids
        if given != [START, *wanted, END]:
            faults.append(f"{string!r} has tokens {given}, known are {[START, *wanted, END]}")
    return judged(faults, f"{len(TOKENS)} known strings")
