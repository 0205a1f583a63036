"""An MCP server for the tests of its client: argv is "stdio", or "http" and a port."""

import os
import sys
import time

from mcp.server.mcpserver import Image, MCPServer
from mcp.types import EmbeddedResource, ResourceLink, TextContent, TextResourceContents

server = MCPServer("Test server", instructions="Tools for tests.")


@server.tool()
def add(a: int, b: int = 2) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def fail(text: str) -> str:
    """Fail with a text."""
    raise ValueError(text)


@server.tool()
def sleep() -> str:
    """Sleep for ever."""
    time.sleep(1000)
    return ""


@server.tool()
async def die() -> str:
    """End the server."""
    os._exit(1)


@server.tool()
def mixed() -> list:
    """Answer with content of all kinds."""
    text = TextResourceContents(uri="test://text", text="inside")
    return [
        TextContent(text="words"),
        Image(data=b"\x89PNG", format="png"),
        EmbeddedResource(resource=text),
        ResourceLink(name="elsewhere", uri="test://link"),
    ]


@server.tool()
def nothing() -> list:
    """Answer nothing."""
    return []


@server.tool()
def environment(name: str) -> str:
    """Return a variable."""
    return os.environ.get(name, "none")


if sys.argv[1] == "http":
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
else:
    server.run("stdio")
