"""The store against a simple model: whatever is done to it, versions, lists, watches and owners stay consistent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.devcluster import kinds
from scheduler.devcluster.errors import StatusError
from scheduler.devcluster.lists import lists_of
from scheduler.devcluster.objects import thaw, with_meta
from scheduler.devcluster.patch import APPLY_PATCH, MERGE_PATCH, json_patch, merge, strategic_merge
from scheduler.devcluster.store import Store
from scheduler.devcluster.tables import table
from tests.devcluster import new_store, pod, refusal

KIND = kinds.CONFIG_MAP
NAMES = st.sampled_from(["a", "b", "c", "d"])
DATA = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.sampled_from(["1", "2", "3"]), max_size=3)
FINALIZERS = st.sampled_from([[], ["t/one"], ["t/one", "t/two"]])


class StoreMachine(RuleBasedStateMachine):
    """Random writes to config maps of one namespace, followed by a watch from the very beginning."""

    @initialize()
    def begin(self) -> None:
        self.store: Store = new_store()
        self.watch = self.store.watch(KIND)
        self.replayed: dict[str, dict[str, Any]] = {}
        self.started: list[tuple[int, dict[str, dict[str, Any]]]] = []
        self.last_version = self.store.resource_version

    def _find(self, name: str) -> dict[str, Any] | None:
        return self.store.find(KIND, "default", name)

    @rule(name=NAMES, data=DATA, finalizers=FINALIZERS, owner=st.none() | NAMES)
    def create(self, name: str, data: dict[str, str], finalizers: list[str], owner: str | None) -> None:
        meta: dict[str, Any] = {"name": name, "finalizers": finalizers}
        above = self._find(owner) if owner else None
        if above is not None:
            reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": above["metadata"]["uid"]}
            meta["ownerReferences"] = [reference]
        existed = self._find(name) is not None
        body = {"metadata": meta, "data": data}
        if existed:
            with refusal(409, "AlreadyExists"):
                self.store.create(KIND, body)
        else:
            self.store.create(KIND, body)

    @rule(name=NAMES, data=DATA, stale=st.booleans())
    def update(self, name: str, data: dict[str, str], stale: bool) -> None:
        before = self._find(name)
        if before is None:
            return
        version = "1" if stale else before["metadata"]["resourceVersion"]
        wanted = with_meta({**before, "data": data}, resourceVersion=version)
        if stale:
            with refusal(409, "Conflict"):
                self.store.update(KIND, wanted)
        else:
            assert self.store.update(KIND, wanted)["data"] == data

    @rule(name=NAMES, data=DATA, manager=st.sampled_from(["alice", "bob"]))
    def apply(self, name: str, data: dict[str, str], manager: str) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        done = self.store.patch(KIND, "default", name, APPLY_PATCH, body, field_manager=manager, force=True)
        assert {key: done["data"][key] for key in data} == data

    @rule(name=NAMES, finalizers=FINALIZERS)
    def release(self, name: str, finalizers: list[str]) -> None:
        before = self._find(name)
        if before is None:
            return
        kept = [entry for entry in before["metadata"].get("finalizers") or () if entry in finalizers]
        self.store.update(KIND, with_meta(before, finalizers=kept or None))
        if before["metadata"].get("deletionTimestamp") and not kept:
            assert self._find(name) is None

    @rule(name=NAMES, policy=st.sampled_from(["Background", "Foreground", "Orphan"]))
    def delete(self, name: str, policy: str) -> None:
        before = self._find(name)
        if before is None:
            with refusal(404, "NotFound"):
                self.store.delete(KIND, "default", name, propagation=policy)
            return
        self.store.delete(KIND, "default", name, propagation=policy)
        after = self._find(name)
        assert after is None or after["metadata"]["deletionTimestamp"]

    @rule()
    def start_another_watch(self) -> None:
        """A watch from here on must lead to the same end from the list it began with."""
        items, version = self.store.list(KIND)
        self.started.append((version, {obj["metadata"]["name"]: obj for obj in items}))
        self.started = self.started[-3:]

    @precondition(lambda self: self.started)
    @rule()
    def replay_an_earlier_watch(self) -> None:
        version, state = self.started[0]
        assert self._replay(dict(state), self.store.watch(KIND, since=version).take()) == self._listed()

    def _listed(self) -> dict[str, dict[str, Any]]:
        return {obj["metadata"]["name"]: obj for obj in self.store.list(KIND)[0]}

    @staticmethod
    def _replay(state: dict[str, dict[str, Any]], events: list[Any]) -> dict[str, dict[str, Any]]:
        for event in events:
            name = event.object["metadata"]["name"]
            assert (event.type == "ADDED") == (name not in state), "ADDED is the first of an object, and only that"
            if event.type == "DELETED":
                del state[name]
            else:
                state[name] = event.object
        return state

    @invariant()
    def the_watch_leads_to_the_list(self) -> None:
        events = self.watch.take()
        versions = [event.version for event in events]
        assert versions == sorted(set(versions))
        assert all(version > self.last_version for version in versions)
        self.last_version = max([self.last_version, *versions])
        assert self._replay(self.replayed, events) == self._listed()

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for obj in self._listed().values():
            meta = obj["metadata"]
            assert not meta.get("deletionTimestamp") or meta.get("finalizers")

    @invariant()
    def owners_live(self) -> None:
        """Whoever has owners has a living one, or is on its way out."""
        living = {obj["metadata"]["uid"] for obj in self._listed().values()}
        for obj in self._listed().values():
            owners = obj["metadata"].get("ownerReferences")
            if owners and not obj["metadata"].get("deletionTimestamp"):
                assert any(owner["uid"] in living for owner in owners)


StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStoreMachine = StoreMachine.TestCase


# --- patches ------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text("ab/~", min_size=1, max_size=2), VALUES, max_size=4)


def merge_patch_between(before: Any, after: Any) -> Any:
    """The merge patch that leads from one object to another without nulls in it."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            patch[key] = merge_patch_between(old, value)
        elif key not in before or old != value or type(old) is not type(value):
            patch[key] = value
    return patch


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_leads_where_it_should_and_strategic_merge_agrees_on_plain_objects(before: Any, after: Any):
    before, after = without_nulls(before), without_nulls(after)
    patch, untouched = merge_patch_between(before, after), thaw(before)
    assert merge(before, patch) == after
    assert strategic_merge(before, patch, lists_of("none")) == after
    assert before == untouched


def pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


@given(OBJECTS, OBJECTS)
def test_a_json_patch_leads_where_it_should(before: Any, after: Any):
    gone = [{"op": "remove", "path": pointer(key)} for key in before if key not in after]
    put = [{"op": "add", "path": pointer(key), "value": value} for key, value in after.items()]
    proof = [{"op": "test", "path": pointer(key), "value": value} for key, value in after.items()]
    untouched = thaw(before)
    assert json_patch(before, [*gone, *put, *proof]) == after
    assert before == untouched


# --- anything at all ----------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
SPEC_FIELDS = {
    kinds.POD: ("containers", "resourceClaims", "tolerations", "affinity", "nodeSelector", "schedulingGates"),
    kinds.CLAIM: ("devices",),
    kinds.CLAIM_TEMPLATE: ("spec", "metadata"),
    kinds.SLICE: ("driver", "pool", "devices", "sharedCounters", "nodeSelector"),
    kinds.TAINT_RULE: ("deviceSelector", "taint"),
    kinds.DEPLOYMENT: ("replicas", "selector", "template"),
    kinds.JOB: ("parallelism", "template", "completions"),
    kinds.DISRUPTION_BUDGET: ("selector", "minAvailable"),
    kinds.CUSTOM_RESOURCE: ("group", "names", "versions", "scope"),
    kinds.NODE: ("taints", "unschedulable"),
}


STATUS_FIELDS = ("conditions", "phase", "containerStatuses", "allocation", "reservedFor", "addresses", "capacity")


def attempted(write: Callable[[], Any]) -> None:
    """Do it; a refusal is fine, if it blames the request."""
    try:
        write()
    except StatusError as error:
        if error.code not in (400, 403, 422):
            raise


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_rubbish_is_refused_or_stored_but_never_breaks_the_store(data: st.DataObject):
    kind = data.draw(st.sampled_from(sorted(SPEC_FIELDS, key=lambda kind: kind.key)))
    namespace = "default" if kind.namespaced else ""
    fields = st.dictionaries(st.sampled_from(SPEC_FIELDS[kind]), JSON)
    store = new_store()
    body = {"metadata": {"name": "a"}, "spec": data.draw(fields | JSON), "status": data.draw(JSON)}
    attempted(lambda: store.create(kind, body))
    if kind is kinds.POD and not store.all(kind):
        store.create(kind, pod("a"))
    status = st.dictionaries(st.sampled_from(STATUS_FIELDS), JSON)
    patch = data.draw(st.fixed_dictionaries({"spec": fields, "status": status | JSON}))
    if store.all(kind):
        attempted(lambda: store.patch(kind, namespace, "a", MERGE_PATCH, patch))
    if store.all(kind) and kind.has_status:
        attempted(lambda: store.patch(kind, namespace, "a", MERGE_PATCH, patch, subresource="status"))
    for obj in store.all(kind):
        assert all(isinstance(obj.get(field, {}), dict) for field in ("spec", "status"))
        assert table(kind, [obj], "1", "Object")["rows"][0]["cells"]
