"""Code that comes in the frames themselves, executed in a process of its own for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from rmbus.errors import ConfinementError
from rmbus.media import Frame
from rmbus.node import Node
from rmbus.nodes.asking import asked
from rmbus.nodes.executing import Executor, Limits, Outcome
from rmbus.nodes.guard import PERMISSIVE_MODULES, SAFE_MODULES

_GIVEN: Final = ("base64", "json", "math")
_LEAST_MEMORY_MB: Final = 64


class CodeExecutor(Node):
    """Takes `{"code": ..., "input": ...}`, executes the code, and gives what it left in `result`.

    The code is ordinary Python and sees `input_data`, the modules `base64`, `json` and `math`, and what it imports.
    Out: `{"executed_code", "input", "result", "output", "processed_by"}`; where the code failed or was stopped, `error`
    (type and message) and `traceback` instead of `result`. `output` is what it printed, `processed_by` the name of the
    node. Code that sets no `result` gives "No result variable set". Input and result are what `Data` may hold.

    Each call has a process of its own, a child of the node's, with one thread: whatever the node's own level, it can
    write no file, read none but the interpreter and its libraries, make no process, thread or socket, and signal
    nobody. An endless loop, an allocation of 10 GB or a fork bomb ends with an `error`, and the next call is answered.
    It needs Landlock (Linux 5.13). What code may import, and a few words that it may not use, are a guard against
    accidents on top of that; whoever passes it has gained nothing.

    Args:
        time_s: seconds that the code may take, by the clock.
        memory_mb: MiB of address space for its process, about 40 of which the interpreter needs.
        output_bytes: of what it prints, so much is kept; how much more there was is told.
        result_bytes: an answer that takes more is an error.
        modules: what it may import beside the safe modules (`rmbus.nodes.guard.SAFE_MODULES`), with all below it.
        profile: "permissive" gives it `pickle` and `cloudpickle`, too.

    A request that is none is a ValueError, raised as such also where the node runs elsewhere: "Input must be a
    dictionary", "Input must contain 'code' key", "'code' must be a string".
    """

    def __init__(
        self,
        *,
        time_s: float = 10.0,
        memory_mb: int = 512,
        output_bytes: int = 65_536,
        result_bytes: int = 16 << 20,
        modules: Sequence[str] = (),
        profile: Literal["safe", "permissive"] = "safe",
    ) -> None:
        if not 0 < time_s < float("inf"):
            raise ValueError(f"time_s is a number of seconds above 0, not {time_s!r}")
        if memory_mb < _LEAST_MEMORY_MB:
            raise ValueError(f"memory_mb is {_LEAST_MEMORY_MB} at least, not {memory_mb!r}: the interpreter needs 40")
        if output_bytes < 0 or result_bytes < 1:
            raise ValueError("output_bytes and result_bytes are numbers of bytes")
        if isinstance(modules, str):
            raise ValueError(f"modules is a list of names, not {modules!r}")
        if profile not in ("safe", "permissive"):
            raise ValueError(f"profile is 'safe' or 'permissive', not {profile!r}")
        self.time_s, self.memory_mb = time_s, memory_mb
        self.output_bytes, self.result_bytes = output_bytes, result_bytes
        self.modules, self.profile = tuple(modules), profile
        self._executor: Executor | None = None

    def initialize(self) -> None:
        """Start the process for the first call.

        Raises:
            ConfinementError: code cannot be confined on this machine.
        """
        self._ready()

    def process(self, frame: Frame) -> dict[str, Any]:
        """Return what came of the code, with what was asked."""
        request = asked(frame, ("code",))
        code, value = request["code"], request.get("input")
        if not isinstance(code, str):
            raise ValueError("'code' must be a string")
        outcome = self._execute(code, value)
        answer: dict[str, Any] = {"executed_code": code, "input": value}
        if outcome.error is None:
            answer["result"] = outcome.result
        else:
            answer |= {"error": outcome.error, "traceback": outcome.traceback}
        return answer | {"output": outcome.printed, "processed_by": self.name}

    def cleanup(self) -> None:
        """End the process that waits."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def get_state(self) -> dict[str, Any]:
        """Return the parameters; the process that waits is of this place and time."""
        state: dict[str, Any] = super().get_state()
        return state | {"_executor": None}

    def _execute(self, code: str, value: object) -> Outcome:
        permissive = PERMISSIVE_MODULES if self.profile == "permissive" else ()
        about: dict[str, object] = {
            "code": code,
            "modules": [*SAFE_MODULES, *permissive, *self.modules],
            "given": [*_GIVEN, *permissive],
        }
        executor = self._ready()
        try:
            return executor.run(about, value)
        finally:
            executor.close()
            self._executor = Executor(self._limits())  # it gets ready while nobody waits

    def _ready(self) -> Executor:
        """Return a process that waits for code; one that has ended meanwhile is replaced."""
        said = ""
        for _ in range(2):
            executor = self._executor = self._executor or Executor(self._limits())
            if executor.prepare():
                return executor
            self.cleanup()
            said = executor.printed()
        raise ConfinementError(f"the process for the code does not start; it said: {said or 'nothing'}")

    def _limits(self) -> Limits:
        return Limits(self.time_s, self.memory_mb << 20, self.output_bytes, self.result_bytes)
