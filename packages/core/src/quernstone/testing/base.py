"""What the two contracts have in common: settings, held models, and what an engine cannot do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from quernstone.runtime.session import ModelUser

Core = TypeVar("Core", bound=ModelUser)
Make = Callable[..., Core]


class Contract(Generic[Core]):
    """Builds what is tested from `settings`, and holds its model until the class is done."""

    core: ClassVar[type[Any]]
    """`Embedder` or `Reranker`."""
    task: ClassVar[str]
    engine: ClassVar[str] = ""
    """The engine's column in the table of capabilities; empty for none."""
    tolerance: ClassVar[float] = 1e-5
    """By how much a number may depend on what else is computed at the same time."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """What the engine lacks, and why: a key of `CAPABILITIES`, or the name of a test if only that
    one fails. These tests must fail."""

    _held: ClassVar[list[Any]]

    def __init_subclass__(cls) -> None:
        cls._held = []

    @classmethod
    def teardown_class(cls) -> None:
        """Give the model back."""
        while cls._held:
            cls._held.pop().close()

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        """Arguments of `Embedder` or `Reranker`: override it."""
        msg = f"override the fixture `settings` in {type(self).__name__}"
        raise NotImplementedError(msg)

    @pytest.fixture
    def reference(self) -> Core | None:
        """The same weights run by an engine that is trusted, in float32; None for none."""
        return None

    @pytest.fixture
    def make(self, settings: dict[str, Any]) -> Iterator[Make[Core]]:
        """Builds what is tested, with other settings if given, and closes it after the test."""
        if not self._held:
            self._held.append(self.core(**settings))
        made: list[Core] = []

        def build(**changes: Any) -> Core:
            made.append(self.core(**{**settings, **changes}))
            return made[-1]

        yield build
        for each in made:
            each.close()

    @pytest.fixture
    def subject(self, make: Make[Core]) -> Core:
        """What is tested, with `settings` as they are."""
        return make()

    def like(self, reference: Core, **changes: Any) -> Core:
        """The reference with other settings."""
        settings = {"engine": reference.info.engine, "dtype": "float32", **changes}
        made: Core = self.core(reference.model, **settings)
        return made

    @pytest.fixture(autouse=True)
    def expected_to_fail(self, request: pytest.FixtureRequest) -> None:
        """Turn what the engine cannot do into tests that must fail."""
        name = request.node.originalname
        capability = getattr(request.function, "capability", "")
        if reason := self.cannot.get(capability) or self.cannot.get(name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
