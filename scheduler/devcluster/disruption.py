"""The status of PodDisruptionBudgets, for people to read: evictions count the pods themselves (`eviction`)."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api
from scheduler.devcluster.eviction import budget_status
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, namespace_of, with_condition
from scheduler.devcluster.selectors import object_selector
from scheduler.devcluster.work import Work


class BudgetControl:
    """Keeps status of each budget as its pods and their owners change."""

    def __init__(self, api: Api, budgets: Mirror, pods: Mirror, owners: tuple[Mirror, ...]) -> None:
        self._api, self._budgets, self._pods = api, budgets, pods
        self._owners = {mirror.kind.key: mirror for mirror in owners}
        self.work = Work("disruption budget", self._sync)
        budgets.index("namespace", lambda budget: (namespace_of(budget),))
        pods.index("namespace", lambda pod: (namespace_of(pod),))
        budgets.listen(self._budget_changed)
        pods.listen(self._pod_changed)
        for mirror in owners:
            mirror.listen(self._owner_changed)

    def _budget_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self.work.add(key_of(after))

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        pod = after if after is not None else before
        assert pod is not None
        for budget in self._budgets.under("namespace", namespace_of(pod)):
            selects = object_selector(field_of(budget, "spec", "selector"))
            if any(version is not None and selects(version) for version in (before, after)):
                self.work.add(key_of(budget))

    def _owner_changed(self, before: Obj | None, after: Obj | None) -> None:
        if before is None or after is None or before["spec"] != after["spec"]:
            owner = after if after is not None else before
            assert owner is not None
            for key in self._budgets.keys("namespace", namespace_of(owner)):
                self.work.add(key)

    async def _sync(self, key: str) -> None:
        budget = self._budgets.get(key)
        if budget is None:
            return
        counted = budget_status(_Known(self._api, self._pods, self._owners, namespace_of(budget)), budget)
        before = budget.get("status") or {}
        status = {**before, **counted.fields(), "observedGeneration": budget["metadata"].get("generation", 1)}
        some = counted.allowed > 0
        reason = "SufficientPods" if some else "InsufficientPods"
        condition = {
            "type": "DisruptionAllowed",
            "status": "True" if some else "False",
            "reason": reason,
            "message": "",
            "observedGeneration": status["observedGeneration"],
        }
        changed = with_condition({**budget, "status": status}, condition, self._api.now())
        if changed["status"] != before:
            await self._budgets.update(changed, subresource="status")


class _Known:
    """The mirrors as `budget_status` asks them; only pods of the budget's namespace."""

    def __init__(self, api: Api, pods: Mirror, owners: dict[str, Mirror], namespace: str) -> None:
        self._api, self._pods, self._owners, self._namespace = api, pods, owners, namespace

    def now(self) -> str:
        return self._api.now()

    def find(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        mirror = self._owners.get(kind.key)
        return mirror.get(f"{namespace}/{name}") if mirror is not None else None

    def all(self, kind: Kind) -> list[Obj]:
        return self._pods.under("namespace", self._namespace) if kind is kinds.POD else []
