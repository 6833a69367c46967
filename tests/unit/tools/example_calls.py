"""Checks the calls of Python examples against the signatures of raycomp, without running them."""

from __future__ import annotations

import ast
import importlib
import inspect
import typing
from dataclasses import dataclass
from typing import Any

import raycomp
from raycomp.config.job import Job


@dataclass(frozen=True)
class Instance:
    """A value of which only the class is known."""

    kind: type


@dataclass(frozen=True)
class BoundMethod:
    """A method of a value of which only the class is known."""

    function: Any


class CallChecker(ast.NodeVisitor):
    """Follows imports and assignments of a page's blocks, and binds the arguments of calls.

    Names of other packages, and values whose class no annotation tells, are not checked.
    """

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self.num_checked = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self._names[name] = importlib.import_module(alias.name if alias.asname else name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            self._names[alias.asname or alias.name] = getattr(module, alias.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.resolve(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._names[target.id] = value
        self.generic_visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        self.resolve(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.resolve(node)
        self.generic_visit(node)

    def resolve(self, node: ast.expr) -> Any:
        """Return the object of an expression, an Instance or BoundMethod, or None if it is not known."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            return _member(self.resolve(node.value), node.attr)
        if isinstance(node, ast.Call):
            function = self.resolve(node.func)
            if function is not None and _is_own(function):
                self.num_checked += 1
                return _call(function, node)
        return None


def _is_own(value: Any) -> bool:
    target = value.function if isinstance(value, BoundMethod) else value
    is_callable = inspect.isroutine(target) or inspect.isclass(target)
    return is_callable and str(getattr(target, "__module__", "")).partition(".")[0] == "raycomp"


def _member(owner: Any, name: str) -> Any:
    """Return a member of an object, whose class must have it where it is raycomp's."""
    if not isinstance(owner, Instance):
        return getattr(owner, name, None)
    if not _is_own(owner.kind):
        return None

    fields = getattr(owner.kind, "__dataclass_fields__", {})
    assert hasattr(owner.kind, name) or name in fields, f"{owner.kind.__name__} lacks {name}"
    member = getattr(owner.kind, name, None)
    if isinstance(member, property):
        return _returned(member.fget)
    return BoundMethod(member) if inspect.isfunction(member) else None


def _call(function: Any, node: ast.Call) -> Any:
    """Bind the arguments of a call, and return what is known about its result."""
    bound = isinstance(function, BoundMethod)
    target = function.function if isinstance(function, BoundMethod) else function
    has_stars = any(isinstance(argument, ast.Starred) for argument in node.args)
    keywords = [keyword.arg for keyword in node.keywords]
    if not has_stars and None not in keywords:
        signature = inspect.signature(target)
        arguments = [None] * (len(node.args) + bound)
        signature.bind(*arguments, **dict.fromkeys(map(str, keywords)))
        _check_sections(signature, keywords, ast.unparse(node.func))
    return Instance(target) if inspect.isclass(target) else _returned(target)


def _check_sections(signature: inspect.Signature, keywords: list[str | None], name: str) -> None:
    """Check that further keyword arguments are sections of the job file, as compress takes them."""
    for keyword in keywords:
        is_known = keyword in signature.parameters or keyword in Job.model_fields
        assert is_known, f"{name} has no argument {keyword}, and it is not a section of the job file"


def _returned(function: Any) -> Any:
    # Modules import some classes for type checkers only. Those that matter here are public.
    public = {name: getattr(raycomp, name) for name in raycomp.__all__}
    try:
        kind = typing.get_type_hints(function, localns=public).get("return")
    except NameError:
        return None
    return Instance(kind) if inspect.isclass(kind) else None
