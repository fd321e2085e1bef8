"""Which nodes count as alike: those on which devices belong together in the same way, whatever that is called."""

from collections.abc import Sequence

from scheduler.api.dra import Device, DeviceAttribute
from scheduler.dra.pools import Inventory
from scheduler.dra.shapes import Shape, shape
from tests.builders import devices, node


def shape_of(*domains: DeviceAttribute) -> Shape:
    """Of a node with a device in each of these NVLink domains."""
    return _shape([Device(name=f"d{n}", attributes={"nvlinkDomain": each}) for n, each in enumerate(domains)])


def _shape(published: Sequence[Device]) -> Shape:
    made = node("n") + devices("n", published)
    return shape(Inventory.of(made.slices, made.classes, ()).on(made.nodes[0]), frozenset())


def test_devices_are_together_or_apart_whatever_their_domain_is_called():
    x, y, z = (DeviceAttribute(string=name) for name in "xyz")
    assert shape_of(x, x) == shape_of(y, y)
    assert shape_of(x, y) == shape_of(y, z)
    assert shape_of(x, x).digest != shape_of(x, y).digest


def test_a_name_and_the_list_of_just_that_name_are_one_domain():
    x, only_x, only_y = DeviceAttribute(string="x"), DeviceAttribute(strings=("x",)), DeviceAttribute(strings=("y",))
    assert shape_of(x, only_x) == shape_of(x, x)
    assert shape_of(x, only_x).digest != shape_of(x, only_y).digest


def test_a_number_a_truth_value_and_a_word_are_no_one_value():
    one = [
        DeviceAttribute(int_=1),
        DeviceAttribute(bool_=True),
        DeviceAttribute(string="1"),
        DeviceAttribute(ints=(1, 1)),
    ]
    digests = {_shape([Device(name="d", attributes={"size": each})]).digest for each in one}
    assert len(digests) == 4
