"""The only part of the flow that awaits, reads a clock, opens a socket or a file."""
