"""The debug API and the page (FastAPI). Read only; the one POST plans what would be and writes nothing.

Every answer is of one cycle, named by its ETag. Loopback without a token: who may not see the cluster must not reach
the port, and pages of other sites, which a browser on this machine may have open, are refused: by their Host header,
and where they ask for work by their origin.
"""

import asyncio
import functools
import ipaddress
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment
from starlette.requests import ClientDisconnect

from scheduler.model.plan_document import to_json
from scheduler.web import answers as documents
from scheduler.web.answers import Answers, Document
from scheduler.web.cluster_map import cluster_map
from scheduler.web.paging import LARGEST_PAGE, USUAL_PAGE, BadContinue, is_current, page
from scheduler.web.view import Source, WhatIfRefused

LARGEST_BODY = 4 * 1024 * 1024
BODY_SECONDS = 10.0
WHAT_IF_SECONDS = 30.0
WHAT_IF_WAITING = 4
"""What-if questions at once, the one being answered included; further ones are told to come back."""

_PAGES = files("scheduler.web") / "pages"
_OPEN_TO_ALL_HOSTS = ("/healthz", "/readyz", "/metrics")
_HARMLESS = ("GET", "HEAD")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE)]
Continue = Annotated[str, Query(alias="continue", max_length=4096)]
Filter = Annotated[str, Query(max_length=512)]


class Problem(Exception):
    """What a client is told instead of an answer."""

    def __init__(self, status: int, cause: str, cure: str, *, retry_after: int | None = None) -> None:
        super().__init__(cause)
        self.status = status
        self.cause = cause
        self.cure = cure
        self.retry_after = retry_after


def create_app(source: Source, *, hosts: Sequence[str] = ()) -> FastAPI:
    """The application. `hosts`: names it may be asked by besides those of this machine."""
    app = FastAPI(title="Tutti", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    app.add_exception_handler(Problem, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.middleware("http")(functools.partial(_guard, {host.lower() for host in hosts}))
    reader = _Reader(source)
    _add_health(app, source)
    _add_lists(app, reader)
    _add_what_if(app, source)
    _add_page(app)
    return app


class _Reader:
    """The newest cycle's answers, made once however many ask."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._answers: Answers | None = None

    def newest(self) -> Answers:
        view = self._source.view()
        if view is None:
            raise Problem(
                503,
                "No cycle has ended yet.",
                "Ask again in a moment, or ask the replica that leads; /readyz says what is missing.",
                retry_after=1,
            )
        known = self._answers
        if known is None or known.view is not view:
            known = self._answers = Answers(view)
        return known

    def answer(self, request: Request, make: Callable[[Answers], Any]) -> Response:
        """What `make` says, unless the client has the answer of this very cycle."""
        answers = self.newest()
        tag = f'"{answers.view.cycle}.{answers.view.plan.now_ms}"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if is_current(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        return _json(make(answers), headers=headers)


class _Worker:
    """Answers one question after the other, in a daemon thread: no thought, however long, keeps the process from
    ending, as those of an executor do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked: queue.SimpleQueue[tuple[Callable[[], Document], Future[Document]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, question: Callable[[], Document]) -> Future[Document]:
        """Ask; called from one thread only. The first question starts the worker."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._answer_all, name=self._name, daemon=True)
            self._thread.start()
        answer: Future[Document] = Future()
        self._asked.put((question, answer))
        return answer

    def _answer_all(self) -> None:
        while True:
            question, answer = self._asked.get()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(question())
            except BaseException as problem:  # noqa: BLE001 - the asker gets it
                answer.set_exception(problem)


def _add_health(app: FastAPI, source: Source) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return _state(source.unhealthy())

    @app.get("/readyz")
    def readyz() -> Response:
        return _state(source.unhealthy() or source.not_ready())

    @app.get("/metrics")
    def metrics() -> Response:
        body, content_type = source.metrics()
        return Response(body, media_type=content_type)

    @app.get("/api/v1/snapshot")
    def snapshot() -> Response:
        missing = source.not_ready()
        if missing:
            raise Problem(503, f"The service is not ready: {missing}.", "Ask again in a moment.", retry_after=1)
        name = {"Content-Disposition": 'attachment; filename="tutti-snapshot.json"'}
        return Response(source.recording(), media_type="application/json", headers=name)


def _add_lists(app: FastAPI, reader: _Reader) -> None:
    @app.get("/api/v1/queues")
    def queues(request: Request, limit: Limit = USUAL_PAGE, after: Continue = "") -> Response:
        return reader.answer(request, lambda all_: _page(all_.queues, documents.name_key, limit, after, all_))

    @app.get("/api/v1/gangs")
    def gangs(
        request: Request,
        limit: Limit = USUAL_PAGE,
        after: Continue = "",
        namespace: Filter = "",
        name: Filter = "",
        pod: Filter = "",
        queue: Filter = "",
        verdict: Filter = "",
        code: Filter = "",
    ) -> Response:
        wanted = {"namespace": namespace, "name": name, "pod": pod, "queue": queue, "verdict": verdict, "code": code}
        return reader.answer(
            request, lambda all_: _page(all_.gangs_like(wanted), documents.gang_key, limit, after, all_)
        )

    @app.get("/api/v1/gangs/{namespace}/{name}/explain")
    def explain(request: Request, namespace: str, name: str) -> Response:
        def make(all_: Answers) -> Document:
            found = all_.gang(f"{namespace}/{name}")
            if found is None:
                raise Problem(
                    404,
                    f"There is no gang {namespace}/{name}: none of its pods names our scheduler, or all have ended.",
                    "Look at spec.schedulerName of the pods, or list /api/v1/gangs.",
                )
            return {"metadata": {"cycle": all_.view.cycle}, **found}

        return reader.answer(request, make)

    @app.get("/api/v1/nodes")
    def nodes(request: Request, limit: Limit = USUAL_PAGE, after: Continue = "") -> Response:
        return reader.answer(request, lambda all_: _page(all_.nodes, documents.name_key, limit, after, all_))

    @app.get("/api/v1/devices")
    def devices(request: Request, limit: Limit = USUAL_PAGE, after: Continue = "", node: Filter = "") -> Response:
        def make(all_: Answers) -> Document:
            found = sorted(all_.devices_on(node), key=documents.device_key) if node else all_.devices
            return _page(found, documents.device_key, limit, after, all_)

        return reader.answer(request, make)

    @app.get("/api/v1/cycles")
    def cycles(request: Request, limit: Limit = USUAL_PAGE) -> Response:
        return reader.answer(request, lambda all_: _newest(all_.cycles, limit, all_))

    @app.get("/api/v1/decisions")
    def decisions(request: Request, limit: Limit = USUAL_PAGE, gang: Filter = "", queue: Filter = "") -> Response:
        def make(all_: Answers) -> Document:
            wanted = {"gang": gang, "queue": queue}
            return _newest([each for each in all_.decisions if _matches(each, wanted)], limit, all_)

        return reader.answer(request, make)

    @app.get("/api/v1/set-aside")
    def set_aside(request: Request, limit: Limit = USUAL_PAGE) -> Response:
        return reader.answer(request, lambda all_: _newest(all_.set_aside, limit, all_))

    @app.get("/api/v1/map")
    def map_(request: Request) -> Response:
        return reader.answer(request, cluster_map)


def _add_what_if(app: FastAPI, source: Source) -> None:
    planning = _Worker("what-if")
    waiting: set[asyncio.Future[Document]] = set()

    def plan(manifests: str) -> Document:
        return to_json(source.what_if(manifests))

    @app.post("/api/v1/plan")
    async def what_if(request: Request) -> Response:
        """The plan if the manifests in the body (YAML or JSON) were applied now, as `tutti plan -o json` prints it."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                manifests = await _body(request)
        except TimeoutError:
            raise Problem(408, f"The body did not arrive within {BODY_SECONDS:g} seconds.", "Ask again.") from None
        except ClientDisconnect:
            raise Problem(400, "The connection ended before the body did.", "Send all of the body.") from None
        if len(waiting) >= WHAT_IF_WAITING:
            raise Problem(429, "Other what-if questions are being answered.", "Ask again in a moment.", retry_after=2)
        answer = asyncio.wrap_future(planning.submit(functools.partial(plan, manifests)))
        waiting.add(answer)
        answer.add_done_callback(waiting.discard)
        try:
            async with asyncio.timeout(WHAT_IF_SECONDS):
                return _json(await asyncio.shield(answer))
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except TimeoutError:
            answer.add_done_callback(_retrieve)
            raise Problem(
                504,
                f"No plan within {WHAT_IF_SECONDS:g} seconds.",
                "Ask about less at once, or lower the search budgets.",
            ) from None
        except WhatIfRefused as refused:
            raise Problem(400, str(refused), "Correct the manifest and ask again.") from None


def _add_page(app: FastAPI) -> None:
    template = Environment(autoescape=True).from_string((_PAGES / "index.html").read_text())
    assets = {
        name: ((_PAGES / name).read_bytes(), media_type)
        for name, media_type in (
            ("page.css", "text/css"),
            ("page.js", "text/javascript"),
            ("mark.svg", "image/svg+xml"),
        )
    }

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return Response(template.render(), media_type="text/html", headers={"Cache-Control": "no-cache"})

    @app.get("/pages/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        if name not in assets:
            raise Problem(404, f"There is no page {name}.", "Start at /.")
        body, media_type = assets[name]
        return Response(body, media_type=media_type, headers={"Cache-Control": "no-cache"})


async def _guard(hosts: set[str], request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what other sites' pages ask: by names that are not ours, or for more than reading."""
    if request.method not in _HARMLESS and not _from_our_page(request):
        cure = "Ask from the page of this API, or by a program that is no browser."
        return _problem(Problem(403, "The page of another site asks for work.", cure))
    if request.url.path not in _OPEN_TO_ALL_HOSTS and not _is_ours(request.headers.get("host", ""), hosts):
        cure = "Ask by localhost or 127.0.0.1, for instance through `kubectl port-forward`."
        return _problem(Problem(421, "This API answers to the names of its own machine only.", cure))
    response = await call_next(request)
    response.headers.update(_HEADERS)
    return response


def _from_our_page(request: Request) -> bool:
    """Whether no other site made a browser ask (Fetch Metadata; RFC 6454). A form needs no leave to post to us."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == request.headers.get("host", "").lower()


def _is_ours(host: str, hosts: set[str]) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]").lower()
    if name == "localhost" or name in hosts:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _body(request: Request) -> str:
    size = 0
    parts: list[bytes] = []
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise Problem(413, f"The body is larger than {LARGEST_BODY} bytes.", "Send fewer manifests at once.")
        parts.append(part)
    try:
        text = b"".join(parts).decode()
    except UnicodeDecodeError:
        raise Problem(400, "The body is no UTF-8 text.", "Send YAML or JSON.") from None
    if not text.strip():
        raise Problem(400, "The body is empty.", "Send the manifests to plan for, as YAML or JSON.")
    return text


def _page(found: list[Document], key: Callable[[Document], str], limit: int, after: str, answers: Answers) -> Document:
    try:
        return page(found, key, limit=limit, after=after, cycle=answers.view.cycle)
    except BadContinue as bad:
        raise Problem(400, f"{bad}.", "Leave out continue to start at the beginning.") from None


def _newest(found: list[Document], limit: int, answers: Answers) -> Document:
    rest = max(len(found) - limit, 0)
    return {"metadata": {"cycle": answers.view.cycle, "remainingItemCount": rest}, "items": found[:limit]}


def _matches(document: Document, wanted: dict[str, str]) -> bool:
    return all(not value or document[field] == value for field, value in wanted.items())


def _state(problem: str) -> Response:
    return Response(problem or "ok", status_code=503 if problem else 200, media_type="text/plain")


def _json(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode(content)
    return Response(body, status_code=status, media_type="application/json", headers=headers)


def _problem(problem: Problem) -> Response:
    headers = {**_HEADERS}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 408:
        headers["Connection"] = "close"
    return _json({"error": {"message": problem.cause, "cure": problem.cure}}, status=problem.status, headers=headers)


async def _told(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return _problem(problem)


async def _invalid(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, RequestValidationError)
    first = problem.errors()[0]
    where = ".".join(str(step) for step in first["loc"])
    return _problem(Problem(400, f"{where}: {first['msg']}.", "Correct the parameter."))


def _retrieve(late: asyncio.Future[Document]) -> None:
    """An answer nobody waits for any more: what it raised was the asker's."""
    if not late.cancelled():
        late.exception()
