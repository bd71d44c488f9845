"""Through caproto, a Channel Access client in pure Python."""

import pytest
from caproto import AccessRights, ChannelType
from caproto.threading.client import Context

LIMIT = 10.0


@pytest.fixture(scope="session")
def channel(pv):
    context = Context()

    def channel(name):
        (found,) = context.get_pvs(pv(name))
        found.wait_for_connection(timeout=LIMIT)
        return found

    yield channel
    context.disconnect()


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("float1", ChannelType.DOUBLE, [1.5]),
        ("int10", ChannelType.LONG, [10]),
        ("enum1", ChannelType.ENUM, [1]),
        ("wf:double", ChannelType.DOUBLE, [0.5, 1.5, 2.5, 3.5]),
        ("wf:string", ChannelType.STRING, [b"one", b"two", b"three"]),
    ],
)
def test_a_record_has_its_value_and_type(channel, name, kind, data):
    found = channel(name)
    assert found.channel.native_data_type == kind
    assert list(found.read(timeout=LIMIT).data) == data


def test_a_motor_answers_a_put_when_it_is_there(channel):
    for place in (1.0, 0.0):
        channel("m2.VAL").write([place], wait=True, timeout=LIMIT)
        assert channel("m2.RBV").read(timeout=LIMIT).data[0] == place


def test_access_rights_are_announced(channel):
    assert channel("protected:readonly").access_rights == AccessRights.READ
    assert channel("protected:hidden").access_rights == AccessRights.NO_ACCESS
    assert AccessRights.WRITE in channel("float1").access_rights
