"""The table of limits in docs/operate.md is the code's."""

import importlib
import re
from datetime import timedelta
from pathlib import Path

import pytest

from adpfl.federated.run_plan import CohortPlan
from adpfl.wire import limits
from adpfl_server.config import ServerConfig
from adpfl_server.limits.limits_config import LimitsConfig

PAGE = (Path(__file__).parents[2] / "docs/operate.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("| limit | value | where |") :]
ROWS = re.findall(r"^\| ([^|]+) \| ([0-9.]+)(?: (B|KiB|MiB|s|days))? \| ([^|]+) \|$", TABLE, re.MULTILINE)
UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "s": 1, "days": 86400}
MODELS = {
    "server.yaml": ServerConfig,
    "limits": LimitsConfig,
    "adpfl.federated.run_plan.CohortPlan": CohortPlan,
}


def in_code(where: str) -> float:
    names = re.findall(r"`([^`]+)`", where)
    if len(names) == 2:
        field = MODELS[names[0]].model_fields[names[1]]
        bounds = [rule.max_length for rule in field.metadata if hasattr(rule, "max_length")]
        return bounds[0] if bounds else field.default
    module, _, name = names[0].rpartition(".")
    value = getattr(importlib.import_module(module), name)
    return value.total_seconds() if isinstance(value, timedelta) else value


@pytest.mark.parametrize(("what", "number", "unit", "where"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_is_true(what, number, unit, where):
    assert float(number) * UNITS[unit] == in_code(where)


def test_every_limit_of_the_wire_has_its_row():
    named = {where.strip("`").removeprefix("adpfl.wire.limits.") for *_, where in ROWS}
    known = {name for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    assert known - named == set()


def test_every_key_of_the_servers_limits_has_its_row():
    named = {where.removeprefix("`limits` ").strip("`") for *_, where in ROWS}
    assert set(LimitsConfig.model_fields) - named == set()


def test_every_row_of_the_table_was_read():
    assert len(TABLE.strip().splitlines()[2:]) == len(ROWS)
