"""Settings of a job as one level of dotted keys."""

from __future__ import annotations

from typing import Any


def flatten_settings(
    settings: dict[str, Any], prefix: str = "", *, split_tables: bool = True
) -> dict[str, Any]:
    """Return settings as dotted keys, such as "train.epochs", with their values.

    Example:
        >>> flatten_settings({"train": {"epochs": 3}, "budget": [{"name": "half", "flops": "0.5x"}]})
        {'train.epochs': 3, 'budget.half.name': 'half', 'budget.half.flops': '0.5x'}

    Args:
        settings: Sections with their settings.
        prefix: Text that begins every key.
        split_tables: Whether the tables of a list, such as [[budget]], get keys of their own, by their
            name or else by their position. Otherwise the list is one value.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten_settings(value, f"{prefix}{key}.", split_tables=split_tables)
        elif split_tables and _is_table_list(value):
            for position, table in enumerate(value):
                name = table.get("name", position)
                flat |= flatten_settings(table, f"{prefix}{key}.{name}.", split_tables=True)
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_table_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(table, dict) for table in value)
