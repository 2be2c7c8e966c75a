"""What `pytest katas/...` prints: the verdict instead of pytest's own report."""

import math
import time
from typing import Any

import _pytest.timing
import pytest

from graders.report import render


def install(config: pytest.Config) -> None:
    """Puts the kata reporter in the place of pytest's; -v keeps pytest's."""
    old = config.pluginmanager.get_plugin("terminalreporter")
    if old is not None and config.option.verbose <= 0:
        config.pluginmanager.unregister(old)
        config.pluginmanager.register(KataReporter(config), "terminalreporter")


class KataReporter(pytest.TerminalReporter):
    """A line on what runs while it runs (on a terminal), then the verdict of each kata."""

    _checking, _since, _shown = "importing", math.inf, 0

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session
        self._session_start = _pytest.timing.Instant()

    def pytest_collection(self) -> None:
        self._now("importing")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            super().pytest_collection_finish(session)

    def report_collect(self, final: bool = False) -> None:
        pass

    def pytest_deselected(self, items: Any) -> None:
        pass

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:  # noqa: ARG002
        self._checking, self._since, self._shown = nodeid.rpartition("::test_")[2], time.monotonic(), 0
        self._now(f"checking {self._checking}")

    def tick(self) -> None:
        """While a check runs: the seconds that it has taken."""
        seconds = math.floor(max(time.monotonic() - self._since, 0.0))
        if seconds > self._shown:
            self._shown = seconds
            self._now(f"checking {self._checking}, {seconds} s")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._add_stats(report.outcome, [report])

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        pass

    def _now(self, what: str) -> None:
        if self._tw.hasmarkup:
            self._tw.write(f"\r\x1b[K  {what}", light=True)
            self._tw.flush()

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int | pytest.ExitCode) -> Any:  # noqa: ARG002
        result = yield
        from graders.session import VERDICTS

        if self._tw.hasmarkup:
            self._tw.write("\r\x1b[K")
        self.summary_errors()
        for i, verdict in enumerate(self.config.stash.get(VERDICTS, {}).values()):
            for text, style in [("", {})] * (i > 0) + render(verdict):
                self._tw.line(text, **style)
        return result
