"""Everything this room promises holds with the kernels and, where no compiler was, with numpy."""

from __future__ import annotations

import pytest

from brigade.backends.cpu.library import find_kernels
from brigade.engine.sampling import native


@pytest.fixture(params=["kernels", "numpy"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(native, "is_there", lambda: False)
    elif find_kernels() is None:
        pytest.skip("the C++ kernels are not built: no compiler on this machine")
    return request.param
