"""Files of TensorBoard: a folder for each phase, so that it shows the phases as runs and their steps apart.

What a run that goes on forgets is not taken out of them: a later file begins by saying from which step on the earlier
ones are outdated, and TensorBoard drops that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # made at run time
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

FOLDER = "tensorboard"


class EventFiles:
    """A writer of the files below a workdir; each is opened with its first number."""

    def __init__(self, workdir: Path) -> None:
        self._folder = Path(workdir) / FOLDER
        self._open: dict[str, EventsWriter] = {}

    def write(self, step: int, phase: str, split: str, values: Mapping[str, float]) -> None:
        """Writes numbers of one step as `<split>/<name>`, and flushes them.

        Raises:
            OSError: the disk refuses.
        """
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._write(phase, Event(wall_time=time.time(), step=int(step), summary=Summary(value=scalars)))

    def forget(self, phase: str, after_step: int) -> None:
        """Outdates what earlier files say of a phase past a step; nothing is written where there are none."""
        self.close(phase)
        if (self._folder / phase).is_dir():
            started = SessionLog(status=SessionLog.START)
            self._write(phase, Event(wall_time=time.time(), step=after_step + 1, session_log=started))

    def close(self, phase: str | None = None) -> None:
        """Closes the file of a phase, or of all; what could not be written was said by `write`."""
        for name in [phase] if phase is not None else list(self._open):
            if (events := self._open.pop(name, None)) is not None:
                with suppress(OSError):
                    events.close()

    def _write(self, phase: str, event: Event) -> None:
        if phase not in self._open:
            folder = self._folder / phase
            folder.mkdir(parents=True, exist_ok=True)
            # tensorboardX names the file by the second and opens it for overwriting: the suffix keeps a run that is
            # resumed within that second from wiping its own file, and sorts behind it.
            self._open[phase] = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.time_ns()}")
        events = self._open[phase]
        events.write_event(event)
        events.flush()
