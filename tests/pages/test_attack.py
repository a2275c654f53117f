"""A stranger on the same machine attacks the running dashboard, from another process than its own; nothing may succeed.

What takes longer than a few seconds runs by hand: pytest -n 0 -m attack tests/pages/test_attack.py.
"""

import csv
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest
import yaml
from streamlit.proto.WidgetStates_pb2 import WidgetState
from support.browser import CHROMIUM, PAGES, VIEWS, dashboard, playwright, settled
from support.run_folders import write_run
from support.visits import visit
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lab.comparison import side_by_side
from lab.core.documents import yaml_text
from lab.figures import report
from lab.pages import gate
from lab.pages.gate import Keys
from lab.run_folder.run import Run

TOKEN = "a secret of the owner"
SECRET = "what only the owner of the machine may read"
FOREIGN = (
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8501",
    "169.254.169.254",
    "127.0.0.1@evil.example",
    "",
)
SERVED = ("/", "/jobs", "/_stcore/health", "/_stcore/host-config", "/_stcore/stream", "/media/x", "/_stcore/upload_file/s/f")
OUT = ("../../secret.txt", "..\\..\\secret.txt", "%2e%2e/%2e%2e/secret.txt", "..%2f..%2fsecret.txt", "....//....//secret.txt",
       "{}", "file://{}", "//evil.example/x", "..%252f..%252fsecret.txt", "a%00../../secret.txt")  # fmt: skip
HOSTILE = ("../../secret.txt", "/etc/passwd", "<script>alert(1)</script>", "](javascript:alert(1))", "=1+1", "\x00\x1b[2J",
           "\u202egnp", "$\\input{/etc/passwd}$", "{{7*7}}", "a" * 7000, "NaN", "-1", "9" * 400)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder with runs, and a secret outside of them."""
    base = tmp_path_factory.mktemp("attacked")
    write_run(base / "runs", "a")
    write_run(base / "runs", "b", "sequential", status="stopped", routed=False)
    (base / "secret.txt").write_text(SECRET)
    return base


def folders(lab: Path) -> dict[str, str]:
    return {"LAB_RUNS": str(lab / "runs"), "LAB_DATA": str(lab / "data")}


@pytest.fixture(scope="module")
def reader(lab):
    """A dashboard of the machine alone, read-only."""
    with dashboard(LAB_READ_ONLY="1", **folders(lab)) as address:
        yield address


@pytest.fixture(scope="module")
def guarded(lab):
    """A dashboard that others reach, with keys for its owner and its visitors."""
    with dashboard(
        "--allow-host", "lab.example.org", "--allow-host", "two.example.org", LAB_TOKEN=TOKEN, **folders(lab)
    ) as address:
        yield address


def ask(address: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
    """The answer to a request as it is written here, with its `text`."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.putrequest(method, path, skip_host="host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    answer.text = answer.read().decode(errors="replace")
    connection.close()
    return answer


def opens(address: str, **options: str) -> bool:
    """Whether a websocket opens and a page is drawn on it."""
    try:
        with visit(address, **options) as visitor:
            return bool(visitor.open("about").texts)
    except (InvalidStatus, ConnectionClosed, EOFError):
        return False


def digest(lab: Path) -> dict[str, str]:
    """What lies in the lab, but for the index of its runs, which reading rebuilds, and locks."""
    files = [path for path in lab.rglob("*") if path.is_file() and not re.match(r"\.(index|jobs\.lock|queue)", path.name)]
    return {str(path.relative_to(lab)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# -- in the default tests --------------------------------------------------------------------------------------------------


def test_names_and_pages_from_elsewhere(reader):
    """Rebinding, foreign origins, and sockets that other sites open; nothing may be framed and no answer shared with others."""
    for path in SERVED:
        for method in ("GET", "PUT", "OPTIONS", "DELETE"):
            for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
                answer = ask(reader, path, method, **headers)
                assert answer.status == 403 and "access-control-allow-origin" not in answer.headers, (path, method, headers)
                assert answer.headers["x-frame-options"] == "SAMEORIGIN" and answer.headers["x-content-type-options"] == "nosniff"
    for host in FOREIGN:
        assert ask(reader, "/", host=host).status in (400, 403), host
    assert ask(reader, "/", x_forwarded_host="evil.example", forwarded="host=evil.example").status == 200
    assert not opens(reader, origin="https://evil.example") and not opens(reader, origin="http://localhost:1")
    assert not opens(reader, origin="http://evil.example", host="evil.example") and opens(reader)


def test_nothing_outside_is_served(reader, lab):
    for start in (
        "/",
        "/media/",
        "/static/",
        "/app/static/",
        "/component/x/",
        "/_stcore/",
        "/_stcore/bidi-components/x/",
        "/jobs/",
    ):
        for out in (*OUT, *(quote(path, safe="") for path in OUT)):
            answer = ask(reader, start + out.format(lab / "secret.txt"))
            assert SECRET not in answer.text and answer.status in (200, 303, 307, 400, 403, 404), (start, out)
            assert "evil.example" not in (answer.headers["location"] or "")


def test_endpoints_that_tell_about_the_server_are_closed(reader):
    for path in ("/_stcore/metrics", "/_stcore/%6Detrics", "//_stcore/metrics", "/_stcore/metrics/", "/_stcore/./metrics",
                 "/_stcore/metrics?x=1", "/_stcore/metrics%3Fx", "/_stcore/script-health-check"):  # fmt: skip
        assert not re.search("session_events|cache_memory|# TYPE", ask(reader, path).text), path
    assert ask(reader, gate.HEALTH).text == "ok"


def may_upload(address: str) -> dict[str, str]:
    """The headers of an upload that the site itself sends."""
    token = re.search(r"_streamlit_xsrf=([^;]+)", ask(address, gate.HEALTH).headers["set-cookie"] or "")
    assert token, "no token of the site"
    return {"cookie": f"_streamlit_xsrf={token[1]}", "X-Xsrftoken": token[1]}


def test_files_are_taken_from_pages_alone(reader):
    """The route of uploads wants the session of a page and the token of its site, and no more than the limit."""
    with visit(reader) as visitor:
        session, own = visitor.open("about").session, may_upload(reader)
        path = f"/_stcore/upload_file/{session}/file"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}

        def form(size: int, name: str = "a") -> bytes:
            return (
                f'--x\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
                + bytes(size)
                + b"\r\n--x--\r\n"
            )

        assert ask(reader, path, "PUT", form(10), **kind).status == 403
        assert ask(reader, path, "PUT", form(10), **kind | own | {"X-Xsrftoken": "forged"}).status == 403
        assert ask(reader, "/_stcore/upload_file/forged/file", "PUT", form(10), **kind | own).status == 400
        assert ask(reader, path, "PUT", form(41 << 20), **kind | own).status == 413
        assert ask(reader, path, "PUT", form(10, "../../secret.txt"), **kind | own).status in (204, 400)
        taken = [ask(reader, f"{path}{number}", "PUT", form(10), **kind | own).status for number in range(gate.FILES + 3)]
        assert set(taken[: gate.FILES - 1]) == {204} and set(taken[-3:]) == {507}
        assert ask(reader, path, "DELETE", **own).status == 204
        assert ask(reader, path, "PUT", form(10), **kind | own).status == 204
    with visit(reader) as visitor:  # another visitor has room of his own
        assert (
            ask(reader, f"/_stcore/upload_file/{visitor.open('about').session}/file", "PUT", form(10), **kind | own).status == 204
        )


def test_few_uploads_at_once(reader):
    """Those that are slow to send their body hold a place each; one more is refused until one of them has ended."""
    place, slow = urlsplit(reader), []
    with visit(reader) as visitor:
        path = f"{gate.UPLOADS}{visitor.open('about').session}/"
        own = may_upload(reader) | {"Content-Type": "multipart/form-data; boundary=x"}
        head = "".join(f"{name}: {value}\r\n" for name, value in (own | {"Host": place.netloc, "Content-Length": "99"}).items())
        try:
            for number in range(gate.AT_ONCE):
                raw = socket.create_connection((place.hostname, place.port), timeout=20)
                raw.sendall(f"PUT {path}{number} HTTP/1.1\r\n{head}\r\n--x\r\n".encode())
                slow.append(raw)
            until = time.monotonic() + 20
            while (status := ask(reader, f"{path}more", "PUT", b"x", **own).status) != 503 and time.monotonic() < until:
                time.sleep(0.1)
            assert status == 503
        finally:
            for raw in slow:
                raw.close()
        while (status := ask(reader, f"{path}more", "PUT", b"x", **own).status) == 503 and time.monotonic() < until:
            time.sleep(0.1)
        assert status == 400  # no form, but there is room


def test_keys(guarded):
    keys = Keys(TOKEN)
    forged = ("", "wrong", TOKEN[:-1], TOKEN.upper(), keys.cookie, keys.visitor.upper(), "owner", "%00", "*")
    for path in (*SERVED, "/_stcore/health%3Fx", "/_stcore/health/../host-config", "/x%23/_stcore/health"):
        for value in forged:
            answer = ask(guarded, path, cookie=f"{keys.cookie}={value}")
            assert answer.status == 401 or path == gate.HEALTH, (path, value)
    assert not opens(guarded) and not any(opens(guarded, cookie=f"{keys.cookie}={value}") for value in forged)
    assert not opens(guarded, cookie=f"{keys.cookie}={keys.owner}", origin="https://evil.example")
    for host in (urlsplit(guarded).netloc, "lab.example.org", "two.example.org"):
        assert opens(guarded, cookie=f"{keys.cookie}={keys.visitor}", host=host, origin=f"http://{host}")
    link = ask(guarded, "/jobs?" + urlencode({"token": keys.owner}))
    assert link.status == 303 and {"HttpOnly", "SameSite=lax"} <= set(link.headers["set-cookie"].split("; "))


def test_odd_requests(reader):
    """Raw bytes: no answer but a refusal, and the server goes on."""
    place = urlsplit(reader)
    odd = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: local\x00host\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x00" * 20,
    ]
    for request in odd:
        refusals = [b"400", b"403", b"404", b"414", b"431", *([b"200"] if request.startswith(b"GET /a") else [])]  # the dashboard
        with socket.create_connection((place.hostname, place.port), timeout=20) as raw:
            raw.sendall(request)
            raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert not answer or answer.split(b" ", 2)[1] in refusals, (request[:60], answer[:80])
    assert ask(reader, gate.HEALTH).status == 200


# -- by hand ---------------------------------------------------------------------------------------------------------------


QUERIES = {  # beside the page as it opens
    "jobs": ("job=a", "job=b&tab=trash"),
    "library": ("lib_run=a", "lib_run=b"),
    "compare": tuple(urlencode({"runs": ["a", "b"], "cmp_view": view}, doseq=True) for view in VIEWS[1:]),
    "routing": tuple(urlencode({"rt_run": "a", "rt_view": view}) for view in ("Layers and heads", "What if", "All tasks")),
}


def use(widgets: dict, keys: dict[str, str], run: str) -> tuple[list[str], list[WidgetState]]:
    """All buttons, and a value for every other widget, whether the page lets it be used or not."""
    buttons, values = [], []
    for id, drawn in widgets.items():
        kind = type(drawn).__name__
        if kind == "Button":
            buttons.append(id)
        elif kind == "Checkbox":
            values.append(WidgetState(id=id, bool_value=not drawn.default))
        elif kind in ("TextInput", "TextArea") and not re.match("train|pg_", keys[id]):
            values.append(WidgetState(id=id, string_value=run))
    return buttons, values


@pytest.mark.attack
@pytest.mark.timeout(0)
@pytest.mark.parametrize("mode", ["reader", "guarded"])
def test_who_only_reads_changes_nothing(mode, request, lab):
    """Every button of every page is pressed over the socket, alone and with all others, with all switches on and every box filled
    in, and so are those that appear then."""
    address = request.getfixturevalue(mode)
    cookie = f"{Keys(TOKEN).cookie}={Keys(TOKEN).visitor}" if mode == "guarded" else ""
    before, pressed, filled = digest(lab), 0, 0
    with visit(address, cookie) as visitor:
        for page, query in [(name, query) for name in PAGES for query in ("", *QUERIES.get(name, ()))]:
            visitor.open(page, query)
            buttons, values = use(visitor.widgets, visitor.keys, "b" if "=b" in query else "a")
            done = set[str]()
            while new := [id for id in buttons if id not in done]:  # what dialogs hold appears once they are open
                for presses in ([], *([id] for id in new), buttons):
                    visitor.open(page, query, (*values, *(WidgetState(id=id, trigger_value=True) for id in presses)))
                    more, others = use(visitor.widgets, visitor.keys, "b" if "=b" in query else "a")
                    buttons = [*dict.fromkeys([*buttons, *more])]
                    values += [value for value in others if value.id not in {own.id for own in values}]
                done |= {*new}
            pressed, filled = pressed + len(done), filled + len(values)
            assert digest(lab) == before, (page, query)
            assert not visitor.errors, (page, query, visitor.errors)
    assert pressed > 30
    print(f"{mode}: {pressed} buttons pressed, {filled} other widgets used")


@pytest.mark.attack
@pytest.mark.timeout(0)
def test_links_hold_no_harm(reader, lab):
    """Hostile values for every name that a link of a page may hold: no traceback, nothing from outside, nothing executed."""
    asked = 0
    with visit(reader) as visitor:
        for page in PAGES:
            names = {*visitor.open(page).keys.values(), "job", "runs", "recipe", "o", "lesson", "token", "page"}
            for value in HOSTILE:
                visitor.open(page, urlencode(dict.fromkeys(sorted(names), value)))
                drawn = " ".join(visitor.texts)
                assert SECRET not in drawn and "root:" not in drawn and not visitor.errors, (page, value, visitor.errors)
                asked += len(names)
    print(f"{asked} values of links")


PAYLOADS = ('<img src=x onerror="window.hit=1">', "</script><script>window.hit=1</script>", "[x](javascript:window.hit=1)",
            '"><svg onload=window.hit=1>', '<a href="javascript:window.hit=1">x</a>', "$\\href{javascript:window.hit=1}{x}$",
            "=HYPERLINK(1)", "{{7*7}}")  # fmt: skip
HIT = """() => window.hit === 1 || document.querySelector('img[src="x"], [onload], [onerror], a[href^="javascript" i]') !== null
    || [...document.querySelectorAll('a')].some(link => /^javascript:/i.test(link.getAttribute('xlink:href') || ''))"""


def with_hostile_names(runs: Path) -> list[Run]:
    """Two runs in which everything that somebody else can name is made to be executed."""
    made = []
    for id, shift in (("a", 0), ("b", 1)):
        names = [*PAYLOADS[shift:], *PAYLOADS[:shift]]
        labels = [names[:2]] * 3
        run = write_run(runs, id, tasks=names[:3], texts=names[:2], labels=labels, status="failed" if shift else "finished")
        content = json.loads((run.dir / "run.json").read_text()) | {"error": " ".join(names), "owner": names[3]}
        (run.dir / "run.json").write_text(json.dumps(content))
        settings = yaml.safe_load((run.dir / "config.yaml").read_text())
        settings["recipe"], settings["stream"]["name"], settings["backbone"]["name"] = names[3:6]
        (run.dir / "config.yaml").write_text(yaml_text(settings))
        note = {"name": names[0], "text": "\n\n".join(names), "tags": [name[:40] for name in names], "starred": True}
        (run.dir / "notes.json").write_text(json.dumps(note))
        made.append(Run(run.dir))
    return made


@pytest.mark.attack
@pytest.mark.timeout(0)
@pytest.mark.skipif(CHROMIUM is None or playwright is None, reason="needs Chromium and playwright")
def test_names_execute_nothing(tmp_path, page):
    """In every page, the report, what a notebook shows, and a spreadsheet."""
    runs = with_hostile_names(tmp_path / "runs")
    both = "runs=a&runs=b"
    shown = [*PAGES, "jobs?job=a", "jobs?job=b", f"compare?{both}", "routing?run=a", "library?lib_run=a"]
    with dashboard(LAB_RUNS=str(tmp_path / "runs"), LAB_EXAMPLES=str(tmp_path / "examples")) as address:
        for name in shown:
            page.goto(f"{address}/{name}")
            page.get_by_role("heading", level=1).first.wait_for()
            settled(page)
            assert not any(frame.evaluate(HIT) for frame in page.frames), name
            print(
                f"{name or 'start'}: a name that would be executed stands there {page.inner_text('body').count('onerror')} times"
            )
    compared = side_by_side.Comparison(runs)
    notebook = "".join([compared._repr_html_(), *(run._repr_html_() for run in runs)])
    assert "onerror" in notebook and "onerror" in report.html(runs, {PAYLOADS[0]: PAYLOADS[1]})
    for content in (report.html(runs, {PAYLOADS[0]: PAYLOADS[1]}), f"<!doctype html><body>{notebook}"):
        (tmp_path / "shown.html").write_text(content)
        page.goto((tmp_path / "shown.html").as_uri())
        page.wait_for_timeout(2000)
        assert not page.evaluate(HIT)
    page.set_content(PAYLOADS[0])
    assert page.evaluate(HIT), "it would be noticed"
    cells = [cell for row in csv.reader(compared.text("csv").splitlines()) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell and not re.fullmatch(r"-?[0-9.e-]+", cell)]


@pytest.mark.attack
@pytest.mark.timeout(0)
def test_forged_ids(guarded, lab):
    """Every button that the owner sees, pressed by a visitor whose page has it not, and by the visitor in the owner's words."""
    keys, before, forged = Keys(TOKEN), digest(lab), 0
    with visit(guarded, f"{keys.cookie}={keys.owner}") as owner, visit(guarded, f"{keys.cookie}={keys.visitor}") as visitor:
        for page, query in ((name, query) for name in PAGES for query in ("", *QUERIES.get(name, ()))):
            owner.open(page, query)
            buttons, values = use(owner.widgets, owner.keys, "b" if "=b" in query else "a")
            visitor.open(page, query, (*values, *(WidgetState(id=id, trigger_value=True) for id in buttons)))
            for id in buttons:
                visitor.press(page, query, id)
            forged += len(buttons)
            assert digest(lab) == before and not visitor.errors, (page, query, visitor.errors)
    print(f"{forged} buttons of the owner pressed by a visitor")


def reading(address: str, until: float, seconds: list[float], errors: list[str]) -> None:
    """Somebody who opens page after page."""
    with visit(address) as visitor:
        while time.monotonic() < until:
            for page in PAGES:
                began = time.monotonic()
                visitor.open(page)
                seconds.append(time.monotonic() - began)
                time.sleep(1)  # looks at it
            errors += visitor.errors


@pytest.mark.attack
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("readers", "trained"), [(1, 0), (20, 2)])
def test_many_read_while_runs_train(lab, tmp_path, readers, trained):
    """Not one error; how long a view takes is printed, with the load of the machine."""
    recipe = [
        "run",
        "l2r",
        "--stream",
        "builtin",
        "-o",
        "backbone.name=tiny",
        "-o",
        "train.epochs=40",
        "--runs",
        str(lab / "runs"),
    ]
    training = [subprocess.Popen([sys.executable, "-m", "lab", *recipe, "-o", f"seed={seed}"], stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL) for seed in range(trained)]  # fmt: skip
    seconds, errors, until = list[float](), list[str](), time.monotonic() + float(os.environ.get("LAB_READING_S", "120"))
    with dashboard(**folders(lab)) as address, ThreadPoolExecutor(readers) as pool:
        visits = [pool.submit(reading, address, until, seconds, errors) for _ in range(readers)]
        for done in visits:
            done.result()
    assert all(process.poll() in (None, 0) for process in training) and not errors, errors
    for process in training:
        process.terminate()
        process.wait()
    seconds.sort()
    middle, p95 = seconds[len(seconds) // 2], seconds[int(0.95 * (len(seconds) - 1))]
    load = os.getloadavg()[0]
    print(f"{readers} readers, {trained} runs: {len(seconds)} views, median {middle:.2f} s, p95 {p95:.2f} s, load {load:.1f}")
