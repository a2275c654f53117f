from lab.core.dotted import flat, nested, pick


def test_flat_and_nested_are_inverse():
    values = {"a": {"b": 1, "c": {"d": None}}, "e": {}, "f": [{"g": 1}]}
    assert flat(values) == {"a.b": 1, "a.c.d": None, "e": {}, "f": [{"g": 1}]}
    assert nested("a.b.c", {"d": 1}) == {"a": {"b": {"c": {"d": 1}}}} and nested("a", 1) == {"a": 1}


def test_pick():
    assert pick({"a": {"b": 1}}, "a.b") == 1 and pick({"a": {"b": 1}}, "a") == {"b": 1}
    assert pick({"a": 1}, "a.b") is None and pick({}, "a") is None and pick(None, "a") is None
