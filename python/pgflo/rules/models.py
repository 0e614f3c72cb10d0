"""What may stand in a rules file and in a routing file.

Upstream: `read`. Downstream: `bind`; the JSON Schema that editors take.
Invariant: form only. Whether a column exists, and what its type can be compared with, is for the
core to say once it knows the table.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

Operator = Literal["eq", "ne", "gt", "lt", "gte", "lte", "contains"]


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Operation = Annotated[Literal["INSERT", "UPDATE", "DELETE"], BeforeValidator(_upper)]
Operations = Annotated[tuple[Operation, ...], Field(min_length=1)]
ALL: tuple[Operation, ...] = ("INSERT", "UPDATE", "DELETE")
Word = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A mapping that knows its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FilterParameters(Strict):
    """A comparison with a constant."""

    operator: Operator
    value: str | None = Field(description="A constant of the column's type; null means NULL.")
    allow_empty_deletes: bool | None = Field(
        default=None, description="As beside `parameters`, for files that have it here."
    )


class MaskParameters(Strict):
    """First and last character stay, the rest becomes `mask_char`."""

    type: Literal["mask"]
    mask_char: Annotated[str, Field(min_length=1, max_length=1)] = "*"


class RegexParameters(Strict):
    """Every match is replaced."""

    type: Literal["regex"]
    pattern: Word = Field(description="In the syntax of Rust's regex crate; linear in time.")
    replace: str = Field(description="`$1` and `${name}` stand for groups.")


class FilterRule(Strict):
    """Rows pass that meet all filters of their table."""

    type: Literal["filter"]
    column: Word
    parameters: FilterParameters
    operations: Operations = ALL
    allow_empty_deletes: bool | None = Field(
        default=None,
        description="false: a DELETE that does not carry the column is dropped, else it passes.",
    )


class TransformRule(Strict):
    """A text is changed."""

    type: Literal["transform"]
    column: Word
    parameters: Annotated[MaskParameters | RegexParameters, Field(discriminator="type")]
    operations: Operations = ALL
    allow_key: bool = Field(
        default=False, description="Also for a column of the replica identity, in all operations."
    )


class ExcludeRule(Strict):
    """A column is left out."""

    type: Literal["exclude_column"]
    column: Word
    operations: Operations = Field(
        default=ALL, description="All three, which is what leaving it out says."
    )


Rule = Annotated[FilterRule | TransformRule | ExcludeRule, Field(discriminator="type")]


class RulesFile(Strict):
    """Rules by table. A bare list instead holds for every table that has the column."""

    tables: dict[str, list[Rule]]


class Mapping(Strict):
    """A column's names."""

    source: Word
    destination: Word


class When(Strict):
    """Rows that a route takes."""

    column: Word
    operator: Operator
    value: str | None


class Route(Strict):
    """Where the rows of a table go."""

    source_table: Word
    destination_table: Word | None = Field(default=None, description="Default: the source table.")
    column_mappings: tuple[Mapping, ...] = ()
    operations: Operations = ALL
    when: tuple[When, ...] = ()


RULE: TypeAdapter[FilterRule | TransformRule | ExcludeRule] = TypeAdapter(Rule)
ROUTE: TypeAdapter[Route] = TypeAdapter(Route)


def schema() -> dict[str, Any]:
    """Give the JSON Schema of both files."""
    rules: TypeAdapter[Any] = TypeAdapter(RulesFile | list[Rule])
    routing: TypeAdapter[Any] = TypeAdapter(dict[str, Route])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "rules": rules.json_schema(),
        "routing": routing.json_schema(),
    }
