"""What an HTTP library costs: the time of its import, and that of one request between the socket and the engine.

    pip install fastapi          # brings Starlette; Brigade needs neither
    python -m benchmarks.http_libraries

Each application reads the same chat request, checks its fields and answers with the same object. No socket and no engine takes
part. The least of many runs counts, since everything else only adds to it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

SERVER = "import uvicorn.protocols.http.httptools_impl, uvicorn.server"
IMPORTS = {
    "Python alone": "pass",
    "uvicorn with httptools": SERVER,
    "the same and Starlette": f"{SERVER}, starlette.applications, starlette.routing",
    "the same and FastAPI": f"{SERVER}, fastapi",
}
BODY = {
    "model": "mini", "messages": [{"role": "user", "content": "sort a list"}] * 4, "max_tokens": 32, "temperature": 0.7,
    "top_p": 0.9, "stop": ["\n"], "stream": False, "user": "me",
}  # fmt: skip
ANSWER = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "a" * 200}}]}


def least(run: Any, times: int) -> float:
    found = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        run()
        found = min(found, time.perf_counter() - begun)
    return found


def plain() -> Any:
    """As `brigade/serve` does it."""
    from brigade.serve.chat import ChatBody
    from brigade.serve.exchange import read_all, send_json
    from brigade.serve.fields import convert, read_json
    from brigade.serve.limits import Limits

    limits = Limits()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        convert(read_json(await read_all(receive, dict(scope["headers"]), limits)), ChatBody).check()
        await send_json(send, 200, ANSWER)

    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from brigade.serve.chat import ChatBody
    from brigade.serve.fields import convert, read_json

    async def chat(request: Any) -> Any:
        convert(read_json(await request.body()), ChatBody).check()
        return JSONResponse(ANSWER)

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def fastapi() -> Any:
    import fastapi as library
    from pydantic import BaseModel, create_model

    app = library.FastAPI()
    kinds: dict[str, Any] = {name: (type(value) | None, None) for name, value in BODY.items()}
    body: type[BaseModel] = create_model("Body", **kinds)

    async def chat(found: Any) -> Any:
        return ANSWER

    chat.__annotations__ = {"found": body}
    app.post("/v1/chat/completions")(chat)
    return app


def request_seconds(app: Any, requests: int = 2000) -> float:
    data = json.dumps(BODY).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b"",
        "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions", "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000), "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))],
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": data, "more_body": False}

    async def run() -> None:
        async def send(message: Any) -> None:
            assert message.get("status", 200) == 200

        for _ in range(requests):
            await app(dict(scope), receive, send)

    return least(lambda: asyncio.run(run()), 5) / requests


def main() -> None:
    imported = dict.fromkeys(IMPORTS, float("inf"))
    for _ in range(15):  # in turn, so that a slow minute is everybody's
        for name, code in IMPORTS.items():
            imported[name] = min(imported[name], least(lambda: subprocess.run([sys.executable, "-c", code], check=True), 1))  # noqa: B023
    for name, seconds in imported.items():
        print(f"{name:30} {seconds * 1000:6.0f} ms")
    for name, make in {"plain ASGI and msgspec": plain, "Starlette and msgspec": starlette, "FastAPI": fastapi}.items():
        print(f"{name:30} {request_seconds(make()) * 1e6:6.0f} µs a request")


if __name__ == "__main__":
    main()
