"""A safe filter language over table columns: comparisons, and, or, not. Nothing is evaluated as code."""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from typing import Any

import pandas as pd

from raycomp.errors import UserError, first_line, shown

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_MATH: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_HELP = "allowed: columns, numbers, 'text', < <= > >= == !=, + - * /, and, or, not, in [..], ( )"


def filter_rows(frame: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Return the rows of a frame for which an expression holds.

    Raises:
        UserError: the expression cannot be parsed, names no column, or uses anything but the above.
    """
    if len(expression) > 2000:
        raise UserError("--where is longer than 2,000 characters")
    given = f"--where {shown(expression)!r}"
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        mask = _value(tree, frame)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise UserError(f"{given} cannot be read ({first_line(error)}); {_HELP}") from None
    except TypeError as error:
        raise UserError(f"{given} compares unlike things ({first_line(error)})") from None
    except OverflowError:
        raise UserError(f"{given} holds a number that is too large") from None
    except ZeroDivisionError:
        raise UserError(f"{given} divides by zero") from None
    if not isinstance(mask, pd.Series):
        raise UserError(f"{given} names no column; {_HELP}")
    return frame[_flag(mask)]


def get_column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column, or raise UserError naming the nearest."""
    if name not in frame.columns:
        near = difflib.get_close_matches(name, list(frame.columns), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"unknown column '{name}'.{hint} Columns: {', '.join(frame.columns)}")
    return frame[name]


def _flag(series: Any) -> Any:
    """Read a column as true or false; a missing value is false."""
    if isinstance(series, pd.Series):
        return series.fillna(False).astype(bool)
    return bool(series)


def _value(node: ast.expr, frame: pd.DataFrame) -> Any:
    match node:
        case ast.Name(id=name) if name in ("true", "false"):
            return name == "true"
        case ast.Name(id=name):
            return get_column(frame, name)
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner, frame)
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            flag = _flag(_value(inner, frame))
            return ~flag if isinstance(flag, pd.Series) else not flag
        case ast.BoolOp(op=op, values=parts):
            flags = [_flag(_value(p, frame)) for p in parts]
            result = flags[0]
            for flag in flags[1:]:
                result = result & flag if isinstance(op, ast.And) else result | flag
            return result
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _MATH:
            return _MATH[type(op)](_number(left, frame), _number(right, frame))
        case ast.Compare():
            return _compare(node, frame)
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _number(node: ast.expr, frame: pd.DataFrame) -> Any:
    """Return a value that is reckoned with: text times a number would be endless text."""
    value = _value(node, frame)
    text = value.dtype.kind not in "iufb" if isinstance(value, pd.Series) else isinstance(value, str)
    if text:
        raise TypeError(f"{ast.unparse(node)} is no number")
    return value


def _compare(node: ast.Compare, frame: pd.DataFrame) -> Any:
    left = _value(node.left, frame)
    result: Any = True
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            if not isinstance(right_node, (ast.List, ast.Tuple)) or not isinstance(left, pd.Series):
                raise ValueError("'in' needs a column on its left and a list on its right")
            found = left.isin([_value(e, frame) for e in right_node.elts])
            part: Any = found if isinstance(op, ast.In) else ~found
        elif type(op) in _COMPARE:
            right = _value(right_node, frame)
            part = _COMPARE[type(op)](left, right)
            left = right
        else:
            raise ValueError(f"{ast.unparse(node)!r} is not allowed")
        result = result & _flag(part)
    return result
