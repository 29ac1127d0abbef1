"""Counts tenths of a second in its own memory, and says how far it is whenever it is asked.

A process of its own, so that a suspend and a resume must preserve more than the web server: each line
on standard input is answered with the count on standard output. Ends when its standard input does.
"""

import select
import sys
import time

INTERVAL_SECONDS = 0.1


def main():
    ticks = 0
    due = time.monotonic() + INTERVAL_SECONDS
    while True:
        wait = max(due - time.monotonic(), 0)
        if select.select([sys.stdin], [], [], wait)[0]:
            if not sys.stdin.readline():
                return
            print(ticks, flush=True)
        if time.monotonic() >= due:
            ticks += 1
            due += INTERVAL_SECONDS


if __name__ == "__main__":
    main()
