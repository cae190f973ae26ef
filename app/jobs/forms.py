"""A form for every kind of work, made from the JSON schema of its params: adding a kind adds its form.

The form only reads what was typed; whether a value is allowed is decided in one place, by the params model.
"""

from typing import Any

from django import forms

from jobs.submit import InvalidSubmission
from kinds.base import Kind

Schema = dict[str, Any]
BOUNDS = {"minimum": "min", "maximum": "max", "multipleOf": "step", "minLength": "minlength", "maxLength": "maxlength"}


class Text(forms.CharField):
    """Text as it was typed: with its spaces, and with line feeds where browsers send CR LF."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strip=False, **kwargs)

    def to_python(self, value: Any) -> str | None:
        """The text with plain line feeds."""
        return (super().to_python(value) or "").replace("\r\n", "\n")


class KindForm(forms.Form):
    """Base of the generated forms."""

    def params(self) -> dict[str, Any]:
        """What to submit; a field that was left empty takes the model's default."""
        return {name: value for name, value in self.cleaned_data.items() if value is not None}

    def show_errors(self, refused: InvalidSubmission) -> None:
        """Put what the params model refused beside the fields that it is about."""
        for one in refused.fields:
            _, _, path = one["field"].partition(".")
            name = path.partition(".")[0]
            sentence = one["why"][:1].upper() + one["why"][1:].rstrip(".") + "."
            self.add_error(name if name in self.fields else None, sentence)


def form_for(kind: Kind) -> type[KindForm]:
    """The form class of a kind."""
    schema = kind.params.model_json_schema()
    definitions = schema.get("$defs", {})
    required = schema.get("required", ())
    fields = {
        name: _field(_resolved(one, definitions), name in required)
        for name, one in schema.get("properties", {}).items()
    }
    return type(f"{kind.name.title()}Form", (KindForm,), fields)


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema of one field without references; of several alternatives, the first that is not null."""
    inner = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    if "$ref" in inner:
        inner = definitions[inner["$ref"].rpartition("/")[2]]
    return {**inner, **{key: value for key, value in schema.items() if key not in ("anyOf", "$ref")}}


def _field(schema: Schema, required: bool) -> forms.Field:
    common = {
        "label": schema.get("title"),
        "help_text": schema.get("description", ""),
        "initial": schema.get("default"),
        "required": required or schema.get("default") is not None,
    }
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if choices:
        by_text = {str(choice): choice for choice in choices}
        pairs = [(text, text) for text in by_text]
        return forms.TypedChoiceField(choices=pairs, coerce=lambda text: by_text[text], empty_value=None, **common)
    makers = {"boolean": _checkbox, "integer": _integer, "number": _number, "string": _text}
    return makers.get(schema.get("type", ""), _json)(schema, common)


def _attributes(schema: Schema) -> dict[str, Any]:
    return {attribute: schema[bound] for bound, attribute in BOUNDS.items() if bound in schema}


def _checkbox(schema: Schema, common: dict[str, Any]) -> forms.Field:
    return forms.BooleanField(**{**common, "required": False})


def _integer(schema: Schema, common: dict[str, Any]) -> forms.Field:
    attributes = {"step": 1, "inputmode": "numeric", **_attributes(schema)}
    return forms.IntegerField(widget=forms.NumberInput(attributes), **common)


def _number(schema: Schema, common: dict[str, Any]) -> forms.Field:
    return forms.FloatField(widget=forms.NumberInput({"step": "any", **_attributes(schema)}), **common)


def _text(schema: Schema, common: dict[str, Any]) -> forms.Field:
    widget: forms.Widget
    if schema.get("format") == "textarea":
        widget = forms.Textarea({"rows": 8, **_attributes(schema)})
    elif schema.get("format") in ("uri", "url") or "://" in schema.get("pattern", ""):
        widget = forms.URLInput({"autocomplete": "url", "spellcheck": "false", **_attributes(schema)})
    else:
        widget = forms.TextInput(_attributes(schema))
    return Text(widget=widget, **{**common, "required": schema.get("minLength", 0) > 0 or "pattern" in schema})


def _json(schema: Schema, common: dict[str, Any]) -> forms.Field:
    return forms.JSONField(widget=forms.Textarea({"rows": 4, "class": "code"}), **common)
