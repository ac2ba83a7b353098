from __future__ import annotations

from plugin.fixtures import other, project, tiny, warm_cache

__all__ = ["other", "project", "tiny", "warm_cache"]
