"""What waits for one internal model: lanes of requests that may be merged, and singles."""

from collections import deque

from services.gateway.dispatcher.calls import Call
from services.gateway.dispatcher.deadlines import TICK_S
from services.gateway.dispatcher.merging import Lane
from services.gateway.dispatcher.routing import Target

LANES_MAX = 64  # Distinct shapes of one model that wait or are remembered at a time.
SINGLES_OUT_MAX = 256  # Unmerged requests of one model in Triton at a time.


class ModelQueue:
    """The waiting calls of one internal model, and how many of its requests Triton has."""

    __slots__ = (
        "dirty",
        "key",
        "lanes",
        "merged_out",
        "outstanding_max",
        "ready",
        "singles",
        "singles_out",
        "splits",
        "waiting",
    )

    def __init__(self, target: Target) -> None:
        self.key = target.key
        self.outstanding_max = target.route.outstanding_max
        self.lanes: dict[bytes, Lane] = {}
        self.ready: deque[Lane] = deque()  # Lanes with waiting calls take turns.
        self.singles: dict[Call, None] = {}
        self.merged_out = 0
        self.singles_out = 0
        self.waiting = 0
        self.splits = True  # False once an answer of this model could not be split by rows.
        self.dirty = False

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.merged_out or self.singles_out)

    def lane_for(self, call: Call, target: Target) -> Lane | None:
        """The lane of the call's shape; None where it has to go alone."""
        form = call.form
        lane = self.lanes.get(form.signature)
        if lane is None:
            if len(self.lanes) >= LANES_MAX:
                self.lanes = {key: kept for key, kept in self.lanes.items() if kept.waiting}
                if len(self.lanes) >= LANES_MAX:
                    return None
            lane = self.lanes[form.signature] = Lane(target.rewriting, form)
        return lane

    def add(self, call: Call, lane: Lane | None) -> None:
        self.waiting += 1
        if lane is None:
            self.singles[call] = None
        else:
            if not lane.waiting:
                self.ready.append(lane)
            lane.waiting[call] = None

    def remove(self, call: Call) -> None:
        """Takes out a call whose caller no longer waits."""
        self.waiting -= 1
        if call in self.singles:
            del self.singles[call]
            return
        lane = self.lanes[call.form.signature]
        del lane.waiting[call]
        if not lane.waiting:
            self.ready.remove(lane)

    def take_single(self) -> Call | None:
        if not self.singles or self.singles_out >= SINGLES_OUT_MAX:
            return None
        call = next(iter(self.singles))
        del self.singles[call]
        self.waiting -= 1
        self.singles_out += 1
        return call

    def take_batch(self) -> tuple[Lane, list[Call], int] | None:
        """The next lane's waiting calls, as many as fit into one request, and their rows."""
        if not self.ready or self.merged_out >= self.outstanding_max:
            return None
        lane = self.ready.popleft()
        batch, rows = lane.take()
        if lane.waiting:
            self.ready.append(lane)
        self.waiting -= len(batch)
        self.merged_out += 1
        return lane, batch, rows

    def take_due(self, deadline: float) -> list[Call]:
        """Takes out the calls whose deadline comes before this one."""
        waiting = [*self.singles, *(call for lane in self.ready for call in lane.waiting)]
        due = [call for call in waiting if call.deadline_tick * TICK_S < deadline]
        for call in due:
            self.remove(call)
        return due

    def drain(self) -> list[Call]:
        """Takes everything out: Triton is not there, and the callers are told."""
        calls = [*self.singles]
        for lane in self.ready:
            calls.extend(lane.waiting)
            lane.waiting.clear()
        self.singles.clear()
        self.ready.clear()
        self.waiting = 0
        return calls
