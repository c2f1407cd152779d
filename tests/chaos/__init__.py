"""Chaos: the real daemon between a real broker and a simulated exchange, with everything going wrong around it.

    __main__ → run → schedule, faults, verdict → stage → proxy, wallclock, process

One seed is one story: which faults come when, when positions are in danger, what money moves. The verdict holds what a
careful consumer has heard against what was true.
"""
