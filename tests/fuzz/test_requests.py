"""Any body of a request is read, or refused with a request error."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from raycomp.deployment.serving.requests import read_request
from raycomp.errors import RequestError

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(["text", "texts", "text_pair", "budget", "latency_ms"]), JSON)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60) | FIELDS.map(lambda fields: json.dumps(fields).encode()))
def test_any_body_is_a_request_or_a_request_error(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        request = read_request(body, ("teacher", "half"), takes_pairs=False)
        assert all(text.strip() for text in request.texts)
