"""Small pieces go out at once: without TCP_NODELAY each token behind the first may wait 40 ms for the client's acknowledgement."""

from __future__ import annotations

import asyncio
import socket

from brigade.serve.server import bind


def test_connections_of_the_listener_do_not_wait_for_more() -> None:
    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made = writer.get_extra_info("socket")
            found.set_result(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                return await asyncio.wait_for(found, 5)
            finally:
                writer.close()

    assert asyncio.run(accepted())
