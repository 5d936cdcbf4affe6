"""A seeded monkey harms a working platform; afterwards a ledger of what was acknowledged holds."""
