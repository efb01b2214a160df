"""Routing fields of bodies."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gateway.inspect import (
    LONG_BODY,
    BodyError,
    RoutingFields,
    decode_fields,
    form_fields,
    json_fields,
    shortened,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.text())
def test_the_model_is_found_among_whatever_else_there_is(fields, model):
    fields.pop("stream", None)
    body = json.dumps({**fields, "model": model, "stream": True}, ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    try:
        json.loads(body)
    except UnicodeDecodeError:
        return
    found = json_fields(body)
    assert (found.model, found.stream) == (model, True)


def test_a_body_without_the_fields_has_none():
    for body in (b"", b"{}", b'{"model":null}', b' { "other" : [1, {"model":"x"}] } '):
        assert (json_fields(body).model, json_fields(body).stream) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"{",
            b"nonsense",
            b"[1]",
            b'"x"',
            b"1",
            b"null",
            b'{"model":"m"',
            b'{"model":"m"}x',
            b'{"model":5}',
        ),
        *(
            b'{"model":["m"]}',
            b'{"model":"\xff"}',
            b'{"model":"m",}',
            b"{'model':'m'}",
            b'{"a":' + b"[" * 100_000,
        ),
    ],
)
def test_what_is_no_json_object_with_a_model_is_refused_with_a_reason(body):
    with pytest.raises(BodyError, match="request body"):
        json_fields(body)


LONG_TEXTS = (
    "a document of words " * 800,
    "lines\n" * 3000,
    'he said "so"\n' + "and went on " * 1500,
    "C:\\\\" + "x" * 20_000 + "\\",
    "\\" * 9000,
    '"' * 9000,
    "déjà vu 你好 " * 1200,
    "data:image/png;base64," + "iVBORw0KGgo" * 3000,
)


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("text", LONG_TEXTS)
@given(fields=st.dictionaries(st.text(), json_values, max_size=4), first=st.booleans(), data=st.data())
def test_a_long_body_says_the_same_without_its_longest_string(fields, first, data, text, escaped):
    fields = {k: v for k, v in fields.items() if k not in RoutingFields.__struct_fields__}
    routing = {"model": data.draw(st.text(max_size=20)), "stream": data.draw(st.booleans())}
    long = {"messages": [{"role": "user", "content": text, 'a "quoted" key': [1, 2]}]}
    whole = {**routing, **fields, **long} if first else {**long, **fields, **routing}
    body = json.dumps(whole, ensure_ascii=escaped).encode("utf-8", "replace")
    short = shortened(body)
    assert decode_fields(short) == decode_fields(body)
    assert list(json.loads(short)) == list(json.loads(body))


@pytest.mark.parametrize("text", [text for text in LONG_TEXTS if '"' not in text and "\\" not in text])
def test_a_long_string_is_left_out(text):
    body = json.dumps({"model": "m", "messages": [{"content": text}], "n": 1}, ensure_ascii=False).encode()
    assert len(body) >= LONG_BODY
    assert len(shortened(body)) < 100


def test_what_is_long_and_no_string_stays():
    ids = b'{"model":"m","prompt":[' + b"1, " * 9000 + b'2],"stream":true}'
    assert shortened(ids) == ids
    # Were it not for the count of quotes, these brackets would be left out, and the model inside would be the model.
    nested = b'{"x":"y","z":{' + b" " * 9000 + b'"model":"inner"},"model":"outer"}'
    assert shortened(nested) == nested
    # The quote in front of the long string is part of it, or is not.
    for opening in (b'"\\"', b'"\\\\\\"', b'"'):
        body = b'{"model":"m","prompt":' + opening + b"x" * 9000 + b'","n":1}'
        assert decode_fields(shortened(body)).model == "m"
        assert len(shortened(body)) < 100


def test_a_long_name_is_no_other_name():
    body = b'{"model":"' + b"m" * 9000 + b'"}'
    assert decode_fields(shortened(body)).model == "\0"


def form(*parts: tuple[str, bytes], boundary: str = "xYz") -> bytes:
    body = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts)
    return body + f"--{boundary}--\r\n".encode()


FILE = (
    'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav',
    bytes(range(256)) * 9,
)


@pytest.mark.parametrize("boundary", ["xYz", "----WebKitFormBoundary7MA4YWxkTrZu0gW", "a b"])
@pytest.mark.parametrize("order", [0, 1])
def test_the_model_field_of_a_form_is_found(boundary, order):
    parts = [('content-disposition: form-data; name="model"', b"whisper"), FILE]
    body = form(*(parts[::-1] if order else parts), boundary=boundary)
    found = form_fields(f'Multipart/Form-Data; charset=x; boundary="{boundary}"'.encode(), body)
    assert (found.model, found.stream) == ("whisper", False)


def test_unquoted_names_and_the_stream_field_are_understood():
    parts = (
        ("Content-Disposition: form-data; name=stream", b"True"),
        ("Content-Disposition: form-data; name=model", b"m"),
    )
    found = form_fields(b"multipart/form-data; boundary=xYz", form(*parts))
    assert (found.model, found.stream) == ("m", True)


def test_a_file_name_is_not_taken_for_a_field_name():
    part = ('Content-Disposition: form-data; filename="model"; name="file"', b"x")
    other = ('Content-Disposition: form-data; name="file"; filename="; name=model"', b"x")
    assert form_fields(b"multipart/form-data; boundary=xYz", form(part, FILE)).model is None
    assert form_fields(b"multipart/form-data; boundary=xYz", form(other, FILE)).model is None


def test_forms_that_break_off_have_what_came_before():
    body = form(('Content-Disposition: form-data; name="model"', b"m"), FILE)
    assert form_fields(b"multipart/form-data; boundary=xYz", body[:-40]).model == "m"
    assert form_fields(b"multipart/form-data; boundary=xYz", body[:30]).model is None
    assert form_fields(b"multipart/form-data; boundary=xYz", b"").model is None


@pytest.mark.parametrize(
    "content_type", [b"", b"application/json", b"multipart/form-data", b"multipart/form-data; boundary="]
)
def test_a_form_without_a_boundary_is_refused(content_type):
    with pytest.raises(BodyError, match="multipart/form-data"):
        form_fields(content_type, b"--x")


def test_a_form_of_a_million_fields_is_not_searched_to_its_end():
    body = b"--q\r\n\r\n\r\n" * 1_000_000 + form(
        ('Content-Disposition: form-data; name="model"', b"m"), boundary="q"
    )
    assert form_fields(b"multipart/form-data; boundary=q", body).model is None


@pytest.mark.parametrize("unit", [b';a="', b';a="\\"', b"; ", b";a", b";a =", b'"', b";a=b"])
def test_hostile_parameters_take_no_more_than_a_moment(unit):
    hostile = unit * (64_000 // len(unit))
    with pytest.raises(BodyError):
        form_fields(b"multipart/form-data; x=" + hostile, b"")


def test_a_model_that_is_no_text_is_refused():
    with pytest.raises(BodyError, match="UTF-8"):
        form_fields(
            b"multipart/form-data; boundary=xYz",
            form(('Content-Disposition: form-data; name="model"', b"\xff")),
        )
