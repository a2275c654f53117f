"""A plug-in that leaves out what its contract asks for is refused when it is built, and the missing part is named."""

import pytest

from lab.data.stream import Stream
from lab.experts.base import Expert, ExpertOptions
from lab.routers.base import Router, RouterOptions


@pytest.mark.parametrize(
    ("contract", "arguments", "missing"),
    [(Router, (RouterOptions(), [], 4), "forward"), (Stream, (), "load"), (Expert, (ExpertOptions(),), "output")],
)
def test_half_a_plugin_is_refused(contract, arguments, missing):
    half = type("Half", (contract,), {"name": "half"})
    with pytest.raises(TypeError, match=f"abstract.*{missing}"):
        half(*arguments)
