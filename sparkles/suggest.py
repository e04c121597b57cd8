"""The nearest right name for a misspelt one. Pure; imports nothing of sparkles.

Near means: the same but for case, `_` and `-`; or few edits away (a swap of two neighbours counts as one); or the start of one name
only. Where two names are equally near, the first one given wins.
"""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` was probably meant to be, or None where none is near."""
    asked = _folded(word)
    candidates = list(words)
    best: str | None = None
    # A third of the letters may be wrong, but never all of them: for "x" the name "y" is no better than any other.
    least = min(max(1, len(asked) // 3), len(asked) - 1) + 1
    for candidate in candidates:
        folded = _folded(candidate)
        if folded == asked:
            return candidate
        if abs(len(folded) - len(asked)) >= least:
            continue
        distance = _distance(asked, folded)
        if distance < least:
            best, least = candidate, distance
    if best is None and len(asked) >= 3:
        longer = [candidate for candidate in candidates if _folded(candidate).startswith(asked)]
        if len(longer) == 1:
            return longer[0]
    return best


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The sentence " Did you mean 'x'?", ready to follow another one; "" where no name is near."""
    found = nearest(word, words)
    return f" Did you mean '{found}'?" if found is not None else ""


def _folded(word: str) -> str:
    return word.casefold().replace("_", "").replace("-", "")


def _distance(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn `one` into `other`."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
