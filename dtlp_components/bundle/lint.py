# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's JSON that need no data and build nothing; each returns one sentence per problem."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from collections.abc import Iterator
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigExpression, ConfigParser, ReferenceResolver
from monai.bundle.utils import MACRO_KEY
from monai.utils import CommonKeys, CompInitMode
from torch import nn

from ..keys import DatalistKeys, LossTerms, PseudoLabelSources, ScanKeys

__all__ = [
    "check_config",
    "check_expressions",
    "check_metadata",
    "check_names",
    "check_references",
    "check_signatures",
]

# arguments of MONAI's engines, and the bundle ids, that hold {metric name: metric}
METRIC_DICTS = ("key_metric", "key_train_metric", "key_val_metric", "additional_metrics")
# arguments of transforms that name batch keys which exist only after the transform
NEW_KEYS = ("name", "names", "new_key", "new_keys")
KNOWN_KEYS = {str(key) for keys in (CommonKeys, DatalistKeys, LossTerms, PseudoLabelSources, ScanKeys) for key in keys}
KNOWN_KEYS.remove(str(DatalistKeys.LABELS))  # of an item alone: preprocessing takes it out

# what the official schema (meta_schema_20240725.json) requires
METADATA_REQUIRED = (
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)
TENSOR_REQUIRED: dict[str, type] = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
}


def check_config(config: dict[str, Any]) -> list[str]:
    """
    All checks of one workflow file (``train.json``, ``evaluate.json``, ``inference.json``).

    Args:
        config: content of the file, unparsed.

    Returns:
        One sentence per problem, beginning with the id it was found at; empty if there is none.
    """
    checks = (check_signatures, check_references, check_expressions, check_names)
    return [problem for check in checks for problem in check(config)]


def check_signatures(config: dict[str, Any]) -> list[str]:
    """
    Bind the arguments of every ``_target_`` to the signature of its class or function, without a call.

    MONAI reports a wrong argument only when the id is first used, which for validation is after the first epoch. An
    argument that a class passes on as ``**kwargs`` is looked for in its base classes. Disabled components are checked
    as well, since a flag on the command line enables them.
    """
    locator = ComponentLocator()
    problems = []
    for id, component in _walk(config):
        if not ConfigComponent.is_instantiable(component):
            continue
        target = ConfigComponent(component, locator=locator).resolve_module_name()
        if not isinstance(target, str):
            problems.append(f"{id}: `_target_`: expected a string, got {target!r}.")
            continue
        if ConfigExpression.is_expression(target) or target.startswith(ReferenceResolver.ref):
            continue  # known only when it runs
        function = locate(target)
        if function is None:
            problems.append(f"{id}: `{target}` cannot be found.")
            continue
        arguments = {k: v for k, v in component.items() if k not in ConfigComponent.non_arg_keys}
        error = _binding_error(function, arguments, partial=component.get("_mode_") == CompInitMode.CALLABLE)
        if error:
            problems.append(f"{id}: `{target}`: {error}.")
    return problems


def check_references(config: dict[str, Any]) -> list[str]:
    """
    Look up every ``@id``; a file of a bundle stands alone, so ``%`` macros and ``@_meta_`` are problems too.

    MONAI Label reads one file without its metadata, and resolves macros against the server's working directory.
    """
    parser = ConfigParser(config)
    problems = []
    for id, text in _strings(config):
        if text.startswith(MACRO_KEY):
            problems.append(f"{id}: `{text}` is a macro; the file should be self-contained.")
        for ref in ReferenceResolver.match_refs_pattern(ConfigParser.resolve_relative_ids(id, text)):
            if ref not in parser:
                problems.append(f"{id}: `@{ref}` does not exist in this file.")
    return problems


def check_expressions(config: dict[str, Any]) -> list[str]:
    """
    Parse every ``$`` expression and look up the names it uses among MONAI's globals and the file's imports.

    ``dtlp_components`` should appear in ``_target_`` only: a bundle's folder, which may hold a copy of the package,
    becomes importable after ``initialize`` has evaluated the imports.
    """
    expressions = [(id, text) for id, text in _strings(config) if ConfigExpression.is_expression(text)]
    known = set(dir(builtins)) | set(ConfigParser().globals)
    for _, text in expressions:
        try:
            if ConfigExpression.is_import_statement(text):
                known |= {alias.asname or alias.name for alias in _imports(text)[:1]}  # MONAI keeps the first only
        except SyntaxError:
            continue  # not an import statement; reported below
    problems = []
    for id, text in expressions:
        if re.search(r"\bdtlp_components\b", text) and not _is_quoted_text(text):
            problems.append(f"{id}: `{text}` uses dtlp_components in an expression; use it in `_target_` instead.")
            continue
        code = ReferenceResolver.id_matcher.sub("None", ReferenceResolver.normalize_id(text))[1:]
        try:
            if ConfigExpression.is_import_statement(text):
                continue
            nodes = list(ast.walk(ast.parse(code.strip(), mode="eval")))
        except SyntaxError as e:
            problems.append(f"{id}: `{text}` is not a Python expression: {e.msg}.")
            continue
        names = [node for node in nodes if isinstance(node, ast.Name)]
        bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        for name in sorted({name.id for name in names} - bound - known):
            problems.append(f"{id}: `{text}` uses `{name}`, which no `$import` in this file imports.")
    return problems


def check_names(config: dict[str, Any]) -> list[str]:
    """
    Look up the names of metrics given to ``MetricsSaver`` and ``CheckpointSaver``, and the batch keys of transforms
    and of ``from_engine``.
    """
    parser = ConfigParser(config)
    components = [(id, value) for id, value in _walk(config) if ConfigComponent.is_instantiable(value)]
    metrics: set[str] = set()
    for id, value in _walk(config):
        found = _follow(parser, value)
        if id.rpartition("::")[2] in METRIC_DICTS and isinstance(found, dict):
            metrics |= set(found)
    keys = KNOWN_KEYS | {key for _, c in components for argument in NEW_KEYS for key in _literals(parser, c, argument)}

    problems = []
    for id, component in components:
        target = str(component["_target_"]).rpartition(".")[2]
        if target in ("MetricsSaver", "CheckpointSaver"):
            for argument in ("metrics", "metric_details", "key_metric_name"):
                for name in _literals(parser, component, argument):
                    if name not in metrics | {"*"}:
                        problems.append(
                            f"{id}: `{argument}`: expected one of the metrics {sorted(metrics)}, got `{name}`."
                        )
        for key in _literals(parser, component, "keys"):
            if key not in keys:
                problems.append(f"{id}: `keys`: expected one of {sorted(keys)}, got `{key}`.")
    for id, text in _strings(config):
        for argument in re.findall(r"\bfrom_engine\(\s*(\[[^\]]*\]|'[^']*'|\"[^\"]*\")", text):
            try:
                named = ast.literal_eval(argument)
            except ValueError:
                continue  # computed, so known only when it runs
            for key in [named] if isinstance(named, str) else named:
                if key not in keys:
                    problems.append(f"{id}: `from_engine`: expected one of {sorted(keys)}, got `{key}`.")
    return problems


def check_metadata(metadata: dict[str, Any], num_classes: int) -> list[str]:
    """
    Compare a bundle's metadata with the official schema's required fields and with what other applications read.

    Args:
        metadata: content of ``metadata.json``.
        num_classes: number of classes, background included, of the workflow files.

    Returns:
        One sentence per problem. MONAI Label takes the first input and output as image and prediction and tells labels
        apart by their names in lower case; the Model Zoo looks for the version in the changelog and pins packages by
        their exact version.
    """
    problems = [f"`{key}` is missing." for key in METADATA_REQUIRED if key not in metadata]
    if metadata.get("version") not in metadata.get("changelog", {}):
        problems.append(f"`changelog` has no entry for version {metadata.get('version')}.")
    packages = metadata.get("required_packages_version", {})
    versions = {key: metadata[key] for key in ("monai_version", "pytorch_version", "numpy_version") if key in metadata}
    problems += [
        f"`{key}`: expected an exact version, got {value!r}."
        for key, value in (versions | packages).items()
        if not re.fullmatch(r"\d+(\.\d+)+", str(value))
    ]

    formats = metadata.get("network_data_format", {})
    for group, first in (("inputs", "image"), ("outputs", "pred")):
        tensors = formats.get(group, {})
        if next(iter(tensors), None) != first:
            problems.append(f"`{group}`: expected `{first}` first, got {list(tensors)}.")
        for name, tensor in tensors.items():
            for key, kind in TENSOR_REQUIRED.items():
                if not isinstance(tensor.get(key), kind):
                    problems.append(f"`{group}::{name}::{key}`: expected {kind.__name__}, got {tensor.get(key)!r}.")
    pred = formats.get("outputs", {}).get("pred", {})
    labels = pred.get("channel_def", {})
    if list(labels) != [str(i) for i in range(num_classes)] or pred.get("num_channels") != num_classes:
        problems.append(
            f"`pred`: expected {num_classes} channels, one per class, got {pred.get('num_channels')} channels named "
            f"{list(labels)}."
        )
    if labels.get("0") != "background" or len({str(name).lower() for name in labels.values()}) != len(labels):
        problems.append(f"expected label names that differ in lower case, the first being `background`, got {labels}.")
    return problems


def _walk(config: Any, id: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its id, containers before their items."""
    yield id, config
    if isinstance(config, (dict, list)):
        for _, sub_id, value in ReferenceResolver.iter_subconfigs(id, config):
            yield from _walk(value, sub_id)


def _strings(config: Any) -> Iterator[tuple[str, str]]:
    """Every string that MONAI resolves, with its id; descriptions are not among them."""
    for id, value in _walk(config):
        if isinstance(value, str) and not id.startswith("_comment") and id.rpartition("::")[2] != "_desc_":
            yield id, value


def _follow(parser: ConfigParser, value: Any) -> Any:
    """The value behind a chain of ``@id``, each the whole string."""
    seen = set()
    while isinstance(value, str) and value.startswith(ReferenceResolver.ref) and value not in seen:
        seen.add(value)  # a circle of references ends here
        if value[1:] not in parser:
            break
        value = parser[value[1:]]
    return value


def _is_quoted_text(expression: str) -> bool:
    """Whether an expression computes nothing, but protects a text from MONAI (:py:func:`literal`)."""
    try:
        return isinstance(ast.literal_eval(expression.removeprefix("$")), str)
    except (SyntaxError, ValueError):
        return False


def _literals(parser: ConfigParser, component: dict[str, Any], argument: str) -> list[str]:
    """Literal strings of an argument that is one string or a list; expressions are left out."""
    value = _follow(parser, component.get(argument, []))
    values = [_follow(parser, v) for v in (value if isinstance(value, list) else [value])]
    return [v for v in values if isinstance(v, str) and not v.startswith(("$", "@"))]


def _imports(text: str) -> list[ast.alias]:
    """Names of an import statement that is written as an expression."""
    statement = ast.parse(text[1:].strip()).body[0]
    return statement.names if isinstance(statement, (ast.Import, ast.ImportFrom)) else []


def _binding_error(function: Any, arguments: dict[str, Any], partial: bool) -> str:
    """Why a call with these keywords would fail before it starts, or an empty string."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""  # built-in without a signature
    try:
        (signature.bind_partial if partial else signature.bind)(**arguments)
    except TypeError as e:
        return str(e)
    accepted = _keywords(function, signature)
    unknown = sorted(set(arguments) - accepted) if accepted is not None else []
    return f"got unexpected keyword arguments {unknown}" if unknown else ""


def _keywords(function: Any, signature: inspect.Signature) -> set[str] | None:
    """
    Keywords that a callable takes, those of base classes included while constructors pass on ``**kwargs``; ``None`` if
    where they end cannot be told.
    """
    signatures = [signature]
    if inspect.isclass(function):
        constructors = [c for c in function.__mro__ if "__init__" in vars(c)]
        if constructors[0] is nn.Module:
            return set()  # its signature takes anything, its body nothing
        signatures = [inspect.signature(vars(c)["__init__"]) for c in constructors]
    names: set[str] = set()
    for current in signatures:
        names |= set(current.parameters)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in current.parameters.values()):
            return names
    return None
