"""Records of files: what is not as the annotations say is one sentence that names the file, the key and the way out."""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from msgspec import Meta

from fsae.runtime.bundle.records import (
    Count,
    Line,
    Number,
    OneOrMore,
    Record,
    Share,
    check,
    decode_record,
    json_schema,
    one_of,
    read_json,
    to_json,
    whole,
)
from fsae.runtime.errors import UsageError

Key = Annotated[str, whole("[a-z]+", "small letters")]


class Part(Record, frozen=True, kw_only=True):
    size: OneOrMore
    share: Share = 0.5
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        check(self.share != self.size, f"share and size are both {self.size}, expected two numbers")


class Whole(Record, frozen=True, kw_only=True):
    name: Line = "whole"
    parts: Annotated[tuple[Part, ...], Meta(min_length=1)]
    pair: tuple[Number, Count] | None = None
    named: Mapping[Key, Mapping[str, Part]] = {}
    word: Annotated[str, one_of("x", "y.z")] = "x"
    flag: bool = False


GOOD: dict[str, Any] = {"parts": [{"size": 3}]}


def test_a_record_is_its_values_and_the_defaults() -> None:  # oracle: written down by hand
    found = decode_record(Whole, {**GOOD, "pair": [1, 2], "named": {"q": {"any": {"size": 1}}}}, "f", UsageError)
    assert (found.parts, found.pair, found.flag) == ((Part(size=3),), (1.0, 2), False)
    assert found.named == {"q": {"any": Part(size=1)}}
    assert isinstance(found.pair[0] if found.pair else None, float)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": 1, "hue": 2}, "the top level has unknown keys ['colour', 'hue'], expected ['flag', 'name', "),
        ({"parts": [{}]}, "parts[0] lacks the keys ['size']"),
        ({"parts": []}, "parts is [], expected a list of 1 or more"),
        ({"parts": {}}, "parts is {}, expected a list of 1 or more"),
        ({"parts": [{"size": 1, "share": 2}]}, "parts[0].share is 2, expected a finite number from 0 to 1"),
        ({"parts": [{"size": True}]}, "parts[0].size is True, expected a whole number from 1"),
        ({"parts": [{"size": 1.0}]}, "parts[0].size is 1.0, expected a whole number from 1"),
        ({"parts": [{"size": 1, "kind": "c"}]}, "parts[0].kind is 'c', expected one of ['a', 'b']"),
        ({"parts": [{"size": 1, "share": 1}]}, "parts[0]: share and size are both 1, expected two numbers"),
        ({"parts": ["part"]}, "parts[0] is 'part', expected a table"),
        ({"pair": [1.0]}, "pair is [1.0], expected a list of 2 or none"),
        ({"pair": [math.nan, 1]}, "pair[0] is nan, expected a finite number"),
        ({"pair": [math.inf, 1]}, "pair[0] is inf, expected a finite number"),
        ({"pair": [10**400, 1]}, "pair[0] is 1000"),
        ({"pair": [1.0, -1]}, "pair[1] is -1, expected a whole number from 0"),
        ({"named": {"q": {"good": {"size": 1}, "bad": {"size": 0}}}}, "named.q.bad.size is 0, expected a whole"),
        ({"named": {"q": {}, "r": 3}}, "named.r is 3, expected a table"),
        ({"named": {"q": {"\x1b[2J": {}}}}, r"named.q.\x1b[2J lacks the keys ['size']"),
        ({"named": {"good": {}, "Q": {}}}, "named has the key 'Q', expected small letters"),
        ({"named": {"q\n": {}}}, r"named has the key 'q\n', expected small letters"),
        ({"word": "yaz"}, "word is 'yaz', expected one of ['x', 'y.z']"),
        ({"flag": 1}, "flag is 1, expected true or false"),
        ({"flag": None}, "flag is None, expected true or false"),
        ({"name": "\x1b[2J"}, r"name is '\x1b[2J', expected one line of text"),
        ({"name": 1}, "name is 1, expected one line of text"),
    ],
)
def test_wrong_values_are_one_sentence(change: dict[str, Any], sentence: str) -> None:  # oracle: written down by hand
    with pytest.raises(UsageError) as caught:
        decode_record(Whole, GOOD | change, "mine.toml", UsageError, "write it again")
    assert str(caught.value).startswith(f"mine.toml: {sentence}")
    assert str(caught.value).endswith(": write it again")
    assert str(caught.value).isprintable()


def test_a_value_that_is_no_table_is_named() -> None:
    with pytest.raises(UsageError, match=r"^f: the top level is \[\], expected a table$"):
        decode_record(Whole, [], "f", UsageError)


def test_sentences_end() -> None:  # oracle: their length, whatever the size of what was found
    for value in ("x" * 10**4, list(range(10**4)), {str(n): n for n in range(10**4)}, {"x" * 10**4: 1}, 10**4000):
        for change in ({"flag": value}, {"named": {"q": value}}, {"x" * 10**4: value}):
            with pytest.raises(UsageError) as caught:
                decode_record(Whole, GOOD | change, "f", UsageError)
            assert len(str(caught.value)) < 1200


def test_json_says_everything_once() -> None:  # oracle: the json module reads the rest alike
    text = '{"a": {"b": [1, 2.5, "\\u00e9", null, true]}}'
    assert read_json(text, "f", UsageError) == json.loads(text)
    for wrong, words in (
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "f: the key 'b' is given twice"),
        ('{"a": NaN}', "f holds NaN, expected finite numbers only"),
        ('{"a": "\\ud800"}', "f: not JSON .*surrogates not allowed"),
        ('{"a": 1,}', "f: not JSON"),
        ("[" * 10**5, "f: not JSON"),
        ("1" * 5000, "f: not JSON"),
    ):
        with pytest.raises(UsageError, match=words):
            read_json(wrong, "f", UsageError)


def test_what_is_written_is_read_again() -> None:  # oracle: identity; the text by hand
    part = Part(size=np.int64(3), share=np.float32(0.25))  # type: ignore[arg-type]
    text = to_json(Whole(name="é", parts=(part,), pair=(1, 2), named={"q": {"r": Part(size=7)}}))
    again = decode_record(Whole, json.loads(text), "f", UsageError)
    assert to_json(again) == text
    assert json.loads(text)["parts"] == [{"size": 3, "share": 0.25, "kind": "a"}]
    assert '"é"' in text
    assert "1.0,\n" in text  # a whole number in a float's place
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int` >= 1 - at `\$.parts\[0\].size`"):
        to_json(Whole(parts=(Part(size=0),)))


def test_the_json_schema_has_the_constraints() -> None:  # oracle: written down by hand
    schema = json.loads(json_schema(Whole, "Wholes"))
    part, found = schema["$defs"]["Part"], schema["$defs"]["Whole"]
    assert (schema["title"], part["required"], part["additionalProperties"]) == ("Wholes", ["size"], False)
    assert part["properties"]["share"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5}
    assert found["properties"]["named"]["propertyNames"]["pattern"] == "^(?:[a-z]+)$"
