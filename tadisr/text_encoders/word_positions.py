"""Find the target tokens of a prompt by the text they spell, not by their ids.

The same word has one id after a comma and another one after a space, and may be split over several tokens. So the
pieces are joined to the text they spell, the word is found in it, and its bytes are mapped back to the tokens. Bytes,
because a rare character may itself be split into tokens of one byte each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import ConfigError

SPACE = "▁"  # SentencePiece's mark for a space
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def spell_piece(piece: str) -> bytes:
    """Decode a piece of the vocabulary to the bytes it spells."""
    single = BYTE.fullmatch(piece)
    return bytes([int(single[1], 16)]) if single else piece.replace(SPACE, " ").encode()


def find_word_positions(pieces: Sequence[str], word: str) -> list[int]:
    """Find the positions of the pieces that spell the word; "" stands for a pad or a special token.

    A word that begins or ends with a Latin letter or a digit counts only as a whole: "text" is not in "context". Of
    several places the last one counts: the encoder is causal, so there the word has read all that is before it.
    Raises ConfigError when the word is not there.
    """
    if not word.strip():
        raise ConfigError("The word is empty: give the word of the prompt that stands for text.")
    parts = [spell_piece(piece) for piece in pieces]
    text = b"".join(parts)
    target = re.escape(word.strip().encode())
    places = [match.span() for match in re.finditer(rb"(?<![A-Za-z0-9])" + target + rb"(?![A-Za-z0-9])", text)]
    if not word.strip()[0].isascii() or not word.strip()[-1].isascii():
        places = [match.span() for match in re.finditer(target, text)]
    if not places:
        raise ConfigError(f"The word {word!r} is not in the prompt {text.decode(errors='replace').strip()!r}.")
    begin, end = places[-1]
    positions, at = [], 0
    for position, part in enumerate(parts):
        if part and at < end and at + len(part) > begin:
            positions.append(position)
        at += len(part)
    return positions
