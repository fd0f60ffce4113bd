# SPDX-License-Identifier: Apache-2.0
"""Keys on a ``monai.bundle run`` command line that its configuration does not have, or that have a wrong value."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow, ReferenceResolver
from monai.bundle.scripts import create_workflow, run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from .key_table import COMPUTED, check_values, key_table
from .literals import is_expression, is_literal, literal

__all__ = ["given_config_file", "given_overrides", "is_run_command", "no_such_key", "override_problems"]

TEXTS = ("path", "text")

# keys that an overlay file sets, since they go with others: the key, its values, the file
IN_OVERLAYS = {
    "preset": {"paper": "paper.json"},
    "preprocessing_variant": {"published": "published.json"},
    "method": {name: f"methods/{name}.json" for name in key_table()["method"].choices if name != "dtlp"},
}

# keys of the method that a training on labeled scans alone reads; what is wrong with a style, Settings says
READ_BY_SUPERVISED = ("ema_decay", "ema_period", "mirror_axes", "style")


def override_problems(arguments: Sequence[str]) -> list[str]:
    """
    One sentence per key of a ``monai.bundle run`` command line that its configuration does not have, that only an
    overlay can set, or whose value is not of its kind.
    """
    given = _parse_run_command(arguments)
    args_file = given.get("args_file")
    from_file = ConfigParser.load_config_file(args_file) if isinstance(args_file, str) else {}
    config_file = given.get("config_file") or from_file.get("config_file")
    if config_file is None:
        return []
    config = ConfigParser.load_config_files(config_file)
    parameters = _monais_own()
    parameters |= _tracking_ids(given.get("tracking") or from_file.get("tracking"))
    candidates = [*_ids(config), *sorted(parameters)]

    problems = []
    for origin, keys in (("on the command line", given.get("override", {})), (f"in {args_file}", from_file)):
        for key, value in keys.items():
            if key in IN_OVERLAYS and value != config.get(key):
                problems.append(_overlay_sentence(key, value, config_file))
            elif key in parameters:
                continue
            elif not _has_id(config, key):
                problems.append(no_such_key(f"--{key} ({origin})", key, candidates, config_file))
            elif _is_unread(config, ReferenceResolver.split_id(key)[0]):
                problems.append(
                    f"--{key}: has no effect with method {config['method']!r}, which does not use it. Leave it out."
                )
            elif value is None and config.get(key) is not None:
                problems.append(f"--{key}: MONAI ignores a plain None; write --{key} '$None'")
            elif not _is_computed(key, value, config):
                problems += check_values({key: value}) or _text_problems(key, value)
    return problems


def given_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Keys that a ``monai.bundle run`` command line, or its ``args_file``, sets, with their values."""
    given = _parse_run_command(arguments)
    from_file = {}
    if isinstance(args_file := given.get("args_file"), str):
        content = ConfigParser.load_config_file(args_file)
        from_file = {key: value for key, value in content.items() if key not in _monais_own()}
    return {**from_file, **given.get("override", {})}


def given_config_file(arguments: Sequence[str]) -> str | None:
    """The configuration that a ``monai.bundle run`` command line names, the first of several."""
    files = _parse_run_command(arguments).get("config_file")
    return files if isinstance(files, str) or not files else str(files[0])


def _monais_own() -> set[str]:
    """What MONAI takes for itself, on the command line or in an args_file."""
    return {name for f in (run, create_workflow, ConfigWorkflow.__init__) for name in inspect.signature(f).parameters}


def _is_computed(key: str, value: Any, config: Mapping[str, Any]) -> bool:
    """Whether MONAI is to compute the value."""
    if not isinstance(value, str) or not value.startswith(("$", "@")):
        return False
    if key not in key_table() or key_table()[key].kind not in TEXTS:
        return True
    return is_expression(value) and (value[0] == "$" or _has_id(config, value[1:]))


def _text_problems(key: str, value: Any) -> list[str]:
    """One sentence if MONAI would read another text or path than the one that was typed."""
    if key not in key_table() or key_table()[key].kind not in TEXTS or not isinstance(value, str) or is_literal(value):
        return []
    kind = "path" if key_table()[key].kind == "path" else "string"
    if value.startswith(COMPUTED):
        what = f"which MONAI would {'evaluate' if value[0] == '$' else 'look up'}"
        way_out = f"./{value}" if kind == "path" else literal(value)
    else:
        what, way_out = "in which MONAI would read # as ::", literal(value)
    return [f"--{key}: expected a literal {kind}, got {value!r}, {what}. Write --{key} {_quoted(way_out)}"]


def _quoted(word: str) -> str:
    """For a shell, in double quotes where they do: an expression has single ones."""
    return f'"{word}"' if re.fullmatch(r"\$'[^'\"`$!]*'", word) else shlex.quote(word)


def _overlay_sentence(key: str, value: Any, config_file: Any) -> str:
    overlays = IN_OVERLAYS[key]
    if value not in overlays:
        expected = ", ".join(f"{name!r} (overlay {overlay})" for name, overlay in overlays.items())
        return f"--{key}: expected {expected}, got {value!r}."
    files = [config_file] if isinstance(config_file, str) else list(config_file)
    listed = [*files, str(Path(files[0]).parent / overlays[value])]
    return f'--{key} {value}: can only be set by an overlay file. Instead of --{key}, write --config_file "{listed}"'


def no_such_key(subject: str, key: str, known: Sequence[str], config_file: Any) -> str:
    """The sentence on a key that a config file does not have, with those of the known ones that look like it."""
    close = difflib.get_close_matches(ReferenceResolver.normalize_id(key), known, n=3)
    meant = f"Did you mean {' or '.join('--' + c for c in close)}?" if close else "It would have no effect."
    return f"{subject}: no such key in {config_file}. {meant}"


def is_run_command(arguments: Sequence[str]) -> bool:
    """Whether a process's arguments are those of ``python -m monai.bundle run``."""
    return len(arguments) > 1 and arguments[1] == "run"


def _parse_run_command(arguments: Sequence[str]) -> dict[str, Any]:
    """Arguments of :py:func:`monai.bundle.run` that a command line means; empty if it is another command."""
    if not is_run_command(arguments):
        return {}
    given: dict[str, Any] = {}

    @functools.wraps(run)
    def record(*args: Any, **kwargs: Any) -> None:
        given.update(inspect.signature(run).bind(*args, **kwargs).arguments)

    # Fire itself reads the line, as it does for MONAI: `--a 1`, `--a=1`, `-a 1`, `--a`, `--noa`, `--a-b` for `a_b`
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(fire.core.FireExit):
        fire.Fire(record, command=list(arguments[2:]))
    return given


def _tracking_ids(tracking: Any) -> set[str]:
    """Keys that an experiment tracking setting adds to the config."""
    if tracking is None:
        return set()
    known: Mapping[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
    is_known = isinstance(tracking, str) and tracking in known
    settings = known[tracking] if is_known else ConfigParser.load_config_files(tracking)
    return set(settings.get("configs", {}))


def _has_id(config: Any, id: str) -> bool:
    parts = ReferenceResolver.split_id(id)
    if parts[0] == ConfigParser.meta_key:
        return True  # metadata.json, which MONAI adds to the config
    for part in parts:
        if isinstance(config, dict):
            if part not in config:
                # a component's constructor refuses an argument it does not know; any other dict takes it silently
                return ConfigComponent.is_instantiable(config)
            config = config[part]
        elif isinstance(config, list):
            if not part.isdecimal() or int(part) >= len(config):
                return False
            config = config[int(part)]
        else:
            return True  # a reference or a value: MONAI itself refuses to go into it
    return True


def _is_unread(config: Mapping[str, Any], key: str) -> bool:
    """Whether a key of the method is one that nothing refers to, but the list of all settings."""
    table = key_table()
    if key == "method" or key not in table or table[key].group != "method" or not config.get("method"):
        return False
    if config["method"] == "supervised":  # which is DTLP's trainer, so its configuration refers to all of them
        return key not in READ_BY_SUPERVISED
    readers = re.compile(rf"@{key}(?!\w)")
    return not any(readers.search(text) for id, text in _texts(config) if not id.startswith("checks::settings::values"))


def _texts(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration with its id."""
    for _, id, value in ReferenceResolver.iter_subconfigs(prefix, config):
        if isinstance(value, str):
            yield id, value
        elif isinstance(value, (dict, list)):
            yield from _texts(value, id)


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    for _, id, value in ReferenceResolver.iter_subconfigs(prefix, config) if isinstance(config, dict) else ():
        yield id
        yield from _ids(value, id)
