"""The checks, by subject. Each is `async def check_...(world)` and calls `world.middle()` while something is in flight."""
