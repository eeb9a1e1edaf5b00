"""From a customer's name to the slug that names it everywhere (commands, files, environments, hosts). Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Final, NewType

from tenantry.errors import InvalidInput

Slug = NewType("Slug", str)

SLUG_LENGTH_MAX: Final = 48
NAME_LENGTH_MAX: Final = 200

_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DIGEST_LENGTH: Final = 8
# Letters that do not decompose into an ASCII letter and a mark, with their usual spelling.
_SPELLED: Final = str.maketrans(
    {
        "æ": "ae",
        "œ": "oe",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "þ": "th",
        "ł": "l",
        "ħ": "h",
        "ı": "i",
        "ŋ": "n",
        "&": " and ",
    }
)


def clean_name(name: str) -> str:
    """The name as it is stored: composed, without control characters, single spaces.

    Raises InvalidInput for a name that is empty or too long.
    """
    printable = "".join(
        " " if unicodedata.category(char)[0] in "CZ" else char for char in unicodedata.normalize("NFC", name)
    )
    cleaned = " ".join(printable.split())
    if not cleaned:
        raise InvalidInput("the name is empty", next_step='give the customer a name, for instance "ACME Corp"')
    if len(cleaned) > NAME_LENGTH_MAX:
        raise InvalidInput(f"the name has {len(cleaned)} characters; {NAME_LENGTH_MAX} are the most")
    return cleaned


def slugify(name: str) -> Slug:
    """``ACME Corp`` -> ``acme-corp``; always the same slug for the same name, and the slug of a slug is itself.

    Where ASCII cannot spell the name (other scripts) or it is too long, a digest of the name is appended, so that
    two such names do not fall together. Raises InvalidInput for a name without a letter or digit.
    """
    # Decomposed before and after: a mathematical A has a case only then, and folding composes some letters anew.
    decomposed = unicodedata.normalize("NFKD", clean_name(name))
    folded = unicodedata.normalize("NFKD", decomposed.casefold().translate(_SPELLED))
    words: list[str] = []
    lost = False
    word = ""
    for char in folded:
        if char.isascii() and char.isalnum():
            word += char
        elif char in "'’.":  # joins: O'Neill, S.A.
            continue
        elif unicodedata.category(char)[0] in "LN":
            lost = True
            words.append(word)
            word = ""
        elif unicodedata.category(char)[0] != "M":
            words.append(word)
            word = ""
    words.append(word)
    spelled = "-".join(filter(None, words))
    if not spelled and not lost:
        raise InvalidInput(f"the name {name!r} has no letter or digit", next_step="choose a slug with --slug")
    if not lost and len(spelled) <= SLUG_LENGTH_MAX:
        return Slug(spelled)
    digest = hashlib.sha256(unicodedata.normalize("NFKC", clean_name(name)).casefold().encode()).hexdigest()
    room = SLUG_LENGTH_MAX - _DIGEST_LENGTH - 1
    return Slug(f"{(spelled[:room].strip('-') or 'tenant')}-{digest[:_DIGEST_LENGTH]}")


def checked_slug(text: str) -> Slug:
    """``text`` itself, when it is a slug. Raises InvalidInput otherwise, with the slug it might have meant."""
    if _SLUG.fullmatch(text) and len(text) <= SLUG_LENGTH_MAX:
        return Slug(text)
    raise InvalidInput(
        f"{text!r} is not a slug (a-z, 0-9 and single dashes between them, at most {SLUG_LENGTH_MAX})",
        next_step="for instance --slug acme-corp",
    )


def same_name(one: str, other: str) -> bool:
    """Whether two names are one customer's: letter case and spacing do not tell customers apart."""
    return clean_name(one).casefold() == clean_name(other).casefold()
