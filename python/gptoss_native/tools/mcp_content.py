"""What an MCP server answers, as text for a model."""

import json
from typing import Any


def text_of(result: Any) -> str:
    """Return a result's content, each part as a text."""
    parts = [_part(part) for part in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return "\n".join(parts)


def _part(part: Any) -> str:
    if part.type == "text":
        return part.text
    if part.type == "resource_link":
        return f"[resource {part.name}: {part.uri}]"
    if part.type == "resource":
        text = getattr(part.resource, "text", None)
        if text is not None:
            return text
        return f"[resource {part.resource.uri}: binary, not shown]"
    kind = getattr(part, "mime_type", "")
    return f"[{' '.join((part.type, kind)).strip()}: not shown]"
