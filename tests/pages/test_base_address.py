"""The address of the server stands in the HTML of pages, and in nothing else that is served."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from lab.pages.base_address import BASE, BaseAddress

PAGE = "<!DOCTYPE html><html><head><title>é</title></head></html>"


def asked(path: str, answer: Response, method: str = "GET"):
    routes = [Route(path, lambda request: answer, methods=["GET"])]
    app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware, minimum_size=1)])
    return TestClient(BaseAddress(app)).request(method, path)


def test_a_page_tells_the_address_first():
    for answer in (HTMLResponse(PAGE), StreamingResponse(iter([PAGE[:20], PAGE[20:]]), media_type="text/html")):
        page = asked("/jobs", answer)
        assert page.text == PAGE.replace("<head>", "<head>" + BASE.decode())
        assert page.headers["content-length"] == str(len(page.content))


@pytest.mark.parametrize(
    ("path", "answer", "method"),
    [
        ("/media/report.html", HTMLResponse(PAGE), "GET"),  # what somebody downloads stays as it is
        ("/jobs", HTMLResponse(PAGE, 404), "GET"),
        ("/jobs", HTMLResponse(PAGE), "HEAD"),
        ("/_stcore/health", PlainTextResponse(PAGE), "GET"),
    ],
)
def test_everything_else_passes_as_it_is(path, answer, method):
    assert asked(path, answer, method).content == (b"" if method == "HEAD" else PAGE.encode())
