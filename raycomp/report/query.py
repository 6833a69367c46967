"""A safe filter language over table columns: comparisons, arithmetic, and, or, not.

An expression is parsed into Python's syntax tree and interpreted here. Nothing is evaluated as code.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Callable
from typing import Any

import pandas as pd

from raycomp.errors import UserError, first_line, shown

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
MAX_LENGTH = 2000  # characters of an expression
SYNTAX = "Allowed are columns, numbers, 'text', < <= > >= == !=, + - * /, and, or, not, in [..] and ( )."


def filter_rows(frame: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Return the rows of a table for which an expression is true.

    Example:
        >>> frame = pd.DataFrame({"params": [10e6, 12e6], "feasible": [True, False]})
        >>> filter_rows(frame, "params <= 12e6 and feasible")["params"].tolist()
        [10000000.0]

    Args:
        frame: Any table.
        expression: A comparison of columns, or several that are joined by and, or, not.

    Raises:
        UserError: The expression cannot be parsed, does not name a column, or uses anything else.
    """
    if len(expression) > MAX_LENGTH:
        raise UserError(
            f"The expression of --where is longer than {MAX_LENGTH:,} characters. Shorten it."
        )

    name = f"Expression {shown(expression)!r} of --where"
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        mask = _evaluate(tree, frame)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({first_line(error)}). {SYNTAX}") from None
    except TypeError as error:
        raise UserError(
            f"{name} compares values of different types ({first_line(error)}). Put text in quotes, and "
            "compare numbers with numbers."
        ) from None
    except OverflowError:
        raise UserError(f"{name} contains a number that is too large. Use a smaller one.") from None
    except ZeroDivisionError:
        raise UserError(f"{name} divides by zero. Change the divisor.") from None

    if not isinstance(mask, pd.Series):
        raise UserError(f"{name} does not name a column. {SYNTAX}")
    return frame[_to_bool(mask)]


def get_column(frame: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column of a table.

    Raises:
        UserError: The column does not exist; the message names the nearest.
    """
    if name not in frame.columns:
        near = difflib.get_close_matches(name, list(frame.columns), n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UserError(f"Unknown column '{name}'.{hint} Columns: {', '.join(frame.columns)}.")
    return frame[name]


def _to_bool(value: Any) -> Any:
    """Return a column or a value as true or false; a missing value is false."""
    if isinstance(value, pd.Series):
        return value.fillna(False).astype(bool)
    return bool(value)


def _evaluate(node: ast.expr, frame: pd.DataFrame) -> Any:
    """Return the value of a part of an expression: a column, or one number, text or truth value.

    Raises:
        ValueError: The part is not in the language.
        TypeError: It compares or computes with values of different types.
    """
    match node:
        case ast.Name(id=name) if name in ("true", "false"):
            return name == "true"
        case ast.Name(id=name):
            return get_column(frame, name)
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, frame)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            flag = _to_bool(_evaluate(operand, frame))
            return ~flag if isinstance(flag, pd.Series) else not flag
        case ast.BoolOp(op=op, values=operands):
            flags = [_to_bool(_evaluate(operand, frame)) for operand in operands]
            result = flags[0]
            for flag in flags[1:]:
                result = result & flag if isinstance(op, ast.And) else result | flag
            return result
        case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_evaluate_number(left, frame), _evaluate_number(right, frame))
        case ast.Compare():
            return _evaluate_comparison(node, frame)
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _evaluate_number(node: ast.expr, frame: pd.DataFrame) -> Any:
    """Return an operand of arithmetic.

    Raises:
        TypeError: The operand is text. Python repeats a text that is multiplied by a number; a short
            expression could fill the memory in this way.
    """
    value = _evaluate(node, frame)
    is_text_column = isinstance(value, pd.Series) and value.dtype.kind not in "iufb"
    if is_text_column or isinstance(value, str):
        raise TypeError(f"{ast.unparse(node)} is not a number")
    return value


def _evaluate_comparison(node: ast.Compare, frame: pd.DataFrame) -> Any:
    """Return the value of a comparison or of a chain of them, such as `1 < params < 2`."""
    left = _evaluate(node.left, frame)
    result: Any = True
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, (ast.In, ast.NotIn)):
            part = _evaluate_membership(left, op, right_node, frame)
        elif type(op) in COMPARISONS:
            right = _evaluate(right_node, frame)
            part = COMPARISONS[type(op)](left, right)
            left = right
        else:
            raise ValueError(f"{ast.unparse(node)!r} is not allowed")
        result = result & _to_bool(part)
    return result


def _evaluate_membership(left: Any, op: ast.cmpop, right_node: ast.expr, frame: pd.DataFrame) -> Any:
    """Return whether each value of a column is in a list, or is not in it."""
    if not isinstance(right_node, (ast.List, ast.Tuple)) or not isinstance(left, pd.Series):
        raise ValueError("'in' needs a column on its left and a list on its right")
    is_member = left.isin([_evaluate(element, frame) for element in right_node.elts])
    return is_member if isinstance(op, ast.In) else ~is_member
