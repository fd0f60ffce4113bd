# SPDX-License-Identifier: Apache-2.0
"""A command's parameters and description, read from its source: importing it may take ten seconds, help should not."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Command", "read_command"]

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Command:
    """
    What is known of a command before it is imported.

    Args:
        function: gives the function itself, importing its module.
        signature: with annotations as text.
        description: the function's docstring.
    """

    function: Callable[[], Callable[..., Any]]
    signature: inspect.Signature
    description: str

    @property
    def summary(self) -> str:
        """First line of the description."""
        return self.description.partition("\n")[0].replace("``", "`")

    @property
    def takes_words(self) -> bool:
        """Whether the rest of the command line is handed over as it is, in ``*words``."""
        return any(p.kind is p.VAR_POSITIONAL and p.name == "words" for p in self.signature.parameters.values())


def read_command(command: str | Callable[..., Any]) -> Command:
    """
    Read what a command takes.

    Args:
        command: a function, or ``module:function`` in this package, which is not imported. Defaults in its signature
            have to be literals.

    Raises:
        LookupError: if there is no such function.
    """
    if not isinstance(command, str):
        return Command(lambda: command, inspect.signature(command), inspect.getdoc(command) or "")
    module, _, name = command.partition(":")
    tree = ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            break
    else:
        raise LookupError(f"no function {name} in {module}")

    def function() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(import_module(f"..{module}", __package__), name)
        return found

    return Command(function, _signature(node.args), ast.get_docstring(node) or "")


def _signature(arguments: ast.arguments) -> inspect.Signature:
    def parameter(arg: ast.arg, kind: inspect._ParameterKind, default: ast.expr | None = None) -> inspect.Parameter:
        return inspect.Parameter(
            arg.arg,
            kind,
            default=inspect.Parameter.empty if default is None else ast.literal_eval(default),
            annotation=inspect.Parameter.empty if arg.annotation is None else ast.unparse(arg.annotation),
        )

    positional = [*arguments.posonlyargs, *arguments.args]
    without = [None] * (len(positional) - len(arguments.defaults))
    found = [
        parameter(arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default)
        for arg, default in zip(positional, [*without, *arguments.defaults], strict=True)
    ]
    if arguments.vararg:
        found.append(parameter(arguments.vararg, inspect.Parameter.VAR_POSITIONAL))
    found += [
        parameter(arg, inspect.Parameter.KEYWORD_ONLY, default)
        for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg:
        found.append(parameter(arguments.kwarg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(found)
