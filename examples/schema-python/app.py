"""Checks JSON documents against JSON Schemas, with the package jsonschema."""

import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any, NoReturn

from componentize_py_types import Err
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from wit_world.exports.api import (
    Fault,
    Problem_BadDocument,
    Problem_BadSchema,
    Problem_TooDeep,
    Problem_UnknownReference,
)

# One mistake in a schema makes every line of a table wrong; nobody reads more.
MOST_FAULTS = 100

# A message quotes what is wrong, which may be the whole document.
LONGEST_MESSAGE = 300

# The parser of JSON calls itself for each level, on a stack that is smaller here than elsewhere.
DEEPEST = 500

STRING_OR_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)

# Globals are part of the component as they are when the build ends: what the check of a first
# schema leaves in its caches is there when the first call comes.
Draft202012Validator.check_schema({})


class Api:
    def check(self, document: str, schema: str) -> list[Fault]:
        try:
            instance = parse(document, Problem_BadDocument)
            validator = validator_of(parse(schema, Problem_BadSchema))
            return [fault(error) for error in islice(validator.iter_errors(instance), MOST_FAULTS)]
        except Unresolvable as error:
            raise Err(Problem_UnknownReference(getattr(error, "anchor", error.ref))) from error
        except RecursionError as error:
            raise Err(Problem_TooDeep()) from error


def parse(text: str, problem: type) -> Any:
    if depth(text) > DEEPEST:
        raise Err(Problem_TooDeep())
    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise Err(problem(f"not JSON: {error}")) from error


def depth(text: str) -> int:
    deepest = level = 0
    for found in STRING_OR_BRACKET.finditer(text):
        if found[0] in "[{":
            level += 1
            deepest = max(deepest, level)
        elif found[0] in "]}":
            level -= 1
    return deepest


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def validator_of(schema: Any) -> Validator:
    draft = Draft202012Validator
    if isinstance(schema, dict) and "$schema" in schema:
        name = schema["$schema"]
        draft = validator_for(schema, default=None) if isinstance(name, str) else None
        if draft is None:
            raise Err(Problem_BadSchema(f"/$schema: {shown(name)} is no draft known here"))
    try:
        draft.check_schema(schema)
    except SchemaError as error:
        where = pointer(error.absolute_path)
        raise Err(Problem_BadSchema(f"{where}: {shown(error.message)}")) from error
    # An empty registry: with the usual one, a reference elsewhere would be looked up there.
    return draft(schema, registry=Registry())


def fault(error: ValidationError) -> Fault:
    return Fault(
        path=pointer(error.absolute_path),
        rule=pointer(error.absolute_schema_path),
        message=shown(error.message),
    )


def pointer(path: Iterable[str | int]) -> str:
    steps = ("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return encodable("".join(steps))


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    if len(text) > LONGEST_MESSAGE:
        # It ends with what is wrong.
        half = LONGEST_MESSAGE // 2
        text = f"{text[:half]} … {text[-half:]}"
    return encodable(text)


def encodable(text: str) -> str:
    """JSON can name halves of surrogate pairs, which no string of a component has."""
    return text.encode(errors="replace").decode()
