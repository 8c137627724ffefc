"""Strict configuration: YAML in, frozen pydantic models out, or one `ConfigError` that says what is wrong.

Unknown keys, duplicate keys, wrong types and contradictions stop the start. There are no class paths, no
`eval` and no environment interpolation: a configuration file means the same on every machine.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from adpfl.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""A run's, site's or task's name: safe in a file name, a URI and a log line."""


LEAST_VALUES = 10_000
"""So many values may any document hold, however short it is."""
PROBLEMS_TOLD = 20
"""Of a document in which everything is wrong."""
LONGEST_KEY = 60
"""A longer one is cut in messages."""
_BAD_SCALARS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)
"""What PyYAML's readers of numbers, dates and tags raise on some of what is none."""


class FrozenModel(BaseModel):
    """Base of every configuration and record: immutable, closed to unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")


Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice instead of keeping the last one silently."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is not text; keys must be text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice; each key may stand once", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",  # YAML 1.2's 1e-5, which PyYAML, following 1.1, takes for text
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read one YAML file into a frozen model.

    Args:
        path: the file; UTF-8.
        model: the pydantic model that the document must satisfy.

    Raises:
        ConfigError: the file is absent, unreadable, not YAML, or breaks a rule of `model`. The message is one
            line: the file, then each key with its value and the rule it breaks.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - derives from SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "is not valid YAML"
        raise ConfigError(f"{path}:{place} {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error
    except _BAD_SCALARS as error:
        raise ConfigError(f"{path}: holds a number, date or tag that cannot be read") from error
    if _unfolds_beyond(document, max(LEAST_VALUES, len(text))):
        raise ConfigError(f"{path}: its aliases (*) unfold to more values than it has characters")
    return parse(document, model, source=str(path))


def load_json(text: str | bytes) -> Any:
    """Decode JSON that somebody else wrote.

    Raises:
        ValueError: it is not JSON, not Unicode, or nested too deeply; never another error.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON is nested too deeply") from error


def _unfolds_beyond(document: Any, limit: int) -> bool:
    """Whether a document holds more values than `limit`, each counted wherever an alias puts it.

    A document that holds itself has no end.
    """
    pending, count = [document], 0
    while pending:
        node = pending.pop()
        count += 1
        if count > limit:
            return True
        if isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return False


def parse(document: Any, model: type[Model], *, source: str) -> Model:
    """Validate an already decoded document; `source` names it in the message.

    Raises:
        ConfigError: the document breaks a rule of `model`.
    """
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise ConfigError(f"{source}: holds {found}; must be a mapping of keys to values")
    try:
        # As JSON, because there strictness still takes a list for a tuple and text for a path.
        text = json.dumps(document, default=str)
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: is nested too deeply, or holds what JSON cannot") from error
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe(error, document)}") from error


def describe(error: ValidationError, document: Any) -> str:
    """Put a validation error's first problems into one line: key, value and rule, separated by semicolons."""
    problems = error.errors(include_url=False)
    told = [_describe_one(problem, document) for problem in problems[:PROBLEMS_TOLD]]
    if len(problems) > PROBLEMS_TOLD:
        told.append(f"and {len(problems) - PROBLEMS_TOLD} more")
    return "; ".join(told)


_PLAIN_WORDS = {
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}


def _describe_one(problem: Any, document: Any) -> str:
    key = _key_path(problem["loc"], document)
    rule = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    match problem["type"]:
        case "union_tag_invalid" | "union_tag_not_found":
            discriminator = problem["ctx"]["discriminator"].strip("'")
            choices = problem["ctx"].get("expected_tags")
            found = f"is {problem['ctx']['tag']!r}" if "tag" in problem["ctx"] else "is missing"
            return f"{key}.{discriminator} {found}; " + (
                f"must be one of {choices}" if choices else "is required"
            )
        case "missing":
            return f"{key} is missing; it is required"
        case "extra_forbidden":
            return f"{key} is not a known key"
        case "value_error" if not problem["loc"] or isinstance(problem["input"], dict):
            return f"{key}: {rule}" if key else rule
        case "value_error":
            return f"{key} is {_short(problem['input'])}; {rule}"
    for kind, words in _PLAIN_WORDS.items():
        if problem["type"] == kind:
            rule = words
    for start in ("Input should be ", "String should ", "Value should ", "List should ", "Tuple should "):
        rule = rule.replace(start, "must be " if start.endswith("be ") else "must ")
    return f"{key} is {_short(problem['input'])}; {rule}"


def _key_path(location: tuple[str | int, ...], document: Any) -> str:
    """Dotted path as the person wrote it: pydantic's own markers for union members are left out."""
    parts: list[str] = []
    here = document
    for index, part in enumerate(location):
        last = index == len(location) - 1
        below = _child(here, part)
        if not last and not isinstance(below, dict | list):
            continue  # the tag of a discriminated union is no key of the document
        here = below
        parts.append(part if isinstance(part, str) and len(part) <= LONGEST_KEY else _short(part))
    return ".".join(parts)


def _child(here: Any, part: str | int) -> Any:
    if isinstance(here, dict):
        return here.get(part)
    if isinstance(here, list) and isinstance(part, int) and part < len(here):
        return here[part]
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
