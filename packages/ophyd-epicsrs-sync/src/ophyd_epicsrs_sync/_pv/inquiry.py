"""The questions to servers about PVs that have just connected."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from epicsrs_native import EpicsError, ReplyTimeoutError, get_context
from ophyd_epicsrs_sync._pv import fields

if TYPE_CHECKING:
    from epicsrs_native import Info
    from ophyd_epicsrs_sync._dispatcher import Lane
    from ophyd_epicsrs_sync._pv.connection import Connection

    # With the number of the connection that it is about.
    Asking: TypeAlias = tuple[Connection, int]
    Asked: TypeAlias = tuple[Connection, int, Info]
    Server: TypeAlias = tuple[Lane, str]

# Seconds after which a PV that has not answered is asked by itself: one gateway may serve quick PVs and slow ones.
PATIENCE: Final = 0.25

# PVs that one server is asked about at once. Each that is answered may have three more requests sent, for its monitor,
# and a circuit takes no more than some thousands at a time.
TOGETHER: Final = 500

# Of each server that is being asked: those who wait for their turn. Used on the metadata lane alone.
_waiting: dict[Server, list[Asked]] = {}


def inquire(asking: list[Asking]) -> None:
    """Ask for the type and the metadata of all these PVs: one request at a time for each server.

    On the metadata lane; the answers come there too, to each connection.
    """
    servers: defaultdict[str, list[Asked]] = defaultdict(list)
    for connection, number in asking:
        if not connection.needs(number):
            continue
        try:
            info = connection.channel.info(timeout=0.0)
        except (EpicsError, ValueError):
            # Not known yet, or the connection is lost again.
            connection.ask_type(number)
            continue
        if fields.metadata_request(info) is None and not fields.is_all_value(info):
            servers[info.address].append((connection, number, info))
        else:
            connection.ask_metadata(number, info)
    lane = asking[0][0].lane
    for address, asked in servers.items():
        server = lane, address
        if server in _waiting:
            _waiting[server] += asked
        else:
            _waiting[server] = asked
            _ask_next(server)


def _ask_next(server: Server) -> None:
    """Ask about the next of those who wait; each answer brings those after them."""
    waiting = [asked for asked in _waiting.pop(server) if asked[0].needs(asked[1])]
    if not waiting:
        return
    now, _waiting[server] = waiting[:TOGETHER], waiting[TOGETHER:]
    channels = [connection.channel for connection, _, _ in now]

    def came(done: Any) -> None:
        try:
            _answered(now, done)
        finally:
            _ask_next(server)

    submit = server[0].delivery.submit
    try:
        submit(get_context().get_many_async, channels, form="ctrl", count=0, timeout=PATIENCE).add_done_callback(came)
    except ValueError:
        # One of them has been closed in this moment.
        _ask_each(now)
        _ask_next(server)


def _ask_each(asked: list[Asked]) -> None:
    for connection, number, info in asked:
        if connection.needs(number):
            connection.ask_metadata(number, info)


def _answered(asked: list[Asked], done: Any) -> None:
    if done.exception() is not None:
        _ask_each(asked)
        return
    late: list[Asked] = []
    for (connection, number, info), reply in zip(asked, done.result(), strict=True):
        if isinstance(reply, ReplyTimeoutError):
            late.append((connection, number, info))
        else:
            connection.metadata_came(number, info, reply)
    _ask_each(late)
