# SPDX-License-Identifier: Apache-2.0
"""JSON schemas at random, such that most answers are short: nested objects and arrays, unions,
references, enumerations, patterns and bounds."""

PATTERNS = ["^[a-c]{1,4}$", "^\\d{3}-[A-Z]$", "^(ab|cd)+$", "^.{0,4}$", "^[^a]{2}$", "^\\S+ \\w$"]
WORDS = ["name", "age", "kind", "a b", "é", "x\"y", "id", "tags", "on"]


def random_string(r):
    return r.choice([
        {"type": "string", "maxLength": r.randint(0, 5)},
        {"type": "string", "pattern": r.choice(PATTERNS)},
        {"enum": r.sample(WORDS, r.randint(1, 4))},
        {"const": r.choice(WORDS)},
    ])


def random_number(r):
    low = r.randint(-200, 200)
    return r.choice([
        {"type": "integer", "minimum": low, "maximum": low + r.randint(0, 300)},
        {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + r.randint(2, 30)},
        {"enum": [low, low + 1, None, "x"]},
    ])


def random_schema(r, depth):
    kinds = [random_string, random_number, lambda r: {"type": "boolean"},
             lambda r: {"type": "null"}]
    if depth:
        kinds += [lambda r: random_object(r, depth - 1)] * 3
        kinds += [lambda r: random_array(r, depth - 1), lambda r: random_union(r, depth - 1)]
    return r.choice(kinds)(r)


def random_object(r, depth):
    names = r.sample(WORDS, r.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: random_schema(r, depth) for name in names},
        "required": [name for name in names if r.random() < 0.6],
        "additionalProperties": False,
    }


def random_array(r, depth):
    low = r.randint(0, 2)
    return {"type": "array", "items": random_schema(r, depth), "minItems": low,
            "maxItems": low + r.randint(0, 2)}


def random_union(r, depth):
    """Of alternatives that exclude each other."""
    return {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"},
                      random_object(r, depth)]}


def random_root(r):
    schema = random_object(r, 2)
    schema["$defs"] = {"point": {
        "type": "object", "properties": {"x": random_number(r), "y": {"type": "boolean"}},
        "required": ["x"], "additionalProperties": False}}
    schema["properties"]["at"] = {"$ref": "#/$defs/point"}
    schema["required"].append("at")
    return schema
