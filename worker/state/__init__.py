"""The to-do list in Redis: one module per part of the state, one Lua script per atomic step."""
