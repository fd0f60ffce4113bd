# SPDX-License-Identifier: Apache-2.0
"""Which scans are of one patient, so that no patient is trained on and scored."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import InputError, raise_if_any
from ..keys import DatalistKeys
from .find import Scan
from .patient_folders import MOST_SCANS

__all__ = ["with_patients"]

# a name with a number in it, and what tells its scans apart: patient007_frame01, case_012_1, A12-visit2
_GUESS = re.compile(r"(.*\d.*?)[_\-. ](?:[a-zA-Z]*[_\-]?\d+|ED|ES|pre|post|[a-zA-Z])$")


def with_patients(
    sections: Mapping[DatalistKeys, Sequence[Scan]], pattern: str = ""
) -> tuple[dict[DatalistKeys, list[Scan]], bool, list[str]]:
    """
    Give each scan its patient.

    Args:
        sections: scans of every section. A patient that a datalist names stays.
        pattern: regular expression that finds the patient in a scan's name, in its first group if it has one; if empty,
            patients are guessed from names that have a number and a part after it (``patient007_frame01``).

    Returns:
        The scans, whether somebody has named their patients, and what to tell of a guess.

    Raises:
        InputError: if the pattern is none or does not match a labeled scan; or if a patient that is not guessed has
            scans that are trained on and scans that are scored.
    """
    scans = [scan for items in sections.values() for scan in items]
    if pattern:
        names = [
            scan.patient or _matched(pattern, scan, section != DatalistKeys.UNLABELED)
            for section, items in sections.items()
            for scan in items
        ]
        notes = list[str]()
    else:
        names, notes = _guessed(scans)
    known = iter(names)
    dealt = {section: [replace(scan, patient=next(known)) for scan in items] for section, items in sections.items()}
    shared = [
        f"{scan.image}: is of patient {scan.patient!r}, as is {other.image}, which is used for training"
        for section in (DatalistKeys.VALIDATION, DatalistKeys.TESTING)
        for scan in dealt.get(section, [])
        for other in dealt[DatalistKeys.TRAINING]
        if other.patient == scan.patient
    ]
    are_named = bool(pattern) or any(scan.patient for scan in scans)
    if not are_named:
        return (
            dealt,
            False,
            [*notes, *(f"{sentence}, judging by their names: scores may be too good." for sentence in shared)],
        )
    raise_if_any(
        [f"{sentence}; expected each patient on one side only." for sentence in shared], "Cannot create the bundle"
    )
    return dealt, True, notes


def _guessed(scans: Sequence[Scan]) -> tuple[list[str], list[str]]:
    """Patients of scans, and what to tell of them."""
    guesses = [_guess(scan) for scan in scans]
    sizes = Counter(guesses)
    # each by itself, unless the guess makes small groups: a large one is rather that of a study or a scanner
    if len(sizes) < 2 or max(sizes.values()) == 1 or max(sizes.values()) > MOST_SCANS:
        return [scan.patient or scan.image for scan in scans], []
    several = next(name for name, count in sizes.items() if count > 1)
    cases = [scan.case for scan, guess in zip(scans, guesses, strict=True) if guess == several]
    count = sum(size > 1 for size in sizes.values())
    note = (
        f"{count} patient{'s have' if count > 1 else ' has'} several scans, judging by their names "
        f"({', '.join(cases[:3])} are of {several}); "
        "--validation_share keeps the scans of a patient together. If this guess is wrong, set --patient to a regular "
        "expression that finds the patient in the name."
    )
    return [scan.patient or guess for scan, guess in zip(scans, guesses, strict=True)], [note]


def _guess(scan: Scan) -> str:
    match = _GUESS.match(scan.case)
    return match[1] if match else scan.image  # a name alone may be that of another patient's scan elsewhere


def _matched(pattern: str, scan: Scan, needed: bool) -> str:
    try:
        match = re.search(pattern, scan.case)
    except re.error as error:
        raise InputError(f"--patient {pattern}: expected a valid regular expression, got an error: {error}.") from error
    found = match and (match[1] if match.re.groups else match[0])
    if not found and needed:
        raise InputError(
            f"--patient {pattern}: expected a match in the name of every labeled scan, got none in {scan.case!r} "
            f"({scan.image})."
        )
    return found or scan.image
