"""What every field of an event says of itself: the category of personal data that it is, or why it is none.

A model says it once for all its fields, `holds: ClassVar = Category.CONTACT`; a field that differs says its own,
`Annotated[UUID, FieldKind.REFERENCE]`. A field for which neither was said has no category: no schema can be made of it.
In the schemas it stands as `x-category`.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from contracts.vocabulary import Category
from servicekit.envelope import Event


class FieldKind(StrEnum):
    """What a field of an event is when it is none of the categories of facts."""

    ENVELOPE = "envelope"
    """An attribute of CloudEvents: ids, times, types. It says nothing of the client."""
    PARTS = "parts"
    """An object or a list of objects: each of their own fields says what it is."""
    AS_NAMED = "as-named"
    """It belongs to the category that a field beside it names (`category`, `pathway`) and leaves with that one only."""
    IDENTIFIER = "identifier"
    """A number by which agencies know the client. It comes in, finds the client, and never leaves."""
    REFERENCE = "reference"
    """A random id, or a publisher's own id that means nothing to anybody else."""
    SHARING = "sharing"
    """What was said, decided or asked about sharing, never what is known of the client."""
    COURSE = "course"
    """What becomes of a referral, an offer or a step: for those who take part in it, where identity may be known."""
    KEPT = "kept"
    """Free text that may say anything of anybody. The door keeps it; it is in nothing that leaves."""
    PROOF = "proof"
    """Hashes, places and signatures of the ledger: they prove a record and tell nothing of the client."""
    ADMINISTRATIVE = "administrative"
    """About agencies, roles of staff and the running of the system, never about the client."""


ENVELOPE: Mapping[str, FieldKind] = {
    "specversion": FieldKind.ENVELOPE,
    "id": FieldKind.ENVELOPE,
    "source": FieldKind.ENVELOPE,
    "type": FieldKind.ENVELOPE,
    "time": FieldKind.ENVELOPE,
    "subject": FieldKind.REFERENCE,
    "datacontenttype": FieldKind.ENVELOPE,
    "traceparent": FieldKind.ENVELOPE,
    "clientversion": FieldKind.ENVELOPE,
    "data": FieldKind.PARTS,
}
"""The fields of `servicekit.envelope.Event`: the kit knows nothing of categories, so they are listed here."""


def category_of(model: type[BaseModel], name: str) -> Category | FieldKind:
    """What a field says of itself, or else what its model says of all its fields.

    Raises:
        LookupError: nobody said it, or a field said two things.
    """
    said: list[Any] = [m for m in model.model_fields[name].metadata if isinstance(m, Category | FieldKind)]
    if not said and (default := getattr(model, "holds", None)) is not None:
        said = [default]
    if not said and issubclass(model, Event) and name in ENVELOPE:
        said = [ENVELOPE[name]]
    if len(said) != 1:
        raise LookupError(f"{model.__name__}.{name} says {'two categories' if said else 'no category'}")
    category: Category | FieldKind = said[0]
    return category


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of, through lists, unions and annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def told_by(message: BaseModel) -> frozenset[Category]:
    """The categories that a message gives away by itself: those of the fields that are there in it."""
    told = set()
    for name in type(message).model_fields:
        value, category = getattr(message, name), category_of(type(message), name)
        if value is None:
            continue
        if isinstance(category, Category):
            told.add(category)
        elif category is FieldKind.AS_NAMED and isinstance(value, Category):
            told.add(value)
    return frozenset(told)


class SchemaWithCategories(GenerateJsonSchema):
    """Writes what each field says of itself into the schema, as `x-category`.

    Raises:
        LookupError: a field has no category.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """The schema of one model."""
        made = super().model_schema(schema)
        model = schema["cls"]
        for name, field in model.model_fields.items():
            made["properties"][field.alias or name]["x-category"] = category_of(model, name).value
        return made
