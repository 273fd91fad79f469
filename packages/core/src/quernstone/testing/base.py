"""The base of both contracts: settings, cached models, expected failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from quernstone.model import Model

Core = TypeVar("Core", bound=Model)
Make = Callable[..., Core]


class Contract(Generic[Core]):
    """A suite that builds models from `settings` and keeps one loaded until its class ends."""

    core: ClassVar[type[Any]]
    """`Embedder` or `Reranker`."""
    task: ClassVar[str]
    engine: ClassVar[str] = ""
    """The engine's column in the capabilities table; empty for none."""
    tolerance: ClassVar[float] = 1e-5
    """Largest allowed change of a number when other inputs share its batch."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """Missing capabilities and the reasons: keys of `CAPABILITIES`, or names of single tests.
    These tests must fail."""

    _held: ClassVar[list[Any]]

    def __init_subclass__(cls) -> None:
        cls._held = []

    @classmethod
    def teardown_class(cls) -> None:
        """Release the models."""
        while cls._held:
            cls._held.pop().close()

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        """Return the arguments of `Embedder` or `Reranker`; override it."""
        msg = f"override the fixture `settings` in {type(self).__name__}"
        raise NotImplementedError(msg)

    @pytest.fixture
    def reference(self) -> Core | None:
        """Return a trusted engine with the same weights in float32, or `None`."""
        return None

    @pytest.fixture
    def make(self, settings: dict[str, Any]) -> Iterator[Make[Core]]:
        """Build models with changed settings, and close them after the test."""
        if not self._held:
            self._held.append(self.core(**settings))
        models: list[Core] = []

        def build(**changes: Any) -> Core:
            models.append(self.core(**{**settings, **changes}))
            return models[-1]

        yield build
        for model in models:
            model.close()

    @pytest.fixture
    def subject(self, make: Make[Core]) -> Core:
        """Return a model built from `settings`."""
        return make()

    def like(self, reference: Core, **changes: Any) -> Core:
        """Return a copy of the reference with other settings."""
        settings = {"engine": reference.info.engine, "dtype": "float32", **changes}
        model: Core = self.core(reference.model, **settings)
        return model

    @pytest.fixture(autouse=True)
    def expected_to_fail(self, request: pytest.FixtureRequest) -> None:
        """Mark the tests of missing capabilities as expected failures."""
        name = request.node.originalname
        capability = getattr(request.function, "capability", "")
        if reason := self.cannot.get(capability) or self.cannot.get(name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
