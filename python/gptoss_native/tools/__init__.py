"""Tools that a model calls: functions, MCP servers, and the two that it was trained with."""
