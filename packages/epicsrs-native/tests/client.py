"""A client in a process of its own: the program client.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from program import PYTHON, Program


class Client(Program):
    """It has its own environment, which a client reads once, and does what it is asked, one thing after the other."""

    def __init__(self, environment: Mapping[str, str], command: Sequence[str] = PYTHON) -> None:
        super().__init__("client.py", environment=environment, command=command)

    def __enter__(self) -> "Client":
        assert self.hear() == "ready"
        return self

    def ask(self, verb: str, *arguments: Any, timeout: float = 20.0) -> Any:
        """What a verb returns; AssertionError where it raises."""
        answer = self.try_(verb, *arguments, timeout=timeout)
        assert answer[0] == "returned", answer
        return answer[1]

    def try_(self, verb: str, *arguments: Any, timeout: float = 20.0) -> Any:
        """["returned", what], or ["raised", class, message]."""
        self.say([verb, *arguments])
        return self.hear(timeout)
