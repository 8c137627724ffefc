"""Tells the benchmark when NVFlare's server begins, turns from round to round, and ends."""

from pathlib import Path

import gate
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_event_type import AppEventType


class RoundGate(FLComponent):
    """A component of the server's job that hears its events."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:  # noqa: ARG002 - NVFlare's signature
        """Hold the job before it loads the model and after its last round."""
        folder = Path(self.folder)
        if event_type == EventType.START_RUN:
            gate.wait_to_begin(folder)
        elif event_type == AppEventType.ROUND_STARTED:
            gate.stamp(folder)
        elif event_type == EventType.END_RUN:
            gate.stamp(folder)
            gate.wait_to_end(folder)
