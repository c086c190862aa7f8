"""One browser for all tests of pages."""

import pytest

from tests.browser import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    started = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield started
    started.close()
