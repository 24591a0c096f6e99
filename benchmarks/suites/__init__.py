"""The suites: each module's ``cases(quick)`` lists what it measures."""

from . import attention, block, exchange, generate, growth, integrations, norm_rope, pointwise

SUITES = {
    "attention": attention,
    "pointwise": pointwise,
    "exchange": exchange,
    "norm_rope": norm_rope,
    "block": block,
    "integrations": integrations,
    "generate": generate,
    "growth": growth,
}
